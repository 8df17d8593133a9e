"""Decodes grey baseline JPEG several images at a time; optional, needs Numba."""
