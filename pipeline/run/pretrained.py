"""Write a config for a folder that Hugging Face's `save_pretrained` wrote, without a line of code by the user."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ArchitectureError, InputError, UnsafeError, command
from pipeline.rebuild import cases, trust
from pipeline.run.init import Draft, config_text, flow, target_of
from pipeline.run.jobs import InferPretrained
from pipeline.storage.store import atomic_write
from pipeline.weights import pretrained, read
from pipeline.weights.verified import weights_digest
from pipeline.worker.process import LOCAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.interface import Interface
    from pipeline.run.init import Request
    from pipeline.weights.pretrained import Pretrained

PACKAGE = "transformers"
TIMEOUT_S = 600.0
_FEW_ELEMENTS = 512


def init(request: Request, output: Path | None, *, force: bool = False) -> Draft:
    """Write a config for the folder `request.weights` and return it.

    `request.architecture` is a network of transformers, "" for the one that config.json names.

    Raises:
        WeightsError, UnsafeError, ArchitectureError: the folder or the network is not to be used, or not there.
        InputError: what it takes could not be found out, or the config is there already.
    """
    found = pretrained.read(request.weights)
    architecture = request.architecture or f"{PACKAGE}:{_saved(found)}"
    told = replace(request, weights=found.weights, architecture=architecture, title=found.folder.resolve().name)
    target = target_of(told.name, output, force=force)
    prefixes = trust.trusted_prefixes(Path.cwd(), request.trust)
    _require_trust(architecture, prefixes, found.folder)
    header = read.require_state_dict(found.weights, max_bytes=request.max_bytes)
    wanted = InferPretrained(
        folder=found.folder, architecture=architecture, prefixes=prefixes, json_file=_named_from(target, found)
    )
    with LOCAL.start("the network", threads=1, modules=("torch", InferPretrained.__module__)) as worker:
        inferred = worker.call(wanted, timeout_s=TIMEOUT_S)
    if inferred.inputs.interface is None:
        raise InputError(
            f"what {architecture} takes could not be found out: {inferred.inputs.reason}",
            hint="write a config by hand, as configs/minilm.yaml is",
        )
    text = config_text(told, target, inferred, inferred.inputs.interface, weights_digest(found.weights, header))
    text += _further(found, inferred.inputs.interface, target)
    atomic_write(target, text.encode())
    return Draft(target, text, tuple(inferred.inputs.comments))


def _saved(found: Pretrained) -> str:
    """Return the class that was saved; raises ArchitectureError where config.json does not say, or its code came with the folder."""
    place = found.folder / pretrained.CONFIG
    if "auto_map" in found.config:
        raise ArchitectureError(
            f"{place} takes its network from code that came with the folder (auto_map), which is not run",
            hint="write a module of your own that imports it, and name it: --architecture MODULE:NAME --trust MODULE",
        )
    if found.architecture is None:
        raise ArchitectureError(
            f"{place} does not say which network was saved (architectures)",
            hint=f"name it: --architecture {PACKAGE}:NAME",
        )
    return found.architecture


def _require_trust(architecture: str, prefixes: Sequence[str], folder: Path) -> None:
    """Locate the network without importing anything; say the whole command where transformers is not trusted."""
    try:
        trust.locate(architecture, prefixes)
    except UnsafeError as error:
        raise UnsafeError(
            error.message, hint=f"if you trust it: {command('init', folder, '--trust', PACKAGE)}", about=error.about
        ) from error


def _named_from(target: Path, found: Pretrained) -> str | None:
    """Return config.json as a config there may name it: below its own folder; None where it lies elsewhere."""
    try:
        return (found.folder / pretrained.CONFIG).resolve().relative_to(target.resolve().parent).as_posix()
    except ValueError:
        return None


def _beside(found: Pretrained, target: Path) -> list[str]:
    """Return what belongs to the network as a config names it, config.json with the names of its classes among it."""
    folder = target.resolve().parent
    return [
        Path(os.path.relpath(each.resolve(), folder)).as_posix()
        for each in (found.folder / pretrained.CONFIG, *found.beside)
    ]


def _further(found: Pretrained, interface: Interface, target: Path) -> str:
    """Return what such a config says beside the usual: inputs of a bearable size, and the licence that the model card states."""
    lines = [
        "# The most elements that an input of a case has; the largest sizes are tried one by one.",
        f"parity: {{cap_elements: {max(_FEW_ELEMENTS, 2 * cases.fewest_elements(interface))}}}",
        "",
    ]
    release = {"license": found.license, "beside": _beside(found, target)}
    if stated := {name: each for name, each in release.items() if each}:
        lines += [f"release: {flow(stated)}", ""]
    return "\n".join(lines)
