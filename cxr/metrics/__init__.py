"""What predictions are worth, in numbers alone: no TensorFlow, no run folder."""
