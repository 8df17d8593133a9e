"""From a run and a split to numbers, pictures and a report."""
