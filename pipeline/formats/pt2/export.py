"""An exported program, as torch.export.save writes it, in a canonical form."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

from pipeline.errors import ExportError, WeighbridgeError
from pipeline.formats import capture, forward, program, zipped
from pipeline.formats.artifact import Written
from pipeline.formats.deep import with_room
from pipeline.formats.pt2 import safety
from pipeline.formats.pt2.archive import EXAMPLES, MODEL
from pipeline.storage.store import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.formats.format import FromNetwork, Options
    from pipeline.formats.forward import Forward

_LEAVE_OUT = "leave `pt2` out of `exports`"


def export(origin: FromNetwork, _: Options) -> Written:
    """Write an exported program with named sizes; where torch refuses these, with sizes that it finds the ranges of itself.

    Raises:
        ExportError: torch.export refuses the network, captures less than the config declares, or cannot save it.
    """
    return with_room(origin.module, lambda: _written(origin))


def _written(origin: FromNetwork) -> Written:
    prepared = forward.prepare(origin.module, origin.interface, origin.examples)
    try:
        method, captured = "named sizes", capture.named(prepared, origin.interface)
    except ExportError as error:
        if not origin.interface.dimensions:
            raise
        try:
            method, captured = "sizes found by torch", capture.wide(prepared, origin.interface)
        except ExportError as second:
            raise second from error
    values = program.as_values(captured) | {"captured": True}
    _save(captured, prepared, origin)
    return Written((origin.target,), {"method": method, "inputs": list(prepared.names)}, program=values)


def _save(captured: Any, prepared: Forward, origin: FromNetwork) -> None:
    """Save a program in its canonical form; raise ExportError for one that nobody would open from a release."""
    import torch

    raw = origin.target.with_name("raw.pt2")
    captured._example_inputs = None  # noqa: SLF001 - a pickle of the example's values, which nobody needs
    try:
        torch.export.save(captured, raw)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ExportError(f"torch.export.save: {reason[:300]}", hint=_LEAVE_OUT) from error
    named = {"inputs": list(prepared.names), "outputs": list(origin.interface.outputs)}
    canonical(raw, origin.target, identity={**origin.identity, **named})
    raw.unlink()
    try:
        safety.require_inert(origin.target)
    except WeighbridgeError as error:
        raise ExportError(f"pt2: {error.message}", hint=f"{_LEAVE_OUT}: no release of it would open") from error


def canonical(source: Path, target: Path, *, identity: Mapping[str, Any]) -> None:
    """Write an archive's canonical form: without what is random, example inputs, and lines of source with their paths.

    Of what a node tells of itself, the modules that it stands in are kept.
    """
    with zipfile.ZipFile(source) as archive:
        entries = zipped.below_root(archive)
        if entries is None or MODEL not in entries:
            raise ExportError("this archive is not what torch.export.save writes", hint=_LEAVE_OUT)
        model = json.loads(archive.read(entries[MODEL]))
        _strip(model)
        added = {
            MODEL: json.dumps(model, separators=(",", ":"), sort_keys=True).encode(),
            EXAMPLES: b"",
            f"extra/{zipped.IDENTITY_FILE}": canonical_json(dict(identity)),
        }
        kept = {name: info for name, info in entries.items() if name != zipped.RANDOM}
        zipped.write(target, "archive", archive, {**kept, **added})


def _strip(value: Any) -> None:
    """Leave of each node's metadata what names no machine; of the program's own nothing."""
    if isinstance(value, dict):
        told = value.get("metadata")
        if isinstance(told, dict):
            value["metadata"] = {key: each for key, each in told.items() if key in safety.TOLD}
        for each in value.values():
            _strip(each)
    elif isinstance(value, list):
        for each in value:
            _strip(each)
