"""A release on disk: written whole under the digest of its content, found again, never changed."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, UnsafeError
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.release import card, identity, sealing, signing, standalone
from pipeline.storage.store import (
    atomic_directory,
    atomic_write,
    digest_file,
    disk_errors,
    exchange,
    lock,
    private_directory,
    publish,
    sweep,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.release.standalone import Golden

VERIFIER = "verify.py"
LATEST = "latest"
FAILED = "failed"
CRASHES = "crashes"
VARIES = "varies"
"""The fact of a model that says why another build may give it other bytes."""

_MAX_LATEST_BYTES = 1024
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
"""What a name or a version may be: nothing that leads out of the folder it is in."""
_RESERVED = {
    standalone.MANIFEST,
    standalone.SIGNATURE,
    standalone.SUMS,
    standalone.GOLDEN,
    standalone.REPORT,
    VERIFIER,
    identity.SBOM,
    identity.PROVENANCE,
    card.CARD,
    "reference.npz",
    "reference.safetensors",
}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A canonical model file: where it lies now, and its name in the release; `extra_files` (name → path) go beside it.

    `name` is the artifact's, `made_from` that of the one it was made from; `gate` its outputs' own budgets, `accuracy` what was
    shown of how good it is, `facts` are JSON values for the manifest. `golden`: the artifact whose own golden cases it is held to; None for
    the network's.
    """

    name: str
    format: str
    name_in_release: str
    path: Path
    extra_files: Mapping[str, Path] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    made_from: str | None = None
    gate: Mapping[str, Any] | None = None
    golden: str | None = None
    accuracy: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ReleaseContent:
    """All that a release holds.

    `manifest` is what the caller knows (JSON values), `report` relative name → bytes, `sign` a private key's file,
    `own_golden` the golden cases of artifacts of a precision of their own, `reference` the recorded outputs of the trained network, `beside` what belongs to the network: its tokenizer, names of classes.
    """

    name: str
    version: str | None
    models: tuple[ModelFile, ...]
    golden: Golden
    manifest: Mapping[str, Any]
    report: Mapping[str, bytes]
    sign: Path | None = None
    reference: Path | None = None
    beside: tuple[Path, ...] = ()
    own_golden: Mapping[str, Golden] = field(default_factory=dict)


def write(content: ReleaseContent, root: Path) -> Path:
    """Write `root/<name>/<version>/` whole, point `latest` at it, and return it.

    The version defaults to the first 12 hex digits of the content's digest. A release of the same content stays
    untouched, whatever its report says; one of the same version and another content is an InputError.
    """
    _check_names(content)
    releases = root / content.name
    with private_directory(releases) as temporary:
        version = _fill(temporary, content)
        return take_place(temporary, releases, version, is_named=content.version is not None)


def take_place(built: Path, releases: Path, version: str, *, is_named: bool) -> Path:
    """Move a whole release to its place among those of its name, and point `latest` at it; return it."""
    release = releases / version
    with lock(releases / ".lock", f"waiting for another process that writes a release of {releases.name}"):
        _place(built, release, is_named=is_named)
        atomic_write(releases / LATEST, f"{version}\n".encode())
    return release


def write_failed(name: str, root: Path, report: Mapping[str, bytes]) -> Path:
    """Write the report of a run that ended without a release to `root/<name>/failed/`, in place of an older one."""
    check_name(name, "a release")
    failed = root / name / FAILED
    with atomic_directory(failed, replace=True) as temporary:
        _write_report(temporary, report)
    return failed


def find(path: Path) -> Path:
    """Return the release that a path means: itself, its manifest.json, or `artifacts/<name>` through `latest`.

    Raises InputError where there is none, with what lies there instead.
    """
    if path.name == standalone.MANIFEST and path.is_file():
        return path.parent
    if (path / standalone.MANIFEST).is_file():
        return path
    latest = path / LATEST
    if latest.is_file():
        version = stated_latest(latest)
        if NAME.fullmatch(version) and (path / version / standalone.MANIFEST).is_file():
            return path / version
        raise InputError(
            f"{latest} names {version[:80]!r}, which is no release", hint=f"name the folder of a version below {path}"
        )
    raise InputError(f"{path} holds no release", hint=_hint(path))


def stated_latest(file: Path) -> str:
    """Return what a file `latest` says, whatever that is; raises OSError where it cannot be read."""
    with file.open("rb") as opened:
        return opened.read(_MAX_LATEST_BYTES).decode(errors="replace").strip()


