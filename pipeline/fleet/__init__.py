"""Many configs, many releases, many machines."""
