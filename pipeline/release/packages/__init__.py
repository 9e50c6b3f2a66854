"""A release laid out for the servers and registries that others run: a file a kind, one table, no server of our own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from pipeline.errors import DigestError, InputError
from pipeline.release import bundle
from pipeline.release.packages import content, huggingface, mlflow, oci, ort, triton, zipped
from pipeline.release.recommended import follow, is_good_enough
from pipeline.release.verify import check
from pipeline.storage.store import private_directory, publish

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.release.packages.content import Content


@dataclass(frozen=True, slots=True)
class Packaged:
    """What was written, the command that uses it, and what to know before."""

    path: Path
    next_step: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to lay a release out: `write(content, path)` makes `path`, a folder, or a file with that `suffix`.

    `models` are those that go into it, as the manifest has them; `notes` are what whoever uses it must know.
    """

    write: Callable[[Content, Path], None]
    next_step: str
    suffix: str = ""
    notes: Callable[[Content], tuple[str, ...]] = lambda _: ()
    models: Callable[[Content], Sequence[Mapping[str, Any]]] = lambda content: content.manifest["models"]


KINDS: Mapping[str, Kind] = {
    "triton": Kind(triton.write, "tritonserver --model-repository={path}", notes=triton.notes),
    "mlflow": Kind(
        mlflow.write,
        "mlflow models serve --model-uri {path} --env-manager local",
        notes=mlflow.notes,
        models=lambda each: [each.onnx("mlflow")],
    ),
    "huggingface": Kind(huggingface.write, "hf upload OWNER/NAME {path}  # OWNER/NAME: your repository on the Hub"),
    "ort": Kind(ort.write, ort.NEXT, notes=ort.notes),
    "oci": Kind(
        oci.write,
        "oras copy --from-oci-layout {layout} REGISTRY/NAME:{version}  # REGISTRY/NAME: where it goes",
    ),
    "zip": Kind(zipped.write, "python -m zipfile -e {path} . && python {name}-{version}/verify.py", ".zip"),
}


def package(release: Path, kind: str, out: Path | None = None) -> Packaged:
    """Lay a release out as `kind` at `out` (default: NAME-VERSION-KIND in the working directory).

    The same release gives the same bytes. What is there already stays if it is the same; otherwise it is an InputError.
    Raises InputError for an unknown kind or a release that the kind cannot hold, DigestError for a damaged release.
    """
    if kind not in KINDS:
        raise InputError(f"there is no package {kind!r}", hint=f"choose from {', '.join(KINDS)}")
    found = bundle.find(release)
    if problems := check(found):
        raise DigestError(
            f"{found} is not what was released: {'; '.join(problems[:3])}", hint="fetch the release again"
        )
    released = content.read(found)
    chosen = KINDS[kind]
    name = f"{released.name}-{released.version}"
    path = out or Path(f"{name}{chosen.suffix}" if chosen.suffix else f"{name}-{kind}")
    with private_directory(path.absolute().parent) as temporary:
        built = temporary / "built"
        if not chosen.suffix:
            built.mkdir()
        chosen.write(released, built)
        _place(built, path)
    next_step = chosen.next_step.format(
        path=quote(str(path)),
        layout=quote(f"{path}:{released.version}"),
        name=released.name,
        version=released.version,
    )
    return Packaged(
        path,
        next_step,
        (*follow(found, released.manifest).notes, *_unshown(chosen.models(released)), *chosen.notes(released)),
    )


def _unshown(models: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Say which models go into a package although nobody has shown that they are good enough."""
    return tuple(
        f"{each.get('name') or each['format']} has a precision of its own, and nobody has shown that it is good enough (gates.NAME.accuracy)"
        for each in models
        if not is_good_enough(each)
    )


def _place(built: Path, path: Path) -> None:
    is_other_kind = path.exists() and path.is_dir() != built.is_dir()
    if is_other_kind or (path.is_file() and path.read_bytes() != built.read_bytes()):
        raise InputError(f"{path} exists and holds something else", hint="remove it, or choose another name")
    if built.is_dir():
        publish(built, path)
    else:
        built.replace(path)
