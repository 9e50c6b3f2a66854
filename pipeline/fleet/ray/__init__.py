"""Exports on a cluster of Ray's: a task a config, sent with everything that it needs, and everything that comes of it taken in."""
