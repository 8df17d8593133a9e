"""Writes a finished model in formats that others load, checked before published."""
