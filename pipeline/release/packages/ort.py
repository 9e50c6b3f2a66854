"""A model package of onnxruntime: manifest.json, a component for each ONNX model, its variants, weights shared by digest.

Schema 1.0, as onnxruntime's own documents have it (https://github.com/microsoft/onnxruntime, model_package/README.md and
onnxruntime/core/session/model_package/README.md; pull requests 27786, 28271 and 28989). A component is one model; its variants
are the execution providers it was proven on, of which onnxruntime takes the one that the caller's session asks for. A folder of
shared assets is named by the SHA-256 of the lines "<SHA-256 of a file>  <its name>", sorted by name.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from pipeline.backends.table import backends
from pipeline.errors import InputError
from pipeline.formats.onnx.record import ONNX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.release.packages.content import Content

NEXT = (
    'python -c "import sys, onnxruntime as ort; options = ort.ModelPackageOptions(ort.SessionOptions()); '
    'print(ort.ModelPackageContext(sys.argv[1]).select_component(sys.argv[2], options).create_session().get_providers())" '
    "{path} {name}"
)
SCHEMA = "1.0"
_ASSETS = "shared_assets"
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_KEPT = ("digest", "weights", "inputs", "outputs", "dimensions")


def write(content: Content, path: Path) -> None:
    """Write manifest.json, and for each ONNX model a folder with component.json and the model; the first is called NAME."""
    content.onnx("ort")
    components = {}
    for model in _models(content):
        variants = _variants(content, model)
        if not variants:
            continue
        name = _component(content, model)
        components[name] = name
        _write_component(content, model, path, name, variants)
    if not components:
        hint = "name a backend of onnxruntime in the config's `backends`"
        raise InputError("ort packages what was proven with onnxruntime, and no model of this release was", hint=hint)
    described = content.manifest.get("config", {}).get("release", {}).get("description")
    manifest = {
        "schema_version": SCHEMA,
        "package_name": content.name,
        "package_version": content.version,
        **({"description": described} if described else {}),
        "layout": "portable",
        "components": components,
        "additional_metadata": {name: content.manifest[name] for name in _KEPT if name in content.manifest},
    }
    _write(path / "manifest.json", manifest)


def notes(content: Content) -> tuple[str, ...]:
    """Return which models are left out, and which variants nobody could open with the options that they were proven with."""
    told = [
        f"{model.get('name') or model['format']} is left out: no backend of onnxruntime was proven on it"
        for model in _models(content)
        if not _variants(content, model)
    ]
    told += [
        f"{_component(content, model)}: weighbridge tune recommends {', '.join(f'{name} {value}' for name, value in options.items())} on a "
        "processor like this one, which a package cannot say: set it in the session's options"
        for model in _models(content)
        if (options := content.session(model))
    ]
    found = {name: each for model in _models(content) for name, each in _variants(content, model).items()}
    told += [
        f"variant {name} needs an onnxruntime in which {each['ep']} takes options from a package, and is refused by others"
        for name, each in found.items()
        if each["executor_info"]["ort"].get("provider_options")
    ]
    return tuple(told)


def _models(content: Content) -> list[Mapping[str, Any]]:
    return [each for each in content.manifest["models"] if each["format"] == ONNX.name]


def _component(content: Content, model: Mapping[str, Any]) -> str:
    artifact = model.get("name") or model["format"]
    return content.name if artifact == ONNX.name else f"{content.name}-{artifact}"


def _variants(content: Content, model: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by name a variant for each execution provider that a backend passed on with this model, the usual options first."""
    artifact = model.get("name") or model["format"]
    proven = content.manifest.get("backends", {})
    variants: dict[str, dict[str, Any]] = {}
    for name in sorted(proven, key=lambda name: (bool(proven[name].get("options")), name)):
        each = proven[name]
        backend = backends().get(each["backend"])
        opened = each.get("artifact") or each.get("format")
        if backend is None or backend.provider is None or opened != artifact:
            continue
        stated = backend.provider(backend.options.model_validate(each.get("options") or {}))
        if stated is None or any(other["ep"] == stated[0] for other in variants.values()):
            continue
        provider, options = stated
        ort = {"model_file": model["path"], **({"provider_options": dict(options)} if options else {})}
        variants[name] = {"variant_directory": "model", "ep": provider, "executor_info": {"ort": ort}}
    return variants


def _write_component(
    content: Content, model: Mapping[str, Any], path: Path, name: str, variants: Mapping[str, dict[str, Any]]
) -> None:
    folder = path / name
    content.copy([model["path"]], folder / "model")
    beside = [each for each in model["files"] if each != model["path"]]
    if beside:
        weights = {"session_options": {_WEIGHTS_FOLDER: _share(content, beside, path / _ASSETS)}}
        for each in variants.values():
            each["executor_info"]["ort"] |= weights
    _write(folder / "component.json", {"component_name": name, "variants": variants})


def _share(content: Content, names: Sequence[str], assets: Path) -> str:
    """Keep files in a folder called by their digest, once for all models that have the same; return what refers to it."""
    lines = []
    for name in sorted(names):
        with (content.release / name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    folder = assets / f"sha256-{digest}"
    if not folder.exists():
        content.copy(list(names), folder)
    return f"sha256:{digest}"


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
