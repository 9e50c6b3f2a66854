"""OpenVINO's intermediate representation, from its bytes alone: an .xml with the layers, and beside it a .bin with the constants.

Source of the elements: https://docs.openvino.ai/2026/documentation/openvino-ir-format.html
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import UnsafeError, WeightsError
from pipeline.weights import confined, files, markup

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.weights.files import Bytes
    from pipeline.weights.markup import Element

# element type → (numpy's and torch's name, bits)
TYPES = {
    "f64": ("float64", 64), "f32": ("float32", 32), "f16": ("float16", 16), "bf16": ("bfloat16", 16),
    "f8e4m3": ("float8_e4m3fn", 8), "f8e5m2": ("float8_e5m2", 8), "f8e8m0": ("float8_e8m0fnu", 8), "f4e2m1": ("float4_e2m1fn", 4),
    "nf4": ("nf4", 4), "i64": ("int64", 64), "i32": ("int32", 32), "i16": ("int16", 16), "i8": ("int8", 8), "i4": ("int4", 4),
    "u64": ("uint64", 64), "u32": ("uint32", 32), "u16": ("uint16", 16), "u8": ("uint8", 8), "u4": ("uint4", 4),
    "u6": ("uint6", 6), "u3": ("uint3", 3), "u2": ("uint2", 2), "u1": ("uint1", 1), "boolean": ("bool", 8),
}  # fmt: skip
TEXT = "string"
_BODIES = ("body", "then_body", "else_body")
_OPSET = re.compile(r"opset(\d{1,2})")
_OPSETS = range(1, 21)
_VERSIONS = {"10", "11"}
_HINT = "do not load it; get the model from its maker, its .xml and its .bin in one folder"
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Stored:
    """A constant: its layer's name, element type, shape, and where its bytes lie in the .bin."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    size: int


def is_one(text: str) -> bool:
    """Whether the beginning of a text is that of such an .xml, be it with what none has."""
    first = re.search(r"<([A-Za-z_][\w.:-]*)", text)
    return text.lstrip().startswith("<") and first is not None and first[1] == "net"


def read(data: Bytes, name: str) -> Element:
    """Return the `net` of an .xml, checked.

    Raises:
        UnsafeError: it is XML that no saving function writes, or has layers that only a library of somebody's knows.
        WeightsError: it is damaged, or of a version that nothing here knows.
    """
    try:
        root = markup.parse(data)
        if root.tag != "net" or root.attributes.get("version") not in _VERSIONS:
            version = root.attributes.get("version", "")
            raise markup.MalformedMarkupError(f"it is <{root.tag} version={version!r:.20}>, and not <net version='11'>")
        for layer in layers(root):
            _require_known(layer, name)
            stored(layer)
    except markup.HostileMarkupError as error:
        raise UnsafeError(f"{name}: {error}", hint=files.ALTERED) from error
    except markup.MalformedMarkupError as error:
        raise WeightsError(f"{name} is damaged or no OpenVINO model: {error}", hint=files.COPY_AGAIN) from error
    return root


def nets(root: Element) -> Iterator[Element]:
    """Yield a net and those inside its loops and branches, each once."""
    waiting = [root]
    while waiting:
        net = waiting.pop()
        yield net
        for layer in _own_layers(net):
            waiting += [each for each in layer.children if each.tag in _BODIES]


def layers(root: Element) -> Iterator[Element]:
    """Yield the layers of a net and of those inside it."""
    for net in nets(root):
        yield from _own_layers(net)


def _own_layers(net: Element) -> Iterator[Element]:
    for group in net.all("layers"):
        yield from group.all("layer")


