"""Why an exporter refuses a network, in words: the network's own line, what in it cannot be exported, and what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import ExportError
from pipeline.interface import complete_sizes, free_dimensions, in_words
from pipeline.rebuild import calling, quantised
from pipeline.rebuild.cases import allowed, example_sizes, make
from pipeline.rebuild.rehearsal import last_own_line, own_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

    from pipeline.formats.forward import Forward
    from pipeline.interface import Interface

_SHOWN_CHARACTERS = 240
# A frame of a traceback, also as torch writes the stack of a node.
_FRAME = re.compile(r'File "([^"]+)", line (\d+)(?:, in (\w+))?')
_PLACE = re.compile(r"([\w./@+~-]+\.py):(\d+)")
_PACKAGES = re.compile(r"[\w./~+-]*/site-packages/")
_NODE = re.compile(r"translating node %(\w+)")
_OPERATORS = (
    re.compile(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'"),
    re.compile(r"Exporting the operator '([\w.:]+)'"),
    re.compile(r"ONNX export of operator ([\w.:]+)"),
    re.compile(r"No decompositions registered for .*?([\w]+\.[\w.]+)"),
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What something that cannot be exported is called, and what to do about it; `words` find it in an error, `code` in a line."""

    what: str
    fix: str
    words: str | None = None
    code: str | None = None

    def matches(self, said: str, line: str) -> bool:
        return (self.words is None or re.search(self.words, said) is not None) and (
            self.code is None or re.search(self.code, line) is not None
        )


_ON_VALUES = "data-dependent|DataDependent|[Uu]nbacked"
_KINDS = (
    _Kind(
        "a packed sequence, whose lengths are values",
        "give the recurrent layer the padded tensor, and hide what is behind a sequence's end with a mask",
        code=r"pack(ed)?_(padded_)?sequence|pad_packed",
    ),
    _Kind(
        "numpy, which torch cannot look into",
        "compute with torch's functions there, or before the network",
        code=r"\.numpy\(|\bnp\.|\bnumpy\.",
    ),
    _Kind("numpy, which torch cannot look into", "compute with torch's functions there", words=r"\.numpy\(\) is not"),
    _Kind(
        "a loop, whose number of turns follows from values",
        "let it make a fixed number of turns, or use torch.while_loop",
        words=_ON_VALUES,
        code=r":\s(while|for)\b",
    ),
    _Kind(
        "a branch, which follows from values",
        "write it with torch.where, or with torch.cond",
        words=_ON_VALUES,
        code=r":\s(if|elif|assert)\b|\bif\b.*\belse\b|\bbool\(|\band\b|\bor\b",
    ),
    _Kind(
        "a size or number that follows from values",
        "give it as a size of an input, or say with torch._check what it may be",
        words=_ON_VALUES,
    ),
    _Kind(
        "complex numbers",
        "compute with their real and imaginary parts (torch.view_as_real)",
        words=r"[Cc]omplex",
    ),
    _Kind(
        "more nested modules than Python's recursion limit allows",
        "nest the modules less deeply: a Sequential or a ModuleList in their place",
        words="maximum recursion depth",
    ),
)


_WAYS = {
    # Measured with transformers 5.24: both of torch.onnx's routes take that form, and are right at every size.
    r"grouped_mm": "build the network with experts_implementation='batched_mm' (an argument of transformers' from_config and "
    "from_pretrained): experts so computed are exported",
}
"""What to do about some operators, by a pattern of their names."""


def refused(
    exporter: str, error: BaseException, module: nn.Module, program: torch.export.ExportedProgram | None = None
) -> ExportError:
    """Return an exporter's error as one of ours: what it cannot export, the network's line, its own words, what to do.

    `program` is what was translated, if it was captured before: its steps know their lines.
    """
    inner = _innermost(error)
    said = f"{type(inner).__name__}: {error}\n{inner}"
    line = last_own_line(error.__traceback__) or last_own_line(inner.__traceback__) or line_in(said)
    line = line or _line_of_step(said, program)
    what, fix = _kind(said, line, module)
    place = f" at {line}" if line else ""
    own = _first_words(inner)
    told = f"{exporter}: it cannot export {what}{place} ({own})" if what else f"{exporter}: {own}{place}"
    return ExportError(told, hint=fix)


