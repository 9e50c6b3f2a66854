"""A file a way to run, one table."""
