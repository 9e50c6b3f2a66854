"""What takes a C++ compiler ten seconds or more: left out unless asked for (`make test-compiled`)."""

from __future__ import annotations

import os

import pytest

ASKED = "WEIGHBRIDGE_TEST_COMPILED"
BACKENDS = frozenset({"torch-compile", "aotinductor-cpu"})
"""Backends that compile C++ before their first answer, or run what was compiled."""


def skip_unless_asked(backend: str) -> None:
    """Skip a test of a backend that compiles, in the suite that has to be fast."""
    if backend in BACKENDS and not os.environ.get(ASKED):
        pytest.skip(f"{backend} compiles C++ for ten seconds or more: make test-compiled")
