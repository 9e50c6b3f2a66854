"""Artifacts by name: what each is made from, which backend opens which, and what is wrong with that."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pipeline.config.tree import Problem
from pipeline.errors import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.config.models import BackendConfig, ExportConfig, Vocabulary
    from pipeline.config.tree import KeyPath


CALIBRATION = "calibration"


def format_options(item: Mapping[str, Any]) -> Any:
    """Return the options of a format, which stand beside `format`, or below `options`."""
    beside = {name: value for name, value in item.items() if name not in {"name", "format", "from", "options"}}
    below = item.get("options", {})
    found = {**below, **beside} if isinstance(below, dict) else below
    return {name: each for name, each in found.items() if name != CALIBRATION} if isinstance(found, dict) else found


def calibration(item: Mapping[str, Any]) -> Any:
    """Return where an artifact's inputs for calibration lie, which is said like an option of its format; None where it is not."""
    below = item.get("options")
    return item.get(CALIBRATION, below.get(CALIBRATION) if isinstance(below, dict) else None)


def check(sections: Mapping[str, Any], vocabulary: Vocabulary) -> Iterator[Problem]:
    """Yield what is wrong between artifacts, what they are made from, and the backends that open them."""
    exports: list[ExportConfig] | None = sections.get("exports")
    if exports is None:
        return
    yield from named_once(exports, "exports", "artifacts", "give each its own name, as in {name: …, format: …}")
    names = [each.name for each in exports]
    for index, each in enumerate(exports):
        if each.made_from is not None and each.made_from not in names[:index]:
            path: KeyPath = ("exports", index, "from")
            where = (
                "is this artifact itself"
                if each.made_from == each.name
                else f"is no artifact before this one{suggestion(each.made_from, names[:index])}"
            )
            yield Problem(path, f"{each.made_from!r} {where}")
        elif (
            each.made_from is None
            and each.format in vocabulary.derived
            and source_of(each, exports, vocabulary) is None
        ):
            wanted = vocabulary.derived[each.format]
            yield Problem(
                ("exports", index),
                f"{each.format} is made from {wanted}, and `exports` has none before it: add `{wanted}` to it, or say `from`",
            )
    known = all(each.format in vocabulary.formats for each in exports)  # else that is what has to be mended first
    for index, backend in enumerate(sections.get("backends") or () if known else ()):
        yield from _opened(index, backend, exports, vocabulary)
    for name in sections.get("gates") or ():
        if name not in names:
            yield Problem(("gates", name), f"{name!r} is not in exports{suggestion(name, names)}", at_key=True)


def _opened(
    index: int, backend: BackendConfig, exports: list[ExportConfig], vocabulary: Vocabulary
) -> Iterator[Problem]:
    wanted = vocabulary.opens.get(backend.backend)
    fitting = [each.name for each in exports if each.format == wanted]
    path: KeyPath = ("backends", index)
    if wanted is None and backend.artifact is not None and backend.backend in vocabulary.opens:
        yield Problem((*path, "artifact"), f"{backend.backend} runs the network itself: leave `artifact` out")
    elif wanted is not None and backend.artifact is not None and backend.artifact not in fitting:
        yield Problem(
            (*path, "artifact"),
            f"{backend.artifact!r} is no {wanted} artifact of `exports`{suggestion(backend.artifact, fitting)}",
        )
    elif wanted is not None and backend.artifact is None and artifact_of(backend, exports, vocabulary) is None:
        if fitting:
            yield Problem(
                path,
                f"{backend.name} runs {wanted} files, and `exports` has several ({', '.join(fitting)}): say which with `artifact`",
            )
        else:
            yield Problem(path, f"{backend.name} runs {wanted} files, and `exports` has none: add `{wanted}` to it")


def artifact_of(backend: BackendConfig, exports: list[ExportConfig], vocabulary: Vocabulary) -> str | None:
    """Return the name of the artifact that a backend opens: as it says, the one named like its format, or the only one."""
    wanted = vocabulary.opens.get(backend.backend)
    return backend.artifact or _usual(wanted, exports)


def source_of(export: ExportConfig, exports: list[ExportConfig], vocabulary: Vocabulary) -> str | None:
    """Return the name of the artifact that an artifact is made from, None for the network."""
    before = exports[: exports.index(export)]
    return export.made_from or _usual(vocabulary.derived.get(export.format), before)


def _usual(format_: str | None, exports: list[ExportConfig]) -> str | None:
    fitting = [each.name for each in exports if each.format == format_]
    return format_ if format_ in fitting else fitting[0] if len(fitting) == 1 else None


def named_once(items: Sequence[ExportConfig | BackendConfig], key: str, what: str, advice: str) -> Iterator[Problem]:
    """Yield a problem for each name that several items have."""
    names = [each.name for each in items]
    for name, count in Counter(names).items():
        if count > 1:
            index = len(names) - 1 - names[::-1].index(name)
            yield Problem((key, index), f"{count} {what} are named {name!r}: {advice}")
