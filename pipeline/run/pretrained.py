"""Write a config for a folder that Hugging Face's `save_pretrained` wrote, without a line of code by the user."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ArchitectureError, InputError, UnsafeError, command
from pipeline.rebuild import auto, cases, trust
from pipeline.rebuild.decoders import STEP
from pipeline.run.init import Draft, config_text, flow, target_of
from pipeline.run.inspect import require_new
from pipeline.run.jobs import InferPretrained, SavePretrained
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
_IMAGES = 4
_LOGITS = "logits"
_UNNAMED = re.compile(r"LABEL_\d+")  # what transformers writes where nobody named them


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a config for such a folder is to be for.

    `with_cache`: one step of a decoder, with what was computed before as inputs and outputs. `save_weights`: a new safetensors file
    for the weights as transformers has them in memory, which the config then takes.
    """

    with_cache: bool = False
    save_weights: Path | None = None


def init(request: Request, output: Path | None, *, force: bool = False, wishes: Wishes = Wishes()) -> Draft:
    """Write a config for the folder `request.weights` and return it.

    `request.architecture` is a network of transformers, "" for the one that config.json names.

    Raises:
        WeightsError, UnsafeError, ArchitectureError: the folder or the network is not to be used, or not there.
        InputError: what it takes could not be found out, or the config or the file for the weights is there already.
    """
    found = pretrained.read(request.weights)
    auto.require_none(request.architecture, found.folder)
    architecture = request.architecture or f"{PACKAGE}:{_saved(found)}"
    weights = wishes.save_weights or found.weights
    told = replace(
        request,
        weights=weights,
        architecture=STEP if wishes.with_cache else architecture,
        title=found.folder.resolve().name,
    )
    target = target_of(told.name, output, force=force)
    prefixes = trust.trusted_prefixes(Path.cwd(), request.trust)
    _require_trust(architecture, prefixes, found.folder)
    read.require_state_dict(found.weights, max_bytes=request.max_bytes)
    if wishes.save_weights is not None:
        _save(found, architecture, prefixes, request.max_bytes, wishes.save_weights)
    wanted = InferPretrained(
        folder=found.folder,
        architecture=architecture,
        prefixes=prefixes,
        json_file=_named_from(target, found),
        with_cache=wishes.with_cache,
        again="" if wishes.save_weights else _saving(request, output, wishes, told.name),
    )
    with LOCAL.start("the network", threads=1, modules=("torch", InferPretrained.__module__)) as worker:
        inferred = worker.call(wanted, timeout_s=TIMEOUT_S)
    if inferred.inputs.interface is None:
        raise InputError(
            f"what {architecture} takes could not be found out: {inferred.inputs.reason}",
            hint="write a config by hand, as configs/minilm.yaml is",
        )
    header = read.require_state_dict(weights, max_bytes=request.max_bytes)
    text = config_text(told, target, inferred, inferred.inputs.interface, weights_digest(weights, header))
    text += _further(found, inferred.inputs.interface, target)
    atomic_write(target, text.encode())
    return Draft(target, text, tuple(inferred.inputs.comments))


def _save(found: Pretrained, architecture: str, prefixes: tuple[str, ...], max_bytes: int | None, target: Path) -> None:
    require_new(target)
    wanted = SavePretrained(
        folder=found.folder, architecture=architecture, prefixes=prefixes, max_bytes=max_bytes, target=target.resolve()
    )
    with LOCAL.start(f"saving {target.name}", threads=1, modules=("torch", SavePretrained.__module__)) as worker:
        worker.call(wanted, timeout_s=TIMEOUT_S)


def _saving(request: Request, output: Path | None, wishes: Wishes, name: str) -> str:
    """Return the same command again, with which transformers' own tensors are saved and taken."""
    options = [
        *(["--architecture", request.architecture] if request.architecture else []),
        *(["--with-cache"] if wishes.with_cache else []),
        *(["--output", output] if output else []),
        *(word for prefix in request.trust for word in ("--trust", prefix)),
    ]
    return command("init", request.weights, *options, "--save-weights", f"{name}.safetensors")


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


def _pixel_lines(found: Pretrained, interface: Interface) -> list[str]:
    """Say how the artifacts would take pixels as they are, where an image processor beside the network says what becomes of them."""
    stated = pretrained.pixels(found)
    image = next(
        (each for each in interface.inputs if each.name == "pixel_values" and len(each.shape) == _IMAGES), None
    )
    if image is None or not stated:
        return []
    whole = {
        name: int(each) if isinstance(each, float) and each.is_integer() else each for name, each in stated.items()
    }
    return [
        f"# What {pretrained.PROCESSOR} does to pixels, the artifacts can do themselves: then they take images of uint8, channels last,",
        f"# of the size above. For that, add to {image.name} above:",
        f"#   preprocess: {flow({'dtype': 'uint8', 'layout': 'NHWC', **whole})}",
        "",
    ]


def _further(found: Pretrained, interface: Interface, target: Path) -> str:
    """Return what such a config says beside the usual: inputs of a bearable size, and the licence that the model card states."""
    lines = [
        *_pixel_lines(found, interface),
        "# The most elements that an input of a case has; the largest sizes are tried one by one.",
        f"parity: {{cap_elements: {max(_FEW_ELEMENTS, 2 * cases.fewest_elements(interface))}}}",
        "",
    ]
    config = _beside(found, target)[0]
    if _names_classes(found, interface):
        lines += ["# The names of its classes, in their order.", f"describe: {flow({_LOGITS: {'labels': config}})}", ""]
    release = {"license": found.license, "beside": _beside(found, target)}
    if stated := {name: each for name, each in release.items() if each}:
        lines += [f"release: {flow(stated)}", ""]
    return "\n".join(lines)


def _names_classes(found: Pretrained, interface: Interface) -> bool:
    """Tell whether config.json names what the network tells apart, one after another along its last axis."""
    is_classifier = (found.architecture or "").endswith("Classification") and _LOGITS in interface.outputs
    return is_classifier and bool(found.labels) and not all(map(_UNNAMED.fullmatch, found.labels))
