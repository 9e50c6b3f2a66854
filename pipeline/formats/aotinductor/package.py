"""What an AOTInductor package says of itself, read from its bytes: nothing of it is loaded, and torch is not needed.

A package is a zip archive with a shared library in it. Format: torch/export/pt2_archive/constants.py and
torch/csrc/inductor/aoti_package/model_package_loader.cpp of torch 2.13.
"""

from __future__ import annotations

import json
import platform
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import InputError, UnavailableError, UnsafeError, WeightsError
from pipeline.weights import archive, files

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from pipeline.weights.files import Bytes

FOLDER = "data/aotinductor/model"
"""Where the one model of a package lies below the archive's root."""
CAPABILITIES = "WEIGHBRIDGE_CPU"
"""In the metadata: the capabilities of the processor that it was compiled on, as torch.cpu names them."""
INPUTS = "WEIGHBRIDGE_INPUTS"
"""In the metadata: the names of its inputs in their order, as JSON."""

_MOST_METADATA_BYTES = 1 << 20
_PLAIN = re.compile(r"[\w.]+")
_LIBRARY, _METADATA = ".wrapper.so", ".wrapper_metadata.json"
# What Inductor calls vector instructions, where torch.cpu has another name for them.
_INSTRUCTIONS = {"AVX512": "avx512_f", "AVX2": "avx2"}
_NONE = "INVALID_VEC_ISA"
_HINT = "export it again on the machine that is to run it"


@dataclass(frozen=True, slots=True)
class Package:
    """What stands in a package: its metadata, and its entries by name below the archive's root."""

    metadata: Mapping[str, str]
    entries: Mapping[str, archive.Entry]

    @property
    def device(self) -> str:
        """What it was compiled for: "cpu" or "cuda"."""
        return self.metadata.get("AOTI_DEVICE_KEY", "")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of its inputs in their order; empty where it does not say them."""
        try:
            names = json.loads(self.metadata.get(INPUTS, "[]"))
        except ValueError:
            return ()
        return tuple(map(str, names)) if isinstance(names, list) else ()

    @property
    def instructions(self) -> str:
        """The vector instructions that it uses, as Inductor names them."""
        return self.metadata.get("AOTI_CPU_ISA", "")


def read(path: Path) -> Package:
    """Return what a package says of itself.

    Raises:
        InputError: it is no AOTInductor package of one model.
        UnsafeError: the archive can be read in two ways.
        WeightsError: it is damaged.
    """
    with files.mapped(path) as data:
        try:
            return _read(data, path.name)
        except archive.BrokenArchiveError as error:
            raise WeightsError(f"{path.name} is damaged: {error}", hint=files.COPY_AGAIN) from error


def _read(data: Bytes, name: str) -> Package:
    found = archive.directory(data, name)
    archive.require_one_reading(data, found, name, stored=True)
    entries = {each.name.partition("/")[2]: each for each in found}
    libraries = [each for each in entries if each.endswith(_LIBRARY)]
    described = [each for each in entries if each.endswith(_METADATA)]
    if len(libraries) != 1 or len(described) != 1 or not libraries[0].startswith(f"{FOLDER}/"):
        raise InputError(
            f"{name} is no AOTInductor package of one model: {len(libraries)} libraries and {len(described)} descriptions in {FOLDER}",
            hint="make one with: weighbridge export CONFIG, with aotinductor in `exports`",
        )
    try:
        metadata = json.loads(archive.content(data, entries[described[0]], _MOST_METADATA_BYTES))
    except ValueError as error:
        raise WeightsError(f"{name}: its description is damaged: {error}", hint=files.COPY_AGAIN) from error
    if not isinstance(metadata, dict):
        raise WeightsError(f"{name}: its description is no mapping", hint=files.COPY_AGAIN)
    return Package({str(key): str(value) for key, value in metadata.items()}, entries)


def require_only_a_model(path: Path) -> None:
    """Refuse an archive that holds anything beside one model, or entries that would be unpacked elsewhere.

    What the model does nobody can tell: it is machine code. Whether it may be opened at all is for a signature to say.

    Raises:
        UnsafeError: it does; or the archive can be read in two ways.
        InputError, WeightsError: as `read`.
    """
    for name in read(path).entries:
        inside = name.removeprefix(f"{FOLDER}/") if name.startswith(f"{FOLDER}/") else ""
        known = name in {"archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id"}
        if not known and not (_PLAIN.fullmatch(inside) and inside.endswith((_LIBRARY, ".json"))):
            raise UnsafeError(
                f"{path.name}: entry {name!r:.120} is no part of one compiled model", hint="do not open it"
            )


def require_runs_here(package: Package, device: str, capabilities: Collection[str], name: str) -> None:
    """Check that a package was compiled for this device, and that this processor has every instruction that it may use.

    Without this, the first instruction that is missing ends the process (SIGILL). `capabilities` are this processor's, as torch.cpu names them.

    Raises:
        UnavailableError: it was not, or has not; both sides are named.
    """
    if package.device != device:
        raise UnavailableError(
            f"{name} was compiled for {package.device or 'nothing that it names'}, and is asked to run on {device}",
            hint=f"export an artifact with the option device: {device}, and let the backend run that",
        )
    machine, here = package.metadata.get("AOTI_MACHINE", ""), platform.machine()
    if machine != here:
        raise UnavailableError(f"{name} was compiled for {machine or 'no machine'}, this one is {here}", hint=_HINT)
    used = [each for each in package.instructions.split() if each != _NONE]
    wanted = {_INSTRUCTIONS.get(each, each.lower()) for each in used} | {
        *package.metadata.get(CAPABILITIES, "").split()
    }
    if missing := sorted(wanted - {*capabilities}):
        raise UnavailableError(
            f"{name} was compiled for a processor with {package.instructions or 'instructions it does not name'}; "
            f"this one lacks {', '.join(missing)}",
            hint=_HINT,
        )


def capabilities() -> tuple[str, ...]:
    """Return the instruction sets of this processor, as torch.cpu names them."""
    import torch

    return tuple(sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True))
