"""Synthetic chest films with known opacities."""
