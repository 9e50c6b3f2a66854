"""`python -m pipeline.commands` is `weighbridge`."""

from pipeline.commands.app import run

run()
