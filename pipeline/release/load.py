"""A release as a function: named arrays in, named arrays out, checked against what the manifest declares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.backends.backend import Source
from pipeline.backends.inputs import check_inputs
from pipeline.backends.table import backends
from pipeline.benchmark.recommended import FILE
from pipeline.errors import DigestError, InputError, UnavailableError, WeighbridgeError, WorkerError
from pipeline.formats.table import formats
from pipeline.release import bundle, opening, recommended, signing, standalone
from pipeline.release.verify import check, check_unread
from pipeline.storage.store import read_json

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from pipeline.backends.backend import Backend
    from pipeline.interface import Array, Arrays, Interface

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Model:
    """An opened release. Calls are independent of each other and may come from several threads.

    `rows`: what its manifest says of rows of a batch, None for older ones. `labels`: the names of classes along the last axis of
    an output, for those that the manifest names. `options` are those that the backend was opened with; `notes` say what was
    recommended and not followed.
    """

    name: str
    version: str
    backend: str
    interface: Interface
    run: Callable[[Arrays], dict[str, Any]]
    rows: Mapping[str, Any] | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __call__(self, **inputs: Any) -> dict[str, Array]:
        """Return the outputs by name; raises InputError for inputs the manifest does not declare so.

        A nested input is given as the network takes it (lists and dicts of arrays), or array by array as {"past.0.key": …}.
        """
        if any("." in spec.name for spec in self.interface.inputs):
            inputs = dict(_leaves(inputs, ""))
        check_inputs(self.interface, inputs)
        with _failing(f"{self.name} {self.version} on {self.backend}"):
            return self.run(inputs)


def _leaves(value: Mapping[str, Any] | Sequence[Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        name = f"{path}.{key}" if path else str(key)
        if isinstance(item, dict | list | tuple):
            yield from _leaves(item, name)
        else:
            yield name, item


def load_release(
    path: str | os.PathLike[str],
    *,
    backend: str | None = None,
    device: str = "cpu",
    verify: bool = True,
    key: str | os.PathLike[str] | None = None,
) -> Model:
    """Open a release: its directory, its manifest.json, or `artifacts/<name>` for the latest one.

    `backend` is a backend's name, or a variant's that the release was proven with, which brings its options. Without it
    the release runs as `weighbridge tune` recommends, if it did for this kind of processor, and else on `device` with whichever of
    its proven variants was the fastest when it was timed, of those that can run here; an artifact in a precision of its own only if its accuracy
    was shown to be enough. `verify` checks every digest first. Without it the files are opened as they are; TorchScript, whose loader trusts
    its file, never is. With `key`, a public key's file, the release must be signed by it; files that are machine code are only opened
    then. Raises DigestError, InputError, UnsafeError for a release that may not be opened, and
    UnavailableError if no backend can run it here.
    """
    if device not in DEVICES:
        raise InputError(f"there is no device {device!r}", hint=f"choose from {', '.join(DEVICES)}")
    release = bundle.find(Path(path))
    problems = check(release) if verify else check_unread(release)
    if key is not None and not problems:
        problems = signing.check(release, Path(key))
    if problems:
        raise DigestError(
            f"{release} is not what was released: {'; '.join(problems[:3])}", hint="fetch the release again"
        )
    manifest = standalone.read_manifest(release)
    is_signed = verify and key is not None  # a signature is of digests, which say something once they were compared
    allowed = _Allowed(device, may_run_code=verify, is_signed=is_signed)
    chosen, file, options, notes = _recommended(release, manifest, allowed) if backend is None else _NOTHING
    if chosen is None:
        candidates = [backend] if backend else _by_speed(release, manifest, allowed)
        chosen, file, options = _choose(candidates, release, manifest, is_named=backend is not None)
    if not verify and (_runs_code(chosen) or opening.is_native(chosen.format)):
        raise InputError(f"a {chosen.format} file is only opened once its digest is checked", hint="leave verify=True")
    opening.require_known_maker(chosen.format, is_signed=is_signed)
    interface = bundle.interface_from(manifest)
    source = Source(interface, file)
    with _failing(f"{release} on {chosen.name}"):
        session = chosen.open(source, _validated(chosen, options))
    labels = {each["name"]: tuple(each["labels"]) for each in manifest["outputs"] if each.get("labels")}
    return Model(
        manifest["name"],
        manifest["version"],
        chosen.name,
        interface,
        session.run,
        manifest.get("rows"),
        labels,
        options,
        notes,
    )


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Turn whatever a runtime raises about a release into an error that names it."""
    try:
        yield
    except WeighbridgeError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise WorkerError(
            f"{what} failed: {reason[:300]}", hint="weighbridge verify says whether it ever held"
        ) from error


def _validated(backend: Backend, options: Mapping[str, Any]) -> Any:
    try:
        return backend.options.model_validate(options)
    except ValueError as error:
        raise InputError(
            f"the release states options that {backend.name} does not take: {_one_line(error)}",
            hint="name another --backend",
        ) from error


def _one_line(error: ValueError) -> str:
    return " ".join(str(error).split())[:300]


