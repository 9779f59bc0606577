"""The format of a shard set on disk: plan, columns, tables, sums, and their verification."""
