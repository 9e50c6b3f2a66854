"""TorchScript, by scripting or tracing."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipeline.errors import ExportError, WeighbridgeError
from pipeline.formats import forward
from pipeline.formats.artifact import Written
from pipeline.formats.format import FromNetwork, Options
from pipeline.formats.torchscript import canonical, safety

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from pipeline.formats.forward import Forward


class TorchScriptOptions(Options):
    """Options of a TorchScript export."""

    method: Literal["auto", "script", "trace"] = Field(
        "auto", description="script keeps control flow; trace records one run; auto scripts, and traces if that fails"
    )


def export(origin: FromNetwork, options: Options) -> Written:
    """Write a TorchScript archive.

    Raises:
        ExportError: torch.jit refuses the network.
    """
    assert isinstance(options, TorchScriptOptions)  # noqa: S101 - the table pairs them
    prepared = forward.prepare(origin.module, origin.interface, origin.examples)
    with warnings.catch_warnings():
        # Still what libtorch and Triton's PyTorch backend load; the release says how it was made.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is deprecated", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is not supported", category=DeprecationWarning)
        raw = origin.target.with_name("raw.torchscript")
        method, notes = _save(prepared, options.method, raw)
    canonical.from_file(raw, origin.target, identity=origin.identity)
    raw.unlink()
    _require_openable(origin.target)
    return Written((origin.target,), {"method": method, "inputs": list(prepared.names)}, notes)


def _require_openable(target: Path) -> None:
    """Raise ExportError for an archive that nobody would open from a release, where digests do not say who made it."""
    try:
        safety.require_inert(target)
    except WeighbridgeError as error:
        raise ExportError(
            f"torchscript: {error.message}", hint="leave `torchscript` out of `exports`: no release of it would open"
        ) from error


def _save(prepared: Forward, method: str, raw: Path) -> tuple[str, tuple[str, ...]]:
    """Write the module to `raw`, by `method`; return the method that it came to, and why."""
    if method == "trace":
        _trace(prepared).save(str(raw))
        return "trace", ()
    try:
        _save_scripted(prepared, raw)
    except ExportError as error:
        if method == "script":
            raise
        reason = error.message.splitlines()[0]
        _trace(prepared).save(str(raw))
        return "trace", (f"traced, because it cannot be scripted: {reason}",)
    return "script", ()


def _save_scripted(prepared: Forward, raw: Path) -> None:
    import torch

    try:
        scripted: torch.jit.ScriptModule = torch.jit.script(prepared.module)
        with torch.inference_mode():
            scripted(*prepared.tensors)
        scripted.save(str(raw))  # what compiles cannot always be saved
    except Exception as error:
        raise ExportError(f"torch.jit.script: {_first_line(error)}", hint="set `method: trace`") from error


def _trace(prepared: Forward) -> Any:
    import torch

    try:
        with torch.no_grad():
            return torch.jit.trace(prepared.module, prepared.tensors, check_trace=False)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ExportError(
            f"torch.jit.trace: {_first_line(error)}", hint="leave `torchscript` out of `exports`"
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" :")]
    return lines[0].rstrip(":") if lines else type(error).__name__
