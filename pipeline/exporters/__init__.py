"""A file a format, one table."""
