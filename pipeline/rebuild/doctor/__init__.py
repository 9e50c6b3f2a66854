"""Why weights do not fit a network, and what would mend it."""
