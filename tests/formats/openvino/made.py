"""Networks as OpenVINO files, by way of ONNX, as an export makes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.artifact import Artifact, Written
from pipeline.formats.format import FromArtifact
from pipeline.formats.onnx.record import ONNX
from pipeline.formats.openvino.record import OPENVINO
from tests.formats.test_exporters import export

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.interface import Interface

IDENTITY = {"name": "test", "weights_sha256": "ab" * 32}


def derived(written: Written, interface: Interface, folder: Path, name: str = "model.xml") -> Written:
    """Derive an OpenVINO file from an ONNX one."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Artifact(ONNX.name, ONNX.name, written)
    return OPENVINO.derive(FromArtifact(source, interface, folder / name, IDENTITY), OPENVINO.options())


def made(network: Any, interface: Interface, folder: Path) -> Written:
    """Export a network as ONNX and derive an OpenVINO file from that."""
    folder.mkdir(parents=True, exist_ok=True)
    return derived(export(network, interface, "onnx", folder / "onnx"), interface, folder)


def edit_constant(path: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change the numbers of a constant (float32) in the .bin of an .xml, named as its layer is."""
    text = path.read_text()
    match = re.search(
        rf'name="{re.escape(name)}" type="Const".*?shape="([^"]*)" offset="(\d+)" size="(\d+)"', text, re.DOTALL
    )
    assert match, name
    shape = [int(each) for each in match[1].split(",") if each.strip()]
    start, size = int(match[2]), int(match[3])
    data = bytearray(path.with_suffix(".bin").read_bytes())
    value = np.frombuffer(bytes(data[start : start + size]), np.float32).reshape(shape).copy()
    data[start : start + size] = np.ascontiguousarray(change(value), np.float32).tobytes()
    path.with_suffix(".bin").write_bytes(data)


def edit_text(path: Path, old: str, new: str, count: int = 1) -> None:
    """Change the .xml itself."""
    text = path.read_text()
    assert text.count(old) >= count, old
    path.write_text(text.replace(old, new, count))


def rounded(path: Path) -> None:
    """Save a file again as OpenVINO does unless it is told otherwise: with float16 weights."""
    from pipeline.formats.openvino import library

    openvino = library.load()
    model = openvino.Core().read_model(str(path))
    clone = model.clone()
    del model
    openvino.save_model(clone, str(path.with_name("half.xml")))
    for suffix in (".xml", ".bin"):
        path.with_name(f"half{suffix}").replace(path.with_suffix(suffix))
