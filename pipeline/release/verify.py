"""Does a release still hold: its digests, its manifest, and its golden cases on every backend that can run here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.backends.table import NETWORK
from pipeline.backends.table import backends as table
from pipeline.errors import InputError, UnavailableError, WeighbridgeError
from pipeline.release import bundle, opening, signing, standalone
from pipeline.release.manifest import Manifest
from pipeline.storage.store import canonical_json

if TYPE_CHECKING:
    from pipeline.interface import Array, Arrays

Run = Callable[[str, Path | None, "Arrays"], Mapping[str, "Array"]]
"""`run(backend, file, inputs)` returns the outputs by name, wherever it runs them; no file means the network itself."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose release it must be: signed with the private half of `key`, and of a version no older than `at_least`."""

    key: Path | None = None
    at_least: str | None = None


@dataclass(frozen=True, slots=True)
class Stated:
    """What a config says that a release must be made of: the config, filled in, and two digests."""

    config: Mapping[str, Any]
    weights_sha256: str
    architecture_sha256: str


ANYBODY = Origin()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verifying a release found: nothing in `problems` if it holds, and the backends that ran the golden cases."""

    release: Path
    name: str
    version: str
    backends: tuple[str, ...]
    cases: int
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether everything holds."""
        return not self.problems


def verify(
    path: Path, *, backends: Sequence[str] | None = None, origin: Origin = ANYBODY, run: Run | None = None
) -> Verdict:
    """Check a release's digests, manifest and origin, then its golden cases on the backends named, or on all that can run.

    `run` executes a file on a backend; without it what the shipped verifier runs is run in this process, and nothing else.
    Raises InputError if there is no release or no such backend or key, UnavailableError if a named backend cannot run,
    and UnsafeError if it would run machine code of a release whose signature was not checked.
    """
    release = bundle.find(path)
    problems = check(release) or check_origin(release, origin)
    if problems:
        return Verdict(release, release.parent.name, release.name, (), 0, tuple(problems))
    manifest = standalone.read_manifest(release)
    golden = standalone.read_golden(release / standalone.GOLDEN)
    ran = []
    chosen, notes = _possible(manifest, run, origin) if backends is None else (backends, ())
    for backend in chosen:
        if backend in table():
            opening.require_known_maker(table()[backend].format, is_signed=origin.key is not None)
        for model in _models_of(manifest, backend):
            found = _golden_problems(release, model, backend, run)
            if found is not None:
                ran.append(backend)
                problems += found
            elif backends is not None:
                raise UnavailableError(f"{backend} cannot run here", hint=f"install {table()[backend].install}")
    if not ran:
        problems.append("no backend of this release can run here, so the golden cases did not run")
    return Verdict(
        release,
        manifest["name"],
        manifest["version"],
        tuple(dict.fromkeys(ran)),
        len(golden.cases),
        tuple(problems),
        notes,
    )


def against(verdict: Verdict, stated: Stated, run: Run) -> Verdict:
    """Return a verdict with what a config says added: is the release made of it, and does its network agree with it."""
    manifest = standalone.read_manifest(verdict.release)
    problems = differences(manifest, stated)
    if any(manifest["config"][part] != stated.config[part] for part in ("inputs", "outputs")):
        return replace(verdict, problems=tuple(problems))  # a network that takes or gives something else
    golden = standalone.read_golden(verdict.release / standalone.GOLDEN)
    problems += _run_problems(NETWORK, None, golden, run)
    return replace(verdict, problems=tuple(problems), backends=(*verdict.backends, NETWORK))


def differences(manifest: Mapping[str, Any], stated: Stated) -> list[str]:
    """Return where a release is made of something else than what a config says."""
    # How a release was timed is no part of what it is.
    wanted_config = {**json.loads(canonical_json(stated.config)), "benchmark": manifest["config"].get("benchmark")}
    told = [
        ("config", manifest["config"], wanted_config),
        ("weights", manifest["weights"]["sha256"], stated.weights_sha256),
        ("architecture", manifest["architecture"]["sha256"], stated.architecture_sha256),
    ]
    return [
        f"{where}: the release has {json.dumps(released)}, the config gives {json.dumps(wanted)}"
        for what, one, other in told
        for where, released, wanted in _differences(what, one, other)
    ]


