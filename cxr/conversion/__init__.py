"""From image folders to verified, patient-split TFRecord sets."""
