"""Console, Markdown and JSON."""
