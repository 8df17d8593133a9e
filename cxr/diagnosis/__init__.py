"""Looks at the machine: what is here, what is missing, what will be slow."""
