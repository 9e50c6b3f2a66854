"""XML as a tree, without what makes XML dangerous: no document type, no entities, no depth or number without end.

expat reads it (https://docs.python.org/3/library/pyexpat.html), which follows no reference to other files by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn
from xml.parsers import expat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.weights.files import Bytes

MAX_BYTES = 128 * 2**20
MAX_ELEMENTS = 2_000_000
MAX_DEPTH = 64
_PIECE = 1 << 20
_UTF_8 = {"utf-8", "utf8", "us-ascii", None}


class MalformedMarkupError(ValueError):
    """The bytes are no XML, or are cut off."""


class HostileMarkupError(ValueError):
    """XML that no saving function writes: it names other files, or grows without end."""


@dataclass(slots=True)
class Element:
    """An element with its attributes and what is inside it; text between elements is left out."""

    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)

    def all(self, tag: str) -> Iterator[Element]:
        """Yield the elements right inside this one that are called `tag`."""
        return (each for each in self.children if each.tag == tag)

    def first(self, tag: str) -> Element | None:
        """Return the first of those, None if there is none."""
        return next(self.all(tag), None)


def parse(data: Bytes) -> Element:
    """Return the outermost element of an XML document.

    Raises:
        HostileMarkupError: it has a document type, entities or instructions, another encoding than UTF-8, or is too large or too deep.
        MalformedMarkupError: it is no XML, or is cut off.
    """
    if len(data) > MAX_BYTES:
        raise HostileMarkupError(f"it has {len(data):,} bytes, more than the {MAX_BYTES:,} of any network")
    builder = _Builder()
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.XmlDeclHandler = builder.declaration
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = builder.refuse_document_type
    parser.ProcessingInstructionHandler = builder.refuse_instruction
    parser.StartCdataSectionHandler = builder.refuse_section
    try:
        for start in range(0, len(data), _PIECE):
            parser.Parse(data[start : start + _PIECE], False)  # noqa: FBT003 - expat's own
        parser.Parse(b"", True)  # noqa: FBT003 - as above
    except expat.ExpatError as error:
        raise MalformedMarkupError(str(error)) from error
    assert builder.root is not None  # noqa: S101 - expat accepts no document without one
    return builder.root


class _Builder:
    """What expat tells, as a tree."""

    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._count = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if len(self._open) >= MAX_DEPTH:
            raise HostileMarkupError(f"its elements nest {MAX_DEPTH + 1} deep")
        if self._count > MAX_ELEMENTS:
            raise HostileMarkupError(f"it has more than {MAX_ELEMENTS:,} elements")
        made = Element(tag, attributes)
        if self._open:
            self._open[-1].children.append(made)
        else:
            self.root = made
        self._open.append(made)

    def end(self, _: str) -> None:
        self._open.pop()

    def declaration(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if (encoding and encoding.lower()) not in _UTF_8:
            raise HostileMarkupError(
                f"it is in the encoding {encoding!r:.40}, and readers differ in what they make of it"
            )

    def refuse_document_type(self, name: str, *_: object) -> NoReturn:
        raise HostileMarkupError(f"it declares a document type or an entity ({name!r:.40}), which may name other files")

    def refuse_instruction(self, target: str, _: str) -> NoReturn:
        raise HostileMarkupError(f"it holds an instruction to whoever reads it ({target!r:.40})")

    def refuse_section(self) -> NoReturn:
        raise HostileMarkupError("it holds text that readers need not read alike (CDATA)")
