"""What results depend on, part by part in the words a person would use: the keys of the cache, and why a release is built again."""

from __future__ import annotations

import platform
import re
from dataclasses import asdict
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.backends import table as backends_table
from pipeline.backends.table import backends
from pipeline.benchmark.machine import processor
from pipeline.config import resolved
from pipeline.config.labels import label_files
from pipeline.formats import table as formats_table
from pipeline.formats.table import formats
from pipeline.rebuild import objects
from pipeline.release.tools import tools
from pipeline.storage.store import digest_file, key
from pipeline.weights import stated

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from importlib.metadata import EntryPoint

    from pipeline.backends.variant import Variant
    from pipeline.config.models import ExportConfig
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
        **{f"device of {each.name}": _device(each) for each in planned.variants},
        **_network(planned),
        "samples": _samples(planned),
        "reference": _recording(planned),
        **{f"calibration of {each.name}": _calibration(each) for each in planned.config.exports if each.calibration},
        **{part: each for name in planned.config.gates for part, each in _judged(planned, name).items()},
        **{f"names of classes, {each.name}": digest_file(each) for each in label_files(planned.config)},
        **{f"beside it, {Path(each).name}": digest_file(Path(each)) for each in planned.config.release.beside},
        **_machine(),
        **_makers(planned.config.exports, planned.variants),
    }


def of_export(planned: Plan, wanted: ExportConfig, identity: Mapping[str, str], source: Artifact | None) -> str:
    """Return the key of one artifact with what belongs to it; `source` is the one that it is made from, if it is."""
    return key(
        {
            "result": f"{wanted.format} export",
            "file": formats()[wanted.format].file_of(wanted.name),
            "source": _files(source),
            "calibration": _calibration(wanted),
            "options": dict(wanted.options),
            "identity": dict(identity),
            "interface": asdict(planned.interface),
            "seed": planned.config.parity.seed,
            **_built(planned),
            **_makers([wanted], ()),
            **_compiled_by(wanted),
        }
    )


def of_oracle(planned: Plan) -> str:
    """Return the key of the oracle's answer."""
    return key({"result": "oracle", "interface": asdict(planned.interface), **_cases(planned), **_built(planned)})


def of_evaluation(planned: Plan, artifact: Artifact) -> str:
    """Return the key of what a file of a precision of its own says (see `pipeline.parity.reduced`)."""
    return key(
        {"result": "evaluation", "files": _files(artifact), "oracle": of_oracle(planned), **_makers([artifact], ())}
    )


def of_products(planned: Plan, variant: Variant, artifact: Artifact | None, case: str) -> str:
    """Return the key of what became of a file's products of whole numbers, each run alone."""
    return key(
        {
            "result": "products",
            "files": _files(artifact),
            "options": dict(variant.options),
            "case": case,
            "oracle": of_oracle(planned),
            "device": _device(variant),
            **_makers((), [variant]),
        }
    )


def of_proof(
    planned: Plan, variant: Variant, artifact: Artifact | None, threads: int, speaking: Artifact | None = None
) -> str:
    """Return the key of a variant's proof: the very bytes it opens, or the network, what it is held against, and who made it.

    `speaking` is the artifact that it is held against, if that is not the network.

    That is the backend's code and distributions, a plugin's too, and the device: what another version gave proves nothing.
    """
    gate = planned.config.gates.get(variant.artifact or "")
    return key(
        {
            "result": "proof",
            "backend": variant.backend,
            "options": dict(variant.options),
            "files": _files(artifact),
            "oracle": of_oracle(planned),
            "held against": _files(speaking),
            "budget": planned.config.parity.model_dump(mode="json"),
            "gate": gate and gate.model_dump(mode="json", exclude={"accuracy"}) if gate and gate.has_budget else None,
            "threads": threads,
            "device": _device(variant),
            **_makers((), [variant]),
        }
    )


def of_accuracy(planned: Plan, variant: Variant, artifact: Artifact | None, threads: int) -> str:
    """Return the key of an artifact's accuracy: what its proof depends on, what is claimed, the samples and the metric's code."""
    gate = planned.config.gates[variant.artifact or ""].accuracy
    return key(
        {
            "result": "accuracy",
            "proof": of_proof(planned, variant, artifact, threads),
            "claims": gate and gate.model_dump(mode="json", exclude={"samples"}),
            **_judged(planned, variant.artifact or ""),
        }
    )


def of_audit(planned: Plan, artifact: Artifact, source: Artifact | None = None) -> str:
    """Return the key of a file's audit; `source` is what it was made from."""
    return key(
        {
            "result": "audit",
            "files": _files(artifact),
            **({"source": _files(source)} if source else {}),
            "interface": asdict(planned.interface),
            "seed": planned.config.parity.seed,
            **_built(planned),
            **_makers([artifact], ()),
        }
    )


