"""Error budget, comparison, culprit."""
