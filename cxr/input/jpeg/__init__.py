"""Grey baseline JPEG decoded several at a time, where Numba is installed."""