def file_digests(release: Path) -> dict[str, str]:
    """Return the SHA-256 of every file outside `report/`, by name."""
    names = (name for name in standalone.list_files(release) if not name.startswith(f"{standalone.REPORT}/"))
    return {name: digest_file(release / name) for name in names}


def varying_files(release: Path) -> set[str]:
    """Return the files that another build may give other bytes, as their formats say of themselves, and those that state digests of such."""
    models = standalone.read_manifest(release)["models"]
    varying = {name for model in models if model["facts"].get(VARIES) for name in model["files"]}
    stating = {standalone.MANIFEST, standalone.SIGNATURE, standalone.SUMS, identity.SBOM, identity.PROVENANCE}
    return varying | stating if varying else set()


def interface_facts(interface: Interface) -> dict[str, Any]:
    """Return the manifest's `inputs`, `outputs` and `dimensions`."""
    return {
        "dimensions": {
            each.name: {"max": each.max, "min": each.min, "multiple_of": each.multiple_of}
            | ({"formula": each.formula} if each.formula else {})
            for each in interface.dimensions
        },
        "inputs": [
            {"dtype": each.dtype, "high": each.high, "low": each.low, "name": each.name, "shape": list(each.shape)}
            | ({"preprocess": asdict(each.preprocess)} if each.preprocess else {})
            for each in interface.inputs
        ],
        "outputs": [{"name": name} for name in interface.outputs],
    }


