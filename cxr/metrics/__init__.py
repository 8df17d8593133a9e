"""Computes metrics, intervals and thresholds of predictions with numpy alone."""
