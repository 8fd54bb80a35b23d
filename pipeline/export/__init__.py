"""A run's tables in the forms that other programs read, streamed: memory holds some shards, never a table."""
