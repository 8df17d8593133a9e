"""What predictions are worth, in numbers alone: no TensorFlow, no files of a run."""
