"""Measurements that are run by hand: they take minutes, or a quiet machine."""
