"""What a release's report recommends to run, held against its manifest: whoever wrote it may only choose among what was proven.

The report is not signed, and a stranger's may say anything. So what is taken from it is a name in the manifest's list of what was proven,
and options that the backend itself says may be tuned, each with a value that it says may be tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.backends.table import backends
from pipeline.benchmark.machine import cores, processor
from pipeline.benchmark.recommended import FILE, Recommended
from pipeline.release import standalone

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.backends.backend import Backend
    from pipeline.benchmark.recommended import Choice


@dataclass(frozen=True, slots=True)
class Followed:
    """What a recommendation comes to: the choice, None where there is none or it is not followed, and why not in `notes`."""

    choice: Choice | None
    notes: tuple[str, ...] = ()


def follow(release: Path, manifest: Mapping[str, Any]) -> Followed:
    """Return what the report of a release recommends for this processor.

    What the manifest does not list as proven, and what is of another kind of processor or another release, is not followed.
    """
    file = release / standalone.REPORT / FILE
    if not file.is_file() or file.is_symlink():
        return Followed(None)
    try:
        found = Recommended.read(file)
    except (OSError, ValueError) as error:
        return _ignored(f"it cannot be read ({str(error)[:200]})")
    if found.digest != manifest.get("digest"):
        return _ignored("it is about another release")
    if found.processor != processor():
        return _ignored(f"it holds for {found.processor[:80]}, and this is {processor()}")
    known = backends().get(found.choice.backend)
    if known is not None and found.device != known.device_facts():
        return _ignored(
            f"it holds for {found.device[:80] or 'no such device'}, and here is {known.device_facts() or 'none'}"
        )
    problem = _unproven(found.choice, manifest, most_threads=cores())
    return _ignored(problem) if problem else Followed(found.choice)


def is_good_enough(model: Mapping[str, Any]) -> bool:
    """Whether a model may be taken without being named: it computes what the network does, or its accuracy was shown to be enough.

    What was judged and is not good enough is in no release.
    """
    return not model.get("golden") or bool(model.get("accuracy"))


def unjudged(manifest: Mapping[str, Any]) -> list[str]:
    """Return the names of backends that run what is not shown to be good enough."""
    names = {each.get("name") or each["format"] for each in manifest["models"] if not is_good_enough(each)}
    return [
        name for name, each in manifest["backends"].items() if (each.get("artifact") or each.get("format")) in names
    ]


def _ignored(why: str) -> Followed:
    return Followed(None, (f"what report/{FILE} recommends is not followed: {why}",))


def _unproven(choice: Choice, manifest: Mapping[str, Any], *, most_threads: int) -> str | None:
    """Return why a choice is none among what was proven."""
    listed = manifest["backends"].get(choice.variant)
    if listed is None or listed["verdict"] != "pass":
        return f"the manifest does not list {choice.variant[:80]!r} as proven"
    opened = listed.get("artifact") or listed["format"]
    if listed["backend"] != choice.backend or opened != choice.artifact or opened is None:
        return f"{choice.variant} was proven with {opened} on {listed['backend']}, not {choice.artifact[:80]} on {choice.backend[:80]}"
    opens = [each for each in manifest["models"] if (each.get("name") or each["format"]) == opened]
    if not all(map(is_good_enough, opens)):
        return f"{opened} has a precision of its own, and nobody has shown that it is good enough"
    backend = backends().get(choice.backend)
    if backend is None:
        return f"there is no backend {choice.backend} here"
    return _untried(choice, listed["options"], backend, most_threads)


def _untried(choice: Choice, proven: Mapping[str, Any], backend: Backend, most_threads: int) -> str | None:
    """Return which of a choice's options is neither proven nor one to tune."""
    for name, value in choice.options.items():
        if name in proven and _is_same(proven[name], value):
            continue
        is_count = name == backend.threads_option and type(value) is int and 1 <= value <= most_threads
        if not is_count and not any(_is_same(each, value) for each in backend.tunable.get(name, ())):
            return (
                f"{choice.variant} was not proven with {name[:80]} {str(value)[:80]}, which is not one to tune either"
            )
    if missing := proven.keys() - choice.options.keys():
        return f"{choice.variant} was proven with {', '.join(sorted(missing))} set"
    return None


def _is_same(one: object, other: object) -> bool:
    """Whether values are equal and of one type: in Python True is 1."""
    return type(one) is type(other) and one == other
