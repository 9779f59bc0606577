"""A shard set in the forms that other programs read."""
