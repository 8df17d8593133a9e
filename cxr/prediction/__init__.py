"""A finished model, applied: to images of a user's, row by row, and explained."""