def stored(layer: Element) -> Stored | None:
    """Return where a constant lies, None for any other layer.

    Raises:
        MalformedMarkupError: it says it in a way that no constant has.
    """
    if layer.attributes.get("type") != "Const":
        return None
    name = layer.attributes.get("name", "")
    data = layer.first("data")
    given = data.attributes if data else {}
    kind = given.get("element_type", "")
    shape = tuple(_whole(each, name) for each in given.get("shape", "").split(",") if each.strip())
    found = Stored(name, kind, shape, _whole(given.get("offset", ""), name), _whole(given.get("size", ""), name))
    if kind == TEXT:
        return found
    if kind not in TYPES:
        raise markup.MalformedMarkupError(f"the constant {name!r:.{_SHOWN}} has the element type {kind!r:.20}")
    needed = -(-math.prod(shape) * TYPES[kind][1] // 8)
    if found.size != needed:
        what = f"the constant {name!r:.{_SHOWN}} takes {found.size:,} bytes, and {kind} {files.in_brackets(shape)} takes {needed:,}"
        raise markup.MalformedMarkupError(what)
    return found


def _whole(text: str, name: str) -> int:
    if not re.fullmatch(r"\s*\d{1,18}\s*", text, re.ASCII):
        raise markup.MalformedMarkupError(f"the constant {name!r:.{_SHOWN}} says {text!r:.20} where a number belongs")
    return int(text)


def _require_known(layer: Element, name: str) -> None:
    version = layer.attributes.get("version", "")
    match = _OPSET.fullmatch(version)
    if match is None or int(match[1]) not in _OPSETS:
        kind, where = layer.attributes.get("type", ""), layer.attributes.get("name", "")
        raise UnsafeError(
            f"{name}: the layer {where!r:.{_SHOWN}} is {kind!r:.40} of {version!r:.40}, which is no operator set of OpenVINO's: "
            "only a library of somebody's runs it",
            hint="do not open it; ask for a file without operators of somebody's own",
        )


def require_confined(path: Path, *, max_bytes: int | None = None) -> tuple[Path, ...]:
    """Check that an .xml and its .bin may be opened; return the .bin, where it keeps constants.

    Call it before OpenVINO opens what somebody else made. Raises UnsafeError for XML that no saving function writes, constants
    that lie outside the .bin, and a .bin behind a link; WeightsError where one of the two is missing, damaged or called otherwise.
    """
    files.require_file(path)
    if path.is_symlink():
        raise UnsafeError(f"{path.name} is a symbolic link", hint="name the file itself")
    with files.mapped(path) as data:
        constants = [each for layer in layers(read(data, path.name)) if (each := stored(layer))]
    if not any(each.size for each in constants):
        return ()
    beside = confined.file_beside(bin_of(path).name, path)
    size = beside.stat().st_size
    for each in constants:
        if (end := each.offset + each.size) > size:
            raise UnsafeError(
                f"{path.name}: the constant {each.name!r:.{_SHOWN}} ends at byte {end:,} of {beside.name}, which has {size:,}",
                hint=_HINT,
            )
    total = path.stat().st_size + size
    files.require_below(total, max_bytes, f"{path.name} and its constants are {total:,} bytes")
    return (beside,)


def bin_of(path: Path) -> Path:
    """Return where OpenVINO looks for the constants of an .xml: it cuts the name off at its last point.

    Raises:
        WeightsError: the name does not end in .xml.
    """
    if path.suffix != ".xml" or not path.stem:
        raise WeightsError(
            f"{path.name} is an OpenVINO model, and OpenVINO finds its constants by the name NAME.xml",
            hint=f"rename it to {path.stem or 'model'}.xml, and its constants to {path.stem or 'model'}.bin",
        )
    return path.with_suffix(".bin")


def described(data: Bytes, name: str) -> tuple[list[tuple[str, str, tuple[int, ...], int, int]], dict[str, Any]]:
    """Return the constants (name, dtype, shape, elements, bytes), and format and interface as JSON values; raises as `read` does."""
    root = read(data, name)
    constants = [each for layer in layers(root) if (each := stored(layer))]
    tensors = [
        (each.name, TYPES.get(each.type, (each.type, 0))[0], each.shape, math.prod(each.shape), each.size)
        for each in constants
    ]
    own = list(_own_layers(root))
    facts = {
        "format": f"OpenVINO IR {root.attributes['version']}",
        "producer": _producer(root),
        "layers": sum(1 for _ in layers(root)),
        "inputs": [each.attributes.get("name", "") for each in own if each.attributes.get("type") == "Parameter"],
        "outputs": [_output(each) for each in own if each.attributes.get("type") == "Result"],
    }
    states = sorted(
        {each.attributes.get("name", "") for each in layers(root) if each.attributes.get("type") == "ReadValue"}
    )
    return tensors, facts | ({"keeps between calls": states} if states else {})


def _output(layer: Element) -> str:
    return layer.attributes.get("output_names") or layer.attributes.get("name", "").removesuffix("/sink_port_0")


def _producer(root: Element) -> str:
    info = root.first("rt_info")
    values = [each.attributes.get("value", "") for each in info.children] if info else []
    return f"OpenVINO {values[0]}"[:100] if values and values[0] else ""