def is_final(error: ExportError) -> bool:
    """Tell whether an exporter's refusal is the same however wide the sizes are captured."""
    said = str(error.__cause__ and _innermost(error.__cause__))
    return any(each.search(said) for each in _OPERATORS)


def _innermost(error: BaseException) -> BaseException:
    """Return the innermost cause: exporters wrap what went wrong several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_words(error: BaseException) -> str:
    lines = [line.strip(" :") for line in str(error).splitlines() if line.strip(" :")]
    said = lines[0] if lines else ""
    if said.startswith("Constraints violated"):  # what is violated comes behind it
        said = " ".join(line.removeprefix("- ") for line in lines[:2])
    said = _PACKAGES.sub("", said)
    said = said[:_SHOWN_CHARACTERS] + ("…" if len(said) > _SHOWN_CHARACTERS else "")
    return said or type(error).__name__


def _kind(said: str, line: str, module: nn.Module) -> tuple[str | None, str | None]:
    """Return what cannot be exported, and what to do about it; None where it is not known."""
    if packed := quantised.in_words(module):
        return packed, quantised.FIX
    if operator := next((found[1] for each in _OPERATORS if (found := each.search(said))), None):
        way = next((way for pattern, way in _WAYS.items() if re.search(pattern, operator)), None)
        return f"the operator {operator}", way or "compute it with operators that ONNX has, or leave this format out"
    kind = next((each for each in _KINDS if each.matches(said, line)), None)
    return (kind.what, kind.fix) if kind else (None, None)


def line_in(text: str) -> str:
    """Return the innermost line of the network's own code that a text names as tracebacks and torch's messages do; "" if none."""
    frames = [own_line(file, int(number), function or "") for file, number, function in _FRAME.findall(text)]
    places = [own_line(file, int(number)) for file, number in _PLACE.findall(text)]
    return next((each for each in reversed([*places, *frames]) if each), "")


def _line_of_step(said: str, program: torch.export.ExportedProgram | None) -> str:
    """Return the network's line of the step that could not be translated; "" where it is not known."""
    named = _NODE.search(said)
    if program is None or named is None:
        return ""
    operator = next((found[1].rpartition(".")[2] for each in _OPERATORS if (found := each.search(said))), named[1])
    for node in program.graph.nodes:
        if node.name == named[1] or operator.strip("_") in node.name:
            return line_in(node.meta.get("stack_trace") or "")
    return ""


def eager_hint(prepared: Forward, interface: Interface) -> str:
    """Say what to do about sizes that a capture fixes, having run the network at others."""
    if failure := next(_failures(prepared, interface), None):
        return f"the network itself {failure}: change `dimensions` (min, max, multiple_of) to what it accepts"
    return (
        "the network itself takes other sizes: compute there with what `shape` gives, not with a number or a list"
        " made of it; or narrow `dimensions` to what was captured"
    )


def _failures(prepared: Forward, interface: Interface) -> Iterator[str]:
    """Yield, for dimensions at another size than the example's, how the network itself fails there."""
    import torch

    shown = example_sizes(interface)
    for dimension in interface.dimensions:
        sizes = [each for each in allowed(dimension) if each != shown[dimension.name]][:1]
        if dimension.formula is not None or not sizes:
            continue
        tried = {**shown, dimension.name: sizes[0]}
        inputs = make(interface, _completed(interface, tried), seed=0, name="another size").inputs
        tensors = calling.tensors_from(inputs)
        try:
            with torch.inference_mode():
                prepared.module(*(tensors[name] for name in prepared.names))
        except Exception as error:  # noqa: BLE001 - a network may raise anything
            yield f"fails at {in_words({dimension.name: sizes[0]})} ({_first_words(error)})"


def _completed(interface: Interface, sizes: dict[str, int]) -> dict[str, int]:
    free = {each.name for each in free_dimensions(interface.dimensions)}
    return complete_sizes(interface.dimensions, {name: size for name, size in sizes.items() if name in free})
