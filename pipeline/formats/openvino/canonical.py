"""OpenVINO's files in a form that depends on the network alone.

OpenVINO numbers whatever has no name with a counter of the process, so that what else a process did shows in the names of layers.
They are numbered here by their place in the file. Layers are referred to by their ids, never by these names.
Source: https://docs.openvino.ai/2026/documentation/openvino-ir-format.html
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LAYER = re.compile(r'(<layer id="\d+" name=")([^"]*)(")')
_COUNTED = re.compile(r"(?<![A-Za-z0-9])([A-Z][A-Za-z0-9]*)_(\d+)")
_IDENTITY = "weighbridge"
_FROM_ONNX = "framework"  # the metadata of the ONNX file, which says the same


def say_who(model: Any, identity: Mapping[str, str]) -> None:
    """Write name and weights digest into a model's own metadata, and give it the config's name."""
    held = model.get_rt_info()
    if _FROM_ONNX in held:
        del held[_FROM_ONNX]
    for name, value in sorted(identity.items()):
        model.set_rt_info(value, [_IDENTITY, name])
    model.set_friendly_name(identity["name"])


def rename(path: Path) -> None:
    """Number the layers of a file that OpenVINO numbered, each kind by itself, in the file's order."""
    numbers: dict[tuple[str, str], int] = {}
    counts: dict[str, int] = {}

    def numbered(match: re.Match[str]) -> str:
        kind = match[1]
        if match.groups() not in numbers:
            numbers[kind, match[2]] = counts[kind] = counts.get(kind, -1) + 1
        return f"{kind}_{numbers[kind, match[2]]}"

    text = path.read_bytes().decode()
    renamed = _LAYER.sub(lambda layer: f"{layer[1]}{_COUNTED.sub(numbered, layer[2])}{layer[3]}", text)
    path.write_bytes(renamed.encode())
