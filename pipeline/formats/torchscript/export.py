"""TorchScript, by scripting or tracing."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from pipeline.errors import ExportError, WeighbridgeError
from pipeline.formats import forward, refusal
from pipeline.formats.artifact import Written
from pipeline.formats.deep import with_room
from pipeline.formats.torchscript import canonical, safety
from pipeline.formats.torchscript.options import TorchScriptOptions

if TYPE_CHECKING:
    import torch

    from pipeline.formats.format import FromNetwork, Options
    from pipeline.formats.forward import Forward


def export(origin: FromNetwork, options: Options) -> Written:
    """Write a TorchScript archive.

    Raises:
        ExportError: torch.jit refuses the network.
    """
    assert isinstance(options, TorchScriptOptions)  # noqa: S101 - the table pairs them
    return with_room(origin.module, lambda: _written(origin, options.method))


def _written(origin: FromNetwork, method: str) -> Written:
    prepared = forward.prepare(origin.module, origin.interface, origin.examples)
    with warnings.catch_warnings():
        # Still what libtorch and Triton's PyTorch backend load; the release says how it was made.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is deprecated", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is not supported", category=DeprecationWarning)
        method, notes, refused = _save(prepared, method, origin)
    return Written((origin.target,), {"method": method, "inputs": list(prepared.names)}, notes, refused=refused)


def _save(prepared: Forward, method: str, origin: FromNetwork) -> tuple[str, tuple[str, ...], str]:
    """Write the module to the target, by `method`; return the method that it came to, and why."""
    if method == "trace":
        _keep_traced(prepared, origin)
        return "trace", (), ""
    try:
        _keep_scripted(prepared, origin)
    except ExportError as error:
        if method == "script":
            raise
        reason = error.message.splitlines()[0]
        try:
            _keep_traced(prepared, origin)
        except ExportError as second:
            raise ExportError(f"{reason}; {second.message}", hint=second.hint) from error
        return "trace", (f"traced, because it cannot be scripted: {reason}",), reason
    return "script", (), ""


def _keep(module: Any, origin: FromNetwork) -> None:
    """Save a module in its canonical form; raise ExportError for an archive that nobody would open from a release.

    There digests do not say who made it.
    """
    raw = origin.target.with_name("raw.torchscript")
    module.save(str(raw))
    canonical.from_file(raw, origin.target, identity=origin.identity)
    raw.unlink()
    try:
        safety.require_inert(origin.target)
    except WeighbridgeError as error:
        raise ExportError(
            f"torchscript: {error.message}", hint="leave `torchscript` out of `exports`: no release of it would open"
        ) from error


def _keep_scripted(prepared: Forward, origin: FromNetwork) -> None:
    import torch

    try:
        scripted: torch.jit.ScriptModule = torch.jit.script(prepared.module)
        with torch.inference_mode():
            scripted(*prepared.tensors)
        _keep(scripted, origin)  # what compiles cannot always be saved
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"torch.jit.script: {_first_line(error)}", hint="set `method: trace`") from error


def _keep_traced(prepared: Forward, origin: FromNetwork) -> None:
    try:
        _keep(_trace(prepared), origin)
    except RuntimeError as error:  # what is traced cannot always be saved
        raise ExportError(
            f"torch.jit.trace: {_first_line(error)}", hint="leave `torchscript` out of `exports`"
        ) from error


def _trace(prepared: Forward) -> Any:
    import torch

    try:
        with torch.no_grad():
            return torch.jit.trace(prepared.module, prepared.tensors, check_trace=False)  # type: ignore[no-untyped-call]
    except Exception as error:
        refused = refusal.refused("torch.jit.trace", error, prepared.module)
        raise ExportError(refused.message, hint=refused.hint or "leave `torchscript` out of `exports`") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" :")]
    return lines[0].rstrip(":") if lines else type(error).__name__
