"""From shards to augmented batches."""
