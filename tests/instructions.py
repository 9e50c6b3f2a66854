"""Have torch choose its instructions as in the process of the oracle."""

import os

from pipeline.parity.oracle import ENVIRONMENT


def settle() -> None:
    """Import torch and have it read, once, what it reads from the environment, which is as it was afterwards: workers get what a user's do."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    import torch

    torch.nn.functional.conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2)) @ torch.ones(3, 3)
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
