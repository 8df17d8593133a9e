"""Formats numbers, plots and HTML pages."""
