"""Measures how fast each part of training is, and names what limits the whole."""
