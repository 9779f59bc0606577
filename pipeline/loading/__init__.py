"""Deterministic batches of a shard set."""