@dataclass(frozen=True, slots=True)
class _Allowed:
    """What may be opened without being named: on which device, whether files that bring code, and whether machine code."""

    device: str
    may_run_code: bool
    is_signed: bool

    def takes(self, backend: Backend) -> bool:
        """Whether a backend is one of these."""
        return (
            backend.device == self.device
            and (self.is_signed or not opening.is_native(backend.format))
            and (self.may_run_code or not _runs_code(backend))
        )


_Opened = tuple["Backend | None", Path, "Mapping[str, Any]", tuple[str, ...]]
_NOTHING: _Opened = (None, Path(), {}, ())


def _recommended(release: Path, manifest: Mapping[str, Any], allowed: _Allowed) -> _Opened:
    """Return the recommended backend with its file and options, or none and why it is not followed."""
    found = recommended.follow(release, manifest)
    if found.choice is None:
        return None, Path(), {}, found.notes
    chosen, choice = backends()[found.choice.backend], found.choice
    why = (
        chosen.probe()
        if allowed.takes(chosen)
        else f"{choice.variant} is opened on {chosen.device} only, machine code with --key only"
    )
    models = (each for each in manifest["models"] if (each.get("name") or each["format"]) == choice.artifact)
    file = next((each for each in models if each["format"] == chosen.format), None)
    if why or file is None:
        said = why or f"{choice.artifact} is no file of this release that {chosen.name} opens"
        return None, Path(), {}, (f"what report/{FILE} recommends is not followed: {said}",)
    return chosen, release / file["path"], choice.options, ()


def _by_speed(release: Path, manifest: Mapping[str, Any], allowed: _Allowed) -> list[str]:
    """Return the names to try: what was proven, the fastest first, then whatever else opens one of the release's formats.

    Of those that were not timed, the ones come first whose files bring no code.
    """
    proven = manifest["backends"]
    medians = _medians_ms(release)
    unjudged = recommended.unjudged(manifest)
    known = [
        name
        for name, each in proven.items()
        if each["format"] and each["backend"] in backends() and name not in unjudged
    ]
    held = {model["format"] for model in manifest["models"]}
    others = [name for name, each in backends().items() if each.format in held]
    by_name = {name: backends()[name] for name in others} | {
        name: backends()[proven[name]["backend"]] for name in known
    }

    def rank(name: str) -> tuple[float, bool, bool]:
        return medians.get(name, math.inf), _runs_code(by_name[name]), name not in proven

    return sorted((name for name, each in by_name.items() if allowed.takes(each)), key=rank)


def _runs_code(backend: Backend) -> bool:
    """Whether what a backend opens brings code: then only digests that were checked say whose."""
    known = formats().get(backend.format or "")
    return known is None or known.runs_code


def _medians_ms(release: Path) -> dict[str, float]:
    """Return how fast each variant was when the release was timed: the mean of the logarithms over all sizes.

    That is at its best number of threads, where several were timed. A report is of the machine that built the release, and may
    hold no timings: then nothing is returned.
    """
    try:
        report = read_json(release / standalone.REPORT / "benchmark.json")
        rows = [row for each in report["sizes"] for row in each["rows"] if row["median_ms"]]
        logs: dict[str, list[float]] = {}
        for row in rows:
            logs.setdefault(row["name"], []).append(math.log(row["median_ms"]))
        means = {name: sum(each) / len(each) for name, each in logs.items() if len(each) == len(report["sizes"])}
        arms = {name: report.get("arms", {}).get(name, {}).get("variant", name) for name in means}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return {}
    return {variant: min(means[name] for name in arms if arms[name] == variant) for variant in arms.values()}


def _choose(
    names: Sequence[str], release: Path, manifest: Mapping[str, Any], *, is_named: bool
) -> tuple[Backend, Path, Mapping[str, Any]]:
    """Return the first backend of these that can run the release here, with the file it opens and its options."""
    reasons = []
    proven, models = manifest["backends"], manifest["models"]
    for name in names:
        variant = proven.get(name, {"backend": name, "options": {}})
        backend = backends().get(variant["backend"])
        if backend is None:
            able = [each.name for each in backends().values() if each.format in {model["format"] for model in models}]
            raise InputError(f"there is no backend {name!r}", hint=f"choose from {', '.join(able)}")
        wanted = variant.get("artifact") or backend.format
        fitting = [
            each
            for each in models
            if each["format"] == backend.format and (is_named or recommended.is_good_enough(each))
        ]
        named = [each for each in fitting if each.get("name", each["format"]) == wanted]
        model = next(iter(named or fitting), None)
        if model is None:
            reasons.append(f"{name} runs {backend.format or 'the network itself'}, which is not in the release")
            continue
        reason = backend.probe()
        if reason is None:
            return backend, release / model["path"], variant["options"]
        reasons.append(f"{name}: {reason}; install {backend.install}")
    told = f"no backend can run this release (it holds {', '.join(each['format'] for each in models)})"
    hint = "leave --backend out: the fastest that can run here is taken" if is_named else "install one of these"
    raise UnavailableError("\n  ".join([f"{told}:", *reasons]), hint=hint)
