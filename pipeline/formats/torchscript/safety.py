"""TorchScript archives that can only compute: told from their bytes, before torch's loader sees them.

torch.jit.load runs code of the file: `__setstate__`, and the defaults of arguments and named tuples. That code cannot call
Python; what it can reach are torch's operators, two of which touch files (aten::save, aten::from_file), operators of other
namespaces, and classes written in C++. Archives with any of these are refused. Formats: torch/csrc/jit/serialization
(import.cpp, import_source.cpp, python_print.cpp) and torch/csrc/jit/frontend/lexer.h.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from pipeline.errors import UnsafeError, WeightsError
from pipeline.weights import archive, files, pickle_records, pickles, torch_header

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.weights.files import Bytes

_MAX_CODE_BYTES = 8 * 2**20
_MAX_PICKLE_BYTES = 64 * 2**20
_EXAMPLES = "traced_inputs"
_PICKLES = ("data", "constants", _EXAMPLES)
_ENTRY = re.compile(
    r"(data|constants|traced_inputs)(\.pkl|/\d+)|version|byteorder|\.format_version|\.storage_alignment|\.data/[a-z_]+"
    r"|code/[\w./]+\.py|extra/[\w.]+"
)
_OWN_CLASS = re.compile(r"__torch__\.(?!torch\.classes\b)[\w.]+")
# What python_print writes: names, and texts in double quotes; letters are never escaped.
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|[A-Za-z_]\w*|\S', re.ASCII)
_ESCAPE = re.compile(r"\\(?![\\'\"abfnrtv]|[23][0-7]{2}|0[0-3][0-7]|177)")
_OTHER_SYNTAX = frozenset("\"'#\\`")
_NAMESPACES = frozenset({"aten", "prim"})
_DEEDS = {
    "save": "can write files (aten::save)",
    "from_file": "can read and write files (aten::from_file)",
    "__setstate__": "runs code as soon as it is loaded (__setstate__)",
    "__getstate__": "runs code when it is saved (__getstate__)",
    "rpc_async": "calls other machines",
    "rpc_sync": "calls other machines",
    "rpc_remote": "calls other machines",
}
_HINT = "do not load it; its maker can export the network again with weighbridge, or as ONNX"


def require_inert(path: Path) -> None:
    """Check that a TorchScript archive can only compute with tensors, whoever made it.

    Raises UnsafeError, naming the entry, for an archive whose code could do anything else when it is loaded or run, and
    WeightsError for one that is cut off or damaged.
    """
    files.require_file(path)
    with files.mapped(path) as data:
        try:
            _check(data, path.name)
        except (pickle_records.CraftedError, pickle_records.TooLargeError) as error:
            raise UnsafeError(f"{path.name}: {error}", hint=_HINT) from error
        except (archive.BrokenArchiveError, pickle_records.MalformedError) as error:
            raise WeightsError(f"{path.name} is no TorchScript archive, or damaged: {error}", hint=_HINT) from error


def _check(data: Bytes, name: str) -> None:
    entries = archive.directory(data, name)
    archive.require_one_reading(data, entries, name, stored=True)
    if len({entry.name.partition("/")[0] for entry in entries}) != 1:
        raise UnsafeError(f"{name} holds several archives in one", hint=_HINT)
    inside = {entry.name.partition("/")[2]: entry for entry in entries}
    strange = next((each for each in inside if not _ENTRY.fullmatch(each)), None)
    if strange is not None:
        raise UnsafeError(f"{name}: entry {strange!r:.120} is no part of a TorchScript program", hint=_HINT)
    sizes = {each: entry.size for each, entry in inside.items()}
    for folder in _PICKLES:
        entry = inside.get(f"{folder}.pkl")
        if entry is not None:
            content = archive.content(data, entry, _MAX_PICKLE_BYTES)
            _check_pickle(content, f"{name} ({folder}.pkl)", folder, sizes)
        elif folder != _EXAMPLES:
            raise archive.BrokenArchiveError(f"it lacks {folder}.pkl")
    code = [entry for each, entry in inside.items() if each.startswith("code/")]
    if sum(entry.size for entry in code) > _MAX_CODE_BYTES:
        raise UnsafeError(f"{name} holds more than {_MAX_CODE_BYTES:,} bytes of code", hint=_HINT)
    for entry in code:
        _check_code(archive.content(data, entry, _MAX_CODE_BYTES), f"{name} ({entry.name.partition('/')[2]})")


def _check_pickle(content: bytes, place: str, folder: str, sizes: Mapping[str, int]) -> None:
    """Refuse classes that the program does not define itself, and tensors that reach outside what the archive holds."""
    parsed = pickles.parse(content)
    foreign = [each for each in parsed.foreign if not _OWN_CLASS.fullmatch(each)]
    if foreign:
        raise UnsafeError(f"{place} names {foreign[0]!r:.120}, which is no class of the program's own", hint=_HINT)
    if parsed.end != len(content):
        raise UnsafeError(f"{place} hides {len(content) - parsed.end:,} bytes behind its pickle", hint=_HINT)
    for storage in parsed.declared.storages.values():
        held = sizes.get(f"{folder}/{storage.key}", 0)
        is_left_out = folder == _EXAMPLES and held == 0  # of a trace's examples torch writes the shapes only
        if held < storage.nbytes and not is_left_out:
            raise UnsafeError(
                f"{place}: storage {storage.key!r:.40} declares {storage.nbytes:,} bytes and holds {held:,}", hint=_HINT
            )
    torch_header.require_sound(parsed, place)


def _check_code(content: bytes, place: str) -> None:
    try:
        tokens = _TOKEN.findall(content.decode())
    except UnicodeDecodeError as error:
        raise UnsafeError(f"{place} is no text: {error}", hint=_HINT) from error
    problem = next((found for each in tokens if (found := _token_problem(each))), None) or _order_problem(tokens)
    if problem:
        raise UnsafeError(f"{place} {problem}", hint=_HINT)


def _token_problem(token: str) -> str | None:
    # getattr takes its name as a text.
    word = token[1:-1] if token[0] == token[-1] == '"' and len(token) > 1 else token
    if word in _DEEDS:
        return _DEEDS[word]
    if word is not token:
        return f"escapes a letter in the text {token:.80}" if _ESCAPE.search(word) else None
    if token in _OTHER_SYNTAX or not token.isascii():
        return f"holds {token!r}, which torch does not write into a program"
    return None


def _order_problem(tokens: Sequence[str]) -> str | None:
    """Find what only the next tokens tell: operators of other namespaces, classes in C++, texts in pieces."""
    padded = [*tokens, "", "", ""]
    for token, dot, following in zip(tokens, padded[1:], padded[2:], strict=False):
        if token == "ops" and (dot != "." or following not in _NAMESPACES):  # noqa: S105 - a token of a program
            return f"uses operators of the namespace {following!r:.40}; allowed are {', '.join(sorted(_NAMESPACES))}"
        if (token, dot, following) == ("torch", ".", "classes"):
            return "uses a class written in C++ (torch.classes)"
    if any(first[0] == second[0] == '"' for first, second in itertools.pairwise(tokens)):
        return "puts a text together from pieces"
    return None
