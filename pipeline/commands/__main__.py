"""`python -m pipeline.commands` is `weighbridge`."""

from pipeline.commands.app import main

main()
