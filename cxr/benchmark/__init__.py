"""How fast each stage is, and what limits the whole."""