def interface_from(manifest: Mapping[str, Any]) -> Interface:
    """Return the interface a manifest states; raises InputError if it states none."""
    try:
        return Interface(
            tuple(
                InputSpec(each["name"], each["dtype"], tuple(each["shape"]), each.get("low"), each.get("high"))
                for each in manifest["inputs"]
            ),
            tuple(
                Dimension(name, each["min"], each["max"], each.get("multiple_of", 1), each.get("formula"))
                for name, each in manifest["dimensions"].items()
            ),
            tuple(each["name"] for each in manifest["outputs"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{standalone.MANIFEST} states no inputs, outputs and dimensions ({error!r})",
            hint="fetch the release again",
        ) from error


def add_to_report(release: Path, files: Mapping[str, bytes]) -> None:
    """Put files into a release's report, in place of older ones of their names: the whole folder is exchanged.

    Raises:
        UnsafeError: the folder holds a link, which would lead somewhere else.
    """
    report = release / standalone.REPORT
    if linked := next((each for each in (report, *report.rglob("*")) if each.is_symlink()), None):
        raise UnsafeError(f"{linked} is a link: what is written there would go elsewhere", hint="remove it")
    kept = {name: (report / name).read_bytes() for name in standalone.list_files(report) if name != standalone.SUMS}
    sweep(release.parent)  # what a run left that was killed here
    with private_directory(release.parent) as temporary, disk_errors(release):
        _write_report(temporary, {**kept, **files})
        exchange(temporary / standalone.REPORT, report, temporary / "old")


def _place(built: Path, release: Path, *, is_named: bool) -> None:
    if not release.exists():
        publish(built, release)
    elif not _same_release(built, release):
        if not is_named:  # the version is the content's digest, so what differs there is a damaged copy of this
            publish(built, release, replace=True)
            return
        raise InputError(
            f"{release} exists and differs from what was built now",
            hint="set release.version to a new one (or leave it out), or remove that directory",
        )


def _fill(directory: Path, content: ReleaseContent) -> str:
    """Write every file of a release, the manifest, its signature and the digests last; return the version."""
    signer = signing.read_signer(content.sign) if content.sign else None
    manifest: dict[str, Any] = {
        **content.manifest,
        "golden": {"cases": [case.name for case in content.golden.cases], "path": standalone.GOLDEN},
        "models": [_model_facts(model) for model in content.models],
        "name": content.name,
        "schema_version": standalone.SCHEMA_VERSION,
        "signed_by": signer.key_id if signer else None,
    }
    roles = _write_files(directory, content)
    facts = [sealing.file_facts(directory, name, role) for name, role in sorted(roles.items())]
    version = sealing.seal(directory, manifest, facts, content.version, signer)
    _write_report(directory, content.report)
    return version


def _write_files(directory: Path, content: ReleaseContent) -> dict[str, str]:
    roles = {standalone.GOLDEN: "golden", VERIFIER: "verifier"}
    for model in content.models:
        shutil.copyfile(model.path, directory / model.name_in_release)
        roles[model.name_in_release] = "model"
        for name, path in model.extra_files.items():
            shutil.copyfile(path, directory / name)
            roles[name] = "weights"
    if content.reference:
        name = reference_name(content.reference)
        shutil.copyfile(content.reference, directory / name)
        roles[name] = "reference"
    for path in content.beside:
        shutil.copyfile(path, directory / path.name)
        roles[path.name] = "beside"
    from pipeline.release import golden  # numpy: what a run with nothing to do can do without

    (directory / standalone.GOLDEN).write_bytes(golden.golden_bytes(content.golden))
    for artifact, own in sorted(content.own_golden.items()):
        (directory / own_golden_name(artifact)).write_bytes(golden.golden_bytes(own))
        roles[own_golden_name(artifact)] = "golden"
    shutil.copyfile(Path(standalone.__file__), directory / VERIFIER)
    return roles


def own_golden_name(artifact: str) -> str:
    """Return what the golden cases of an artifact of a precision of its own are called in a release."""
    return f"golden.{artifact}.safetensors"


def reference_name(path: Path) -> str:
    """Return what the recorded outputs of the trained network are called in a release."""
    return f"reference{path.suffix}"


def _model_facts(model: ModelFile) -> dict[str, Any]:
    return {
        "facts": dict(model.facts),
        "files": [model.name_in_release, *sorted(model.extra_files)],
        "format": model.format,
        "gate": model.gate and dict(model.gate),
        **({"golden": own_golden_name(model.golden)} if model.golden else {}),
        **({"accuracy": dict(model.accuracy)} if model.accuracy else {}),
        "made_from": model.made_from,
        "name": model.name,
        "path": model.name_in_release,
    }


def _write_report(directory: Path, report: Mapping[str, bytes]) -> None:
    (directory / standalone.REPORT).mkdir()
    sums = {}
    for name, content in report.items():
        relative = PurePosixPath(name)
        if relative.is_absolute() or not all(NAME.fullmatch(part) for part in relative.parts):
            raise ValueError(f"{name!r} cannot name a file of the report")
        path = directory / standalone.REPORT / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        sums[str(relative)] = hashlib.sha256(content).hexdigest()
    text = standalone.format_sums(sums)
    (directory / standalone.REPORT / standalone.SUMS).write_text(text, encoding="utf-8")


def _same_release(built: Path, existing: Path) -> bool:
    # The digests of what was built are fresh; those of what exists are checked, not believed.
    same_sums = (existing / standalone.SUMS).is_file() and (
        (existing / standalone.SUMS).read_bytes() == (built / standalone.SUMS).read_bytes()
    )
    with disk_errors(existing):
        return same_sums and not [
            problem for problem in standalone.check_files(existing) if not problem.startswith(f"{standalone.REPORT}/")
        ]


def _check_names(content: ReleaseContent) -> None:
    check_name(content.name, "a release")
    if content.version is not None:
        check_name(content.version, "a version")
        if content.version in {LATEST, FAILED, CRASHES}:
            raise InputError(
                f"release.version cannot be {content.version!r}: that name is taken", hint="choose another"
            )
    names = [name for model in content.models for name in (model.name_in_release, *model.extra_files)]
    check_beside([each.name for each in content.beside], names)
    wrong = [name for name in names if not NAME.fullmatch(name) or name in _RESERVED]
    if wrong or len(set(names)) != len(names):
        raise ValueError(f"model files need distinct plain names: {names}")


def check_beside(names: Sequence[str], taken: Sequence[str]) -> None:
    """Raise InputError for a file that belongs to the network and cannot have its name in a release."""
    for index, name in enumerate(names):
        check_name(name, "a file beside the model")
        if name in {*_RESERVED, *taken, *names[:index]} or name.startswith(standalone.REPORT):
            raise InputError(
                f"release.beside: {name} has the name of another file of the release",
                hint="rename the file, or leave it out",
            )


def check_name(name: str, what: str) -> None:
    """Raise InputError for what cannot be the name of a folder or file of a release."""
    if not NAME.fullmatch(name):
        raise InputError(
            f"{name[:140]!r} cannot name {what}",
            hint="use up to 128 letters, digits, dots, dashes, underscores and plus signs, a letter or digit first",
        )


def _hint(path: Path) -> str:
    if not path.exists():
        return "the path does not exist: give a release directory, or artifacts/<name>"
    if (path / FAILED).is_dir():
        return f"the last run failed: read {path / FAILED / standalone.REPORT}"
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir() if (entry / LATEST).is_file())
        if names:
            return f"give one of {', '.join(str(path / name) for name in names[:5])}"
    return "give a release directory, or artifacts/<name> after `weighbridge export`"
