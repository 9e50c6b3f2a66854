"""The stages of a run, a file each: what it needs, what it adds."""
