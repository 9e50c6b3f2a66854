"""Files on disk: digests, canonical JSON, locks, atomic directories, the cache."""
