"""OpenVINO files written by hand: a harmless one, and what a stranger could make of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WEIGHTS = bytes(range(48))
HEAD = '<?xml version="1.0"?>\n'
LAYERS = """<layer id="0" name="x" type="Parameter" version="opset1"><data shape="?,4" element_type="f32"/>
<output><port id="0" precision="FP32" names="x"><dim>-1</dim><dim>4</dim></port></output></layer>
<layer id="1" name="w" type="Const" version="opset1"><data element_type="f32" shape="3, 4" offset="0" size="48"/>
<output><port id="0" precision="FP32" names="w"><dim>3</dim><dim>4</dim></port></output></layer>
<layer id="2" name="y" type="MatMul" version="opset1"><data transpose_a="false" transpose_b="true"/>
<input><port id="0" precision="FP32"><dim>-1</dim><dim>4</dim></port><port id="1" precision="FP32"><dim>3</dim><dim>4</dim></port></input>
<output><port id="2" precision="FP32" names="y"><dim>-1</dim><dim>3</dim></port></output></layer>
<layer id="3" name="y/sink_port_0" type="Result" version="opset1" output_names="y">
<input><port id="0" precision="FP32"><dim>-1</dim><dim>3</dim></port></input></layer>"""
EDGES = (
    '<edge from-layer="0" from-port="0" to-layer="2" to-port="0"/><edge from-layer="1" from-port="0" to-layer="2" to-port="1"/>'
    '<edge from-layer="2" from-port="2" to-layer="3" to-port="0"/>'
)


def text(layers: str = LAYERS, *, head: str = HEAD, version: str = "11") -> str:
    return (
        f'{head}<net name="made" version="{version}"><layers>{layers}</layers><edges>{EDGES}</edges><rt_info/></net>\n'
    )


def written(folder: Path, content: str, weights: bytes | None = WEIGHTS) -> Path:
    """Write an .xml, and the .bin beside it unless there is to be none."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.xml"
    path.write_text(content, encoding="utf-8")
    if weights is not None:
        (folder / "model.bin").write_bytes(weights)
    return path


def replaced(old: str, new: str) -> str:
    assert old in LAYERS
    return text(LAYERS.replace(old, new))


def laughs() -> str:
    entities = "".join(f'<!ENTITY l{index} "{f"&l{index - 1};" * 10}">' for index in range(1, 10))
    return text(
        head=f'{HEAD}<!DOCTYPE net [<!ENTITY l0 "ha">{entities}]>', layers=f"{LAYERS}<!-- --><layer>&l9;</layer>"
    )


HOSTILE: dict[str, tuple[Callable[[], str], str]] = {
    "a document type": (lambda: text(head=f"{HEAD}<!DOCTYPE net>"), "document type"),
    "an entity that names a file": (
        lambda: text(head=f'{HEAD}<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
        "document type",
    ),
    "entities without end": (laughs, "document type"),
    "an instruction": (lambda: text(head=f"{HEAD}<?xml-stylesheet href='a.xsl'?>"), "instruction"),
    "another encoding": (lambda: text(head='<?xml version="1.0" encoding="iso-8859-1"?>'), "encoding"),
    "text that is no markup": (lambda: text(f"{LAYERS}<layer><![CDATA[<layer/>]]></layer>"), "CDATA"),
    "depth without end": (lambda: text(f"{LAYERS}{'<a>' * 5000}{'</a>' * 5000}"), "65 deep"),
    "a layer of somebody's own": (
        lambda: replaced('type="MatMul" version="opset1"', 'type="Shell" version="extension"'),
        "'Shell'",
    ),
    "an operator set of nobody's": (
        lambda: replaced('type="MatMul" version="opset1"', 'type="MatMul" version="opset99"'),
        "opset99",
    ),
    "no operator set": (lambda: replaced('type="MatMul" version="opset1"', 'type="MatMul"'), "''"),
    "a constant past the end": (
        lambda: replaced('offset="0"', 'offset="4"'),
        "ends at byte 52 of model.bin, which has 48",
    ),
    "a constant far outside": (lambda: replaced('offset="0"', f'offset="{2**50}"'), "which has 48"),
}
"""What is refused as unsafe: how to write it, and words of the refusal."""

DAMAGED: dict[str, tuple[Callable[[], str], str]] = {
    "cut off": (lambda: text()[:-200], "no OpenVINO model"),
    "a version of nobody's": (lambda: text(version="9"), "version='9'"),
    "a size that is not the shape's": (
        lambda: replaced('size="48"', 'size="44"'),
        "takes 44 bytes, and f32 [3, 4] takes 48",
    ),
    "an offset that is no number": (lambda: replaced('offset="0"', 'offset="-1"'), "'-1' where a number belongs"),
    "a type of nobody's": (
        lambda: replaced('element_type="f32" shape="3, 4"', 'element_type="f31" shape="3, 4"'),
        "element type 'f31'",
    ),
    "an attribute twice": (lambda: replaced('offset="0"', 'offset="0" offset="4"'), "duplicate attribute"),
    "two roots": (lambda: text() + text(head=""), "no OpenVINO model"),
}
"""What is refused as damaged."""


def hostile(folder: Path) -> dict[str, Path]:
    """Write every hostile file into a folder of its own."""
    made = {name: written(folder / str(index), make()) for index, (name, (make, _)) in enumerate(HOSTILE.items())}
    linked = written(folder / "linked", text(), None)
    (folder / "secret").write_bytes(WEIGHTS)
    (linked.parent / "model.bin").symlink_to(folder / "secret")
    twice = written(folder / "twice", text(), None)
    os.link(folder / "secret", twice.parent / "model.bin")
    return made | {"weights behind a symbolic link": linked, "weights behind a hard link": twice}
