"""What stands beside an engine: for which GPU, driver and TensorRT it was built, and its digest; read before it is opened.

TensorRT's plan has no documented header, and an engine of another GPU fails late or runs slowly: "engines are not portable across
GPU models or TensorRT versions" (https://docs.nvidia.com/deeplearning/tensorrt/latest/, Version and Hardware Compatibility).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import UnavailableError, UnsafeError
from pipeline.storage.store import canonical_json, digest_file, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SUFFIX = ".json"
BOUND_TO = ("tensorrt", "device")
AGAIN = "export it again on this machine"


def beside(engine: Path) -> Path:
    """Return where it stands: model.plan.json beside model.plan."""
    return engine.with_name(engine.name + SUFFIX)


def write(engine: Path, facts: Mapping[str, Any]) -> Path:
    """Write it beside an engine."""
    path = beside(engine)
    path.write_bytes(canonical_json({**facts, "sha256": digest_file(engine)}))
    return path


def read(engine: Path) -> dict[str, Any]:
    """Return what is stated of an engine.

    Raises:
        UnsafeError: nothing is, or it is stated of another file.
    """
    path = beside(engine)
    try:
        stated = read_json(path)
    except (OSError, ValueError) as error:
        raise UnsafeError(
            f"{engine.name}: {path.name} does not say what it was built for ({error})"[:300], hint="do not open it"
        ) from error
    if not isinstance(stated, dict) or not all(isinstance(stated.get(name), str) for name in (*BOUND_TO, "sha256")):
        told = f"{engine.name}: {path.name} names no {', '.join((*BOUND_TO, 'sha256'))}"
        raise UnsafeError(told, hint="do not open it")
    if stated["sha256"] != digest_file(engine):
        raise UnsafeError(f"{engine.name} is not the file that {path.name} was written for", hint="do not open it")
    return stated


def require_here(engine: Path, here: Mapping[str, str]) -> dict[str, Any]:
    """Return what is stated of an engine that was built for what is here: TensorRT's version, and the device with its driver.

    Raises:
        UnavailableError: it was built for another one; both are named.
        UnsafeError: nothing tells.
    """
    stated = read(engine)
    for name in BOUND_TO:
        if stated[name] != here[name]:
            raise UnavailableError(
                f"{engine.name} was built for {name} {stated[name]}, and here is {here[name] or 'none'}", hint=AGAIN
            )
    return stated
