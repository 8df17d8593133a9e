"""Applies a finished model to a user's images, row by row, and explains it."""
