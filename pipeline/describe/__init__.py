"""What a person reads and sees of a shard set."""
