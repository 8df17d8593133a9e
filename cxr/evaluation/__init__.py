"""Evaluates finished runs on a split: numbers, pictures, a report."""
