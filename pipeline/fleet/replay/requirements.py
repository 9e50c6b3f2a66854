"""What `--with` asks for: sets of distributions in other versions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.errors import InputError

_NEXT = re.compile(r",\s*(?=[A-Za-z])(?![^\[]*\])")
"""A comma between two requirements: one between two bounds is followed by a sign, one between two extras is in brackets."""
_VERSION = r"(?:===?|~=|!=|<=?|>=?)\s*[A-Za-z0-9.*+!_-]+"
_REQUIREMENT = re.compile(
    rf"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?P<extras>\[[A-Za-z0-9._, -]*\])?\s*(?P<bounds>{_VERSION}(?:\s*,\s*{_VERSION})*)?"
)
_OWN = "weighbridge"


@dataclass(frozen=True, slots=True)
class Requirement:
    """A distribution in a version, as pip takes it. `name` is normalised, so that two spellings of it are one."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A set of distributions that shall be tried together; `label` is what it is called in tables."""

    requirements: tuple[Requirement, ...]

    @property
    def label(self) -> str:
        """Return the requirements in a line."""
        return ", ".join(each.text for each in self.requirements)


def candidate(text: str) -> Candidate:
    """Return what one `--with` asks for: "torch==2.14.0, onnxruntime>=1.30,<1.32".

    Raises:
        InputError: nothing is named, something twice, or a thing that is no distribution by name, such as a path or an option.
    """
    found: dict[str, Requirement] = {}
    for part in _NEXT.split(text):
        match = _REQUIREMENT.fullmatch(part.strip())
        if match is None:
            raise InputError(
                f"--with {text!r}: {part.strip()!r} is no distribution with a version",
                hint="write NAME==VERSION, several with commas: --with 'torch==2.14.0, onnxruntime==1.32.0'; a wheel of your own "
                "is found by its name where PIP_FIND_LINKS points to its folder",
            )
        name = normalised(match["name"])
        if name == _OWN:
            raise InputError(
                "--with weighbridge: what replays a release cannot be replaced by it",
                hint="leave it out; an environment with another version of it judges releases by itself: weighbridge verify",
            )
        if name in found:
            raise InputError(f"--with {text!r} names {name} twice", hint="give each set a --with of its own")
        found[name] = Requirement(name, re.sub(r"\s+", "", part))
    return Candidate(tuple(found.values()))


def normalised(name: str) -> str:
    """Return a distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
