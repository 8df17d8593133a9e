"""What is measured or tried by hand: it takes minutes, or a quiet machine."""
