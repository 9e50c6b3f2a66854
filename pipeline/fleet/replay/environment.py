"""Environments that differ from the one weighbridge runs in by what was asked for, and by nothing else.

An environment is a folder with the distributions that are another version there, put before everything that is installed here. So
what was not named is not only the same version but the same files, nothing here is written to, and only what changes is fetched.

Two limits follow. A module that the other version no longer has is still found where it is a top-level one. And of distributions that
bring the same module (onnxruntime and onnxruntime-gpu) both are there; backends refuse that with their own reason.
"""

from __future__ import annotations

import platform
import sys
import time
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.fleet.replay import installing
from pipeline.fleet.replay.requirements import normalised
from pipeline.storage.cache import Cache
from pipeline.storage.store import key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pipeline.fleet.replay.installing import Installer, Wheel
    from pipeline.fleet.replay.requirements import Candidate

ENVIRONMENTS = Path(".cache", "environments")
LAYOUT = 1
"""What this module makes of what was asked: part of every key."""


@dataclass(frozen=True, slots=True)
class Change:
    """A distribution whose version differs; `here` is None where it is not installed here."""

    name: str
    here: str | None
    there: str

    def in_words(self) -> str:
        """Return it as "onnxruntime 1.31.0 → 1.32.0"."""
        return f"{self.name} {self.here} → {self.there}" if self.here else f"{self.name} {self.there} (not here today)"


@dataclass(frozen=True, slots=True)
class Environment:
    """What a candidate comes to: what changes, and the folder with it, None where nothing does.

    `conflicts` are what other distributions here ask for and would no longer find. `seconds` is what resolving and installing took.
    """

    candidate: Candidate
    folder: Path | None
    changes: tuple[Change, ...]
    conflicts: tuple[str, ...] = ()
    installer: str = ""
    seconds: float = 0.0
    is_kept: bool = False

    @property
    def above(self) -> tuple[str, ...]:
        """Return the folders that come before what is installed here."""
        return () if self.folder is None else (str(self.folder),)

    @property
    def named(self) -> tuple[Change, ...]:
        """Return the changes that were asked for by name; the others came with them."""
        asked = {each.name for each in self.candidate.requirements}
        return tuple(each for each in self.changes if normalised(each.name) in asked)


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes environments with `tool` and keeps them; `say` is told what is being done."""

    cache: Cache
    tool: Installer
    say: Callable[[str], None]

    def make(self, candidate: Candidate) -> Environment:
        """Return the environment of a candidate, made now unless it is kept.

        Raises:
            UnavailableError: it cannot be made, with the installer's own reason.
            InterruptedRunError: the run was interrupted; nothing is left of what was not finished.
        """
        began_s = time.monotonic()
        tool, here = self.tool, installed()
        self.say(f"asking {tool.name} for {candidate.label}")
        with installing.scratch() as scratch:
            constraints = scratch / "constraints.txt"
            constraints.write_text("\n".join(_stay(here, candidate)), encoding="utf-8")
            wheels = tool.resolve(candidate, constraints, self.say)
        changes = tuple(Change(each.name, here.get(normalised(each.name)), each.version) for each in wheels)
        if not wheels:
            return Environment(candidate, None, (), installer=tool.name, seconds=time.monotonic() - began_s)
        under = key(self._identity(wheels))
        is_kept = self.cache.has(under)
        folder = self.cache.put(
            under, lambda made: tool.install(wheels, made, self.say), f"{candidate.label} by {tool.name}"
        )
        return Environment(
            candidate,
            folder,
            changes,
            tuple(conflicts(folder, changes)),
            tool.name,
            time.monotonic() - began_s,
            is_kept,
        )

    def _identity(self, wheels: Sequence[Wheel]) -> dict[str, object]:
        """Return what an environment is: exactly which distributions, from where, for which Python."""
        return {
            "layout": LAYOUT,
            "python": [sys.implementation.name, platform.python_version(), platform.platform(), sys.base_prefix],
            "wheels": sorted([each.name, each.version, each.origin] for each in wheels),
        }


def environments(out: Path, notice: Callable[[str], None] | None = None) -> Cache:
    """Return where the environments of replays are kept whose releases are written to `out`."""
    return Cache(out / ENVIRONMENTS, notice) if notice else Cache(out / ENVIRONMENTS)


def installed() -> dict[str, str]:
    """Return the version of every distribution that is installed here, by its normalised name."""
    found: dict[str, str] = {}
    for each in metadata.distributions():
        name = each.metadata["Name"]
        if name and each.version:
            found.setdefault(normalised(name), each.version)
    return found


def _stay(here: Mapping[str, str], candidate: Candidate) -> Iterator[str]:
    """Yield the constraints by which everything that was not named stays as it is."""
    named = {each.name for each in candidate.requirements}
    for name, version in sorted(here.items()):
        if name not in named and name != "weighbridge":
            yield f"{name}=={version}"


def conflicts(folder: Path, changes: Sequence[Change]) -> Iterator[str]:
    """Yield what distributions ask for that is not so any more: pip resolves for what is new, not for what is there already."""
    changed = {normalised(each.name): each.there for each in changes}
    requirement = _requirement_class()
    if requirement is None:
        return
    seen = set()
    for each in metadata.distributions(path=[str(folder), *sys.path]):
        name = normalised(each.metadata["Name"] or "")
        if name in seen:
            continue
        seen.add(name)
        for line in each.requires or ():
            try:
                asked = requirement(line)
                is_met = asked.marker is not None and not asked.marker.evaluate({"extra": ""})
                is_met = is_met or asked.specifier.contains(changed.get(normalised(asked.name), ""), prereleases=True)
            except Exception:  # noqa: BLE001, S112 - what somebody else's metadata says
                continue
            if normalised(asked.name) in changed and not is_met:
                yield f"{name} {each.version} asks for {asked.name}{asked.specifier}"


def _requirement_class() -> Any:
    """Return the class that reads requirements, from the package of its own or from pip's copy; None where neither is here."""
    for name in ("packaging.requirements", "pip._vendor.packaging.requirements"):
        try:
            return import_module(name).Requirement
        except ImportError:
            continue
    return None
