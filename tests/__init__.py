"""The tests. A job that is done in this process is to compute as it does in a worker: with the same instructions.

Libraries read them from the environment, once; afterwards it is as it was, so that workers get nothing that a user's do not.
"""

import os

from pipeline.parity.oracle import ENVIRONMENT

_BEFORE = {name: os.environ.get(name) for name in ENVIRONMENT}
os.environ.update(ENVIRONMENT)

import torch  # noqa: E402 - reads what was set above

torch.nn.functional.conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2)) @ torch.ones(3, 3)
for _name, _value in _BEFORE.items():
    if _value is None:
        del os.environ[_name]
    else:
        os.environ[_name] = _value
