"""Draws synthetic chest films with known opacities."""