def check_origin(release: Path, origin: Origin) -> list[str]:
    """Return why a release is not by whom, or as new as, it must be."""
    problems = signing.check(release, origin.key) if origin.key else []
    if origin.at_least is None:
        return problems
    try:
        return problems + standalone.check_at_least(standalone.read_manifest(release)["version"], origin.at_least)
    except ValueError as error:
        raise InputError(f"--at-least: {error}", hint="give a version such as 1.2.0") from error


def _differences(where: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            yield from _differences(f"{where}.{name}", one.get(name), other.get(name))
    elif one != other:
        yield where, one, other


def check(release: Path) -> list[str]:
    """Return what is wrong with a release's files and manifest, running nothing.

    Raises UnsafeError for a release that may not be opened, even if its digests agree.
    """
    return standalone.check_files(release) or check_unread(release)


def check_unread(release: Path) -> list[str]:
    """Do all of `check` but for reading every file to compare digests."""
    return standalone.check_manifest(release) or _check_content(release)


def _check_content(release: Path) -> list[str]:
    """Check what the shipped verifier leaves out: the manifest's schema, and that its models are its files, and safe."""
    try:
        manifest = standalone.read_manifest(release)
        Manifest.model_validate_json((release / standalone.MANIFEST).read_bytes())
        if problems := opening.check_contents(release, manifest):
            return problems
        for model in manifest["models"]:
            standalone.golden_of(release, manifest, model["path"])
        models = {model["path"] for model in manifest["models"]}
        listed = {entry["path"] for entry in manifest["files"] if entry["role"] == "model"}
    except (ValueError, KeyError, TypeError) as error:
        return [f"{standalone.MANIFEST}: {error}"]
    return [] if models == listed else [f"{standalone.MANIFEST}: its models differ from its files"]


def _possible(manifest: Mapping[str, Any], run: Run | None, origin: Origin) -> tuple[list[str], tuple[str, ...]]:
    """Return the backends that open one of the release's formats and can run here, and what is said of those that may not."""
    formats = {model["format"] for model in manifest["models"]}
    able = [
        name
        for name, backend in table().items()
        if backend.format in formats and (run is not None or name in standalone.RUNNERS) and backend.probe() is None
    ]
    refused = [name for name in able if origin.key is None and opening.is_native(table()[name].format)]
    notes = [
        f"{name} did not run: its file is {opening.native_as(table()[name].format)}, which runs only with --key"
        for name in refused
    ]
    return [name for name in able if name not in refused], tuple(notes)


def _models_of(manifest: Mapping[str, Any], backend: str) -> list[str]:
    formats = [model["format"] for model in manifest["models"]]
    if backend not in table():
        able = [name for name, each in table().items() if each.format in formats]
        raise InputError(f"there is no backend {backend!r}", hint=f"choose from {', '.join(able)}")
    wanted = table()[backend].format
    if found := [str(model["path"]) for model in manifest["models"] if model["format"] == wanted]:
        return found
    told = f"{backend} runs {wanted or 'the network itself'}, and this release holds {', '.join(formats)}"
    raise InputError(told, hint="leave --backend out: every one that can run its files is taken")


def _golden_problems(release: Path, model: str, backend: str, run: Run | None) -> list[str] | None:
    if run is None:
        if backend not in standalone.RUNNERS:
            return None
        return standalone.check_golden(release, model, backend)
    own = standalone.golden_of(release, standalone.read_manifest(release), model)
    return _run_problems(backend, release / model, own, run)


def _run_problems(backend: str, file: Path | None, golden: standalone.Golden, run: Run) -> list[str]:
    problems = []
    for case in golden.cases:
        try:
            outputs = run(backend, file, case.inputs)
        except WeighbridgeError as error:
            problems.append(f"{backend}: {case.name}: {error.message}")
        else:
            problems += [f"{backend}: {problem}" for problem in standalone.judge(golden, case, outputs)]
    return problems
