"""Converts image folders to verified TFRecord sets, split by patient."""