def of_timings(planned: Plan, variants: Sequence[Variant], artifacts: Sequence[Artifact], threads: int) -> str:
    """Return the key of a benchmark: which files were timed, how, and on what kind of machine."""
    return key(
        {
            "result": "benchmark",
            "backends": [
                [each.name, each.backend, each.artifact, dict(each.options), _device(each)] for each in variants
            ],
            "files": {each.name: _files(each) for each in artifacts},
            "interface": asdict(planned.interface),
            "settings": planned.config.benchmark.model_dump(mode="json"),
            "threads": threads,
            **_built(planned),
            **_makers((), variants),
        }
    )


def of_race(planned: Plan, variants: Sequence[Variant], artifacts: Sequence[Artifact], threads: int) -> str:
    """Return the key of what is raced: which files, with which options, at what, and on what kind of machine; not for how long."""
    tuned = planned.config.tune
    return key(
        {
            "result": "race",
            "candidates": [
                [each.name, each.backend, each.artifact, dict(each.options), _device(each)] for each in variants
            ],
            "files": {each.name: _files(each) for each in artifacts},
            "interface": asdict(planned.interface),
            "objective": tuned.objective,
            "size": tuned.size,
            "seed": planned.config.parity.seed,
            "threads": threads,
            **_built(planned),
            **_makers((), variants),
        }
    )


def distributions(planned: Plan) -> tuple[str, ...]:
    """Return the distributions that the bytes and numbers of a release depend on, beside those of every release."""
    found = _distributions(planned.config.exports, planned.variants)
    plugins = [entry.dist.name for entry in _entries(planned.config.exports, planned.variants) if entry.dist]
    return tuple(dict.fromkeys([*found, *plugins]))


def _makers(made: Sequence[ExportConfig | Artifact], variants: Sequence[Variant]) -> dict[str, str]:
    """Return what decides results beside our own code: versions of distributions, and the code of plugins."""
    names = _distributions(made, variants)
    versions = {f"package {name}": each for name, each in tools(names).items() if name in names}
    plugins = {
        f"{kind} of {entry.value}": each
        for entry in _entries(made, variants)
        for kind, each in (("version", entry.dist.version if entry.dist else ""), ("code", _code_of(entry.module)))
    }
    return versions | plugins


def _distributions(made: Sequence[ExportConfig | Artifact], variants: Sequence[Variant]) -> list[str]:
    found = [each for wanted in made for each in formats()[wanted.format].distributions]
    return found + [each for variant in variants for each in backends()[variant.backend].distributions]


def _entries(made: Sequence[ExportConfig | Artifact], variants: Sequence[Variant]) -> list[EntryPoint]:
    found = [formats_table.entry_of(each.format) for each in made]
    found += [backends_table.entry_of(each.backend) for each in variants]
    return [each for each in found if each is not None]


def _compiled_by(wanted: ExportConfig) -> dict[str, str]:
    """Return what decides the bytes of machine code beside packages: the processor, and the compiler where that is no package."""
    chosen = formats()[wanted.format]
    return {"processor": processor(), "compiler": chosen.compiler()} if chosen.is_native else {}


@cache
def _code_of(module: str) -> str:
    """Return the digest of a plugin's code: its top-level module or package, and what lies beside it and is imported."""
    top = module.partition(".")[0]
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        return ""
    file = Path(spec.origin)
    root = file.parents[1] if file.name == "__init__.py" else file.parent
    return key(dict(_sources(root, top, is_installed=root.name in {"site-packages", "dist-packages"})))


def _files(artifact: Artifact | None) -> dict[str, str]:
    """Return the digest of each file of an artifact by name, those in folders included."""
    if artifact is None:
        return {}
    found = [each for file in artifact.files for each in (sorted(file.rglob("*")) if file.is_dir() else (file,))]
    root = artifact.files[0].parent
    return {each.relative_to(root).as_posix(): digest_file(each) for each in found if each.is_file()}


def _device(variant: Variant) -> str:
    """Return what a variant computes on: the processor, and the GPU with its driver where it uses one."""
    return f"{processor()} {backends()[variant.backend].device_facts()}".strip()


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


def _calibration(wanted: ExportConfig) -> str:
    return digest_file(Path(wanted.calibration)) if wanted.calibration else ""


def _samples(planned: Plan) -> str:
    samples = planned.config.samples
    return digest_file(Path(samples)) if samples else ""


def _judged(planned: Plan, artifact: str) -> dict[str, str]:
    """Return what an artifact is judged on beside the config: the samples, and the code of the metric."""
    accuracy, metric = planned.config.gates[artifact].accuracy, planned.metrics.get(artifact)
    if accuracy is None:
        return {}
    code = sources(metric) if metric else {}
    return {
        f"samples that {artifact} is judged on": digest_file(Path(accuracy.samples)),
        **{f"the metric's code, {name}": each for name, each in code.items()},
    }


@cache
def _machine() -> dict[str, str]:
    return {
        **{f"package {name}": version for name, version in tools(()).items()},
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
