"""What results depend on, part by part in the words a person would use: the keys of the cache, and why a release is built again."""

from __future__ import annotations

import platform
import re
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import resolved
from pipeline.rebuild import objects
from pipeline.release.tools import tools
from pipeline.storage.store import digest_file, key
from pipeline.weights import stated

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.backends.variant import Variant
    from pipeline.formats.artifact import Artifact
    from pipeline.rebuild.trust import Located
    from pipeline.run.plan import Plan, Settings

_OWN_FOLDER = Path(__file__).parents[1]
# A name in a text or a comment does no harm: it counts only if there is a file for it.
_IMPORT = re.compile(rb"^[ \t]*(?:import|from)[ \t]+([A-Za-z_][\w.]*(?:[ \t]*,[ \t]*[A-Za-z_][\w.]*)*)", re.MULTILINE)


def of_release(planned: Plan, settings: Settings) -> dict[str, Any]:
    """Return everything a release depends on as JSON scalars, by name."""
    return {
        "benchmark": "yes" if settings.benchmark else "left out",
        "signing key": planned.signed_by,
        **{f"config: {name}": value for name, value in _flat(resolved(planned.config)).items()},
        **{f"backend {each.name}": each.unavailable or "can run here" for each in planned.variants},
        **_network(planned),
        "samples": _samples(planned),
        "reference": _recording(planned),
        **_machine(),
    }


def of_export(planned: Plan, format_: str, options: Mapping[str, Any], identity: Mapping[str, str]) -> str:
    """Return the key of one exported file with what belongs to it."""
    return key(
        {
            "result": f"{format_} export",
            "options": dict(options),
            "identity": dict(identity),
            "interface": asdict(planned.interface),
            "seed": planned.config.parity.seed,
            **_built(planned),
        }
    )


def of_oracle(planned: Plan) -> str:
    """Return the key of the oracle's answer."""
    return key({"result": "oracle", "interface": asdict(planned.interface), **_cases(planned), **_built(planned)})


def of_proof(planned: Plan, variant: Variant, files: Sequence[Path], threads: int) -> str:
    """Return the key of a variant's proof: the very bytes it opens, or the network, and what it is held against."""
    return key(
        {
            "result": "proof",
            "backend": variant.backend,
            "options": dict(variant.options),
            "files": {file.name: digest_file(file) for file in files},
            "oracle": of_oracle(planned),
            "budget": planned.config.parity.model_dump(mode="json"),
            "threads": threads,
            "processor": processor(),
        }
    )


def of_audit(planned: Plan, artifact: Artifact) -> str:
    """Return the key of a file's audit."""
    return key(
        {
            "result": "audit",
            "files": {file.name: digest_file(file) for file in artifact.files},
            "interface": asdict(planned.interface),
            "seed": planned.config.parity.seed,
            **_built(planned),
        }
    )


def of_timings(planned: Plan, variants: Sequence[Variant], files: Mapping[str, Sequence[Path]], threads: int) -> str:
    """Return the key of a benchmark: which files were timed, how, and on what kind of machine."""
    return key(
        {
            "result": "benchmark",
            "backends": [[each.name, each.backend, dict(each.options)] for each in variants],
            "files": {name: [digest_file(file) for file in each] for name, each in files.items()},
            "interface": asdict(planned.interface),
            "settings": planned.config.benchmark.model_dump(mode="json"),
            "threads": threads,
            "processor": processor(),
            **_built(planned),
        }
    )


@cache
def processor() -> str:
    """Return the processor's model and a digest of its instruction sets: they decide how sums are ordered."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(re.findall(r"^([^\t:]+?)\s*:\s*(.*)$", first, re.MULTILINE))
    return f"{facts.get('model name', platform.machine())}, {key(facts.get('flags', facts.get('Features', '')))[:12]}"


def _built(planned: Plan) -> dict[str, Any]:
    """Return what decides the network's values and an exporter's bytes, whatever the config's other sections say."""
    model = planned.config.model.model_dump(mode="json", exclude={"weights", "sha256"})
    return {**_flat(model), **_network(planned), **_machine()}


