"""A folder a format: everything that knows that format, behind one record; one table."""
