"""A weights file: what it is, and how to read it safely."""