def _network(planned: Plan) -> dict[str, str]:
    code = {name: each for located in (planned.located, *planned.objects) for name, each in sources(located).items()}
    files = objects.files(planned.config.model.arguments, Path(planned.network.folder))
    beside = Path(planned.network.weights).with_name(stated.BESIDE)
    return {
        "weights": planned.weights_sha256,
        **({f"{stated.BESIDE} beside the weights": digest_file(beside)} if beside.is_file() else {}),
        **{f"the network's code, {name}": each for name, each in code.items()},
        **{f"argument's file {each.name}": digest_file(each) for each in files},
    }


def _cases(planned: Plan) -> dict[str, Any]:
    parity = planned.config.parity
    files = {"samples": _samples(planned), "reference": _recording(planned)}
    return {"seed": parity.seed, "cap_elements": parity.cap_elements, **files}


def _recording(planned: Plan) -> str:
    reference = planned.config.reference
    return digest_file(Path(reference.file)) if reference else ""


def _samples(planned: Plan) -> str:
    samples = planned.config.samples
    return digest_file(Path(samples)) if samples else ""


@cache
def _machine() -> dict[str, str]:
    return {
        **{f"package {name}": version for name, version in tools().items()},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "weighbridge's code": _folder_digest(_OWN_FOLDER),
    }


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested JSON values as scalars: {"a": {"b": [1]}} as {"a.b[0]": 1}; an empty container stands for itself."""
    if not isinstance(value, dict | list) or not value:
        return {prefix: value if not isinstance(value, dict | list) else str(value)}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    parts: dict[str, Any] = {}
    for name, item in items:
        label = f"{prefix}[{name}]" if isinstance(value, list) else f"{prefix}.{name}" if prefix else str(name)
        parts |= _flat(item, label)
    return parts


def sources(located: Located) -> dict[str, str]:
    """Return the digests of a network's own source files, by name: its top-level package or module, and what they import.

    Followed are imports of packages and modules that lie beside it. An installed package is taken for itself: what it
    imports has a version. Code that is found by name at run time, outside those packages, is not seen.
    """
    names = located.module.split(".")
    if names[0] == _OWN_FOLDER.name:
        return {}  # part of weighbridge's code
    depth = len(names) if located.path.name == "__init__.py" else len(names) - 1
    root = located.path.parents[depth]
    is_installed = root.name in {"site-packages", "dist-packages"}
    version = next((each.name for each in root.glob(f"{names[0]}-*.dist-info")), None) if is_installed else None
    if (
        version is not None
    ):  # a package may have thousands of files: its version stands for those that are not beside this one
        beside = {
            file.relative_to(root).as_posix(): digest_file(file) for file in sorted(located.path.parent.glob("*.py"))
        }
        return {names[0]: version.removesuffix(".dist-info"), **beside}
    return dict(_sources(root, names[0], is_installed=is_installed))


@cache
def _sources(root: Path, top: str, *, is_installed: bool) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    waiting, seen = [top], {top, _OWN_FOLDER.name}
    while waiting:
        for file in _files_of(root, waiting.pop()):
            found[file.relative_to(root).as_posix()] = digest_file(file)
            imported = set() if is_installed else set(_imports(file)) - seen
            waiting += sorted(imported)
            seen |= imported
    return tuple(sorted(found.items()))


def _files_of(root: Path, top: str) -> list[Path]:
    folder, module = root / top, root / f"{top}.py"
    if folder.is_dir():
        return sorted(folder.rglob("*.py"))
    return [module] if module.is_file() else []


def _imports(file: Path) -> Iterator[str]:
    for match in _IMPORT.finditer(file.read_bytes()):
        for name in match[1].decode(errors="replace").split(","):
            yield name.strip().partition(".")[0]


def _folder_digest(folder: Path) -> str:
    return key({path.relative_to(folder).as_posix(): digest_file(path) for path in sorted(folder.rglob("*.py"))})
