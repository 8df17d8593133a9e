"""Applies a finished model to images, writes rows, and explains them."""
