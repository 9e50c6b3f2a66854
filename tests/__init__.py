"""The tests. A job that is done in this process is to compute as it does in a worker: with the same instructions."""

import sys

if "pytest" in sys.modules:  # not in a worker that does a job of the tests: it needs no torch for that
    from tests import instructions

    instructions.settle()
