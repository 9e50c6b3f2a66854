"""Releases under other versions of what runs and builds them."""
