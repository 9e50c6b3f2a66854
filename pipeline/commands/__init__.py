"""The command line, a file a command: parse, call, print. No logic here, and nothing heavy imported before a command runs.

These files do without `from __future__ import annotations`: typer reads the annotations, so what they name must be imported.
"""
