"""Read, validate and complete a config; every problem found goes into one error."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from pipeline.config import artifacts, checks
from pipeline.config.models import Config, find_place
from pipeline.config.source import read
from pipeline.config.text import parse_value
from pipeline.config.tree import Problem, assign, key_text, lookup, value_in_words
from pipeline.errors import ConfigError, suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic_core import ErrorDetails

    from pipeline.config.models import Vocabulary
    from pipeline.config.source import Source
    from pipeline.config.tree import KeyPath, Place

_EXPECTED = {
    "int_type": "an integer", "float_type": "a number", "string_type": "a text", "bool_type": "true or false",
    "dict_type": "a mapping", "model_type": "a mapping", "model_attributes_type": "a mapping", "list_type": "a list",
    "tuple_type": "a list", "int_from_float": "an integer", "int_parsing": "an integer", "float_parsing": "a number",
    "bool_parsing": "true or false", "number_type": "a number", "size_type": "a size or a dimension's name",
}  # fmt: skip
_PATTERNS = {
    "name": "lower-case letters, digits, '.', '_' and '-'",
    "version": "lower-case letters, digits, '.', '_' and '-'",
    "architecture": "package.module:Class",
    "metric": "package.module:function",
    "sha256": "64 hexadecimal digits",
    "samples": "a .npz or .safetensors file",
    "file": "a .npz or .safetensors file",
}
_REREAD = {"int_type", "float_type", "bool_type", "number_type", "numbers_type", "size_type", "string_type"}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def load(path: Path, *, overrides: Sequence[str] = (), vocabulary: Vocabulary) -> Config:
    """Read a config file with what it extends, apply `a.b=value` overrides, and validate the result.

    Raises ConfigError with every problem found, a line each: `file:line:column: key.path: what (nearest valid: 'x')`.
    """
    source = read(Path(path), overrides)
    config, problems = _validate(source, vocabulary)
    if _reread(source, problems):
        config, problems = _validate(source, vocabulary)
    if config is None or problems:
        raise ConfigError(_report(problems, source.places), hint="weighbridge schema prints every key")
    return _complete(config, vocabulary)


def _validate(source: Source, vocabulary: Vocabulary) -> tuple[Config | None, list[Problem]]:
    tree = _model_form(source.tree, source.places)
    problems = [*source.problems, *_model_problems(Config, tree, ())]
    sound = _sound_sections(tree, problems)
    problems += checks.options(source.tree, vocabulary, _model_problems)
    problems += checks.crosswise(sound)
    problems += artifacts.check(sound, vocabulary)
    # Where a reference failed there is no value to judge.
    unknown = {problem.path for problem in source.problems}
    problems = [problem for problem in problems if problem in source.problems or problem.path not in unknown]
    if problems:
        return None, problems
    return Config.model_validate(tree, context=source.places), []


def _model_form(tree: Mapping[str, Any], places: Mapping[str, Place]) -> dict[str, Any]:
    """Bring YAML's short forms into the models', and paths into their absolute form."""
    form = dict(tree)
    if isinstance(form.get("exports"), list):
        form["exports"] = [_export_form(item, places, index) for index, item in enumerate(form["exports"])]
    if isinstance(form.get("backends"), list):
        form["backends"] = [_backend_form(item) for item in form["backends"]]
    if isinstance(form.get("model"), dict) and isinstance(form["model"].get("weights"), str):
        form["model"] = form["model"] | {"weights": _absolute(form["model"]["weights"], places, ("model", "weights"))}
    if isinstance(form.get("inputs"), dict):
        form["inputs"] = dict(_leaf_inputs(form["inputs"], ""))
    if isinstance(form.get("outputs"), dict):
        paths = {name: str(each) if type(each) is int else each for name, each in form["outputs"].items()}
        form |= {"outputs": list(paths), "output_paths": paths}
    if isinstance(form.get("dimensions"), dict):
        form["dimensions"] = {
            name: {"formula": each} if isinstance(each, str) else each for name, each in form["dimensions"].items()
        }
    if isinstance(form.get("reference"), str):
        form["reference"] = {"file": form["reference"]}
    if isinstance(form.get("reference"), dict) and isinstance(form["reference"].get("file"), str):
        given = form["reference"]["file"]
        form["reference"] = form["reference"] | {"file": _absolute(given, places, ("reference", "file"))}
    if isinstance(form.get("samples"), str):
        form["samples"] = _absolute(form["samples"], places, ("samples",))
    named = _release_form(form.get("release"), places) | _describe_form(form.get("describe"), places)
    return form | named | _gates_form(form.get("gates"), places)


def _gates_form(gates: Any, places: Mapping[str, Place]) -> dict[str, Any]:
    if not isinstance(gates, dict):
        return {}
    found = dict(gates)
    for name, gate in gates.items():
        accuracy = gate.get("accuracy") if isinstance(gate, dict) else None
        if isinstance(accuracy, dict) and isinstance(given := accuracy.get("samples"), str):
            path = ("gates", name, "accuracy", "samples")
            found[name] = {**gate, "accuracy": {**accuracy, "samples": _absolute(given, places, path)}}
    return {"gates": found}


def _describe_form(describe: Any, places: Mapping[str, Place]) -> dict[str, Any]:
    if not isinstance(describe, dict):
        return {}
    files = {
        name: {**each, "labels": _absolute(each["labels"], places, ("describe", name, "labels"))}
        for name, each in describe.items()
        if isinstance(each, dict) and isinstance(each.get("labels"), str)
    }
    return {"describe": {**describe, **files}}


def _release_form(release: Any, places: Mapping[str, Place]) -> dict[str, Any]:
    beside = release.get("beside") if isinstance(release, dict) else None
    if not isinstance(beside, list):
        return {}
    found = [
        _absolute(each, places, ("release", "beside", index)) if isinstance(each, str) else each
        for index, each in enumerate(beside)
    ]
    return {"release": {**release, "beside": found}}


def _leaf_inputs(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the inputs of nested lists and mappings under their paths: past.0.key."""
    is_leaf = isinstance(value, dict) and path and ({"dtype", "shape"} & value.keys() or not _is_branch(value))
    items = (
        list(enumerate(value)) if isinstance(value, list) else list(value.items()) if isinstance(value, dict) else []
    )
    if is_leaf or not items:
        yield path, value
        return
    for key, item in items:
        yield from _leaf_inputs(item, f"{path}.{key}" if path else str(key))


def _is_branch(value: Mapping[str, Any]) -> bool:
    return bool(value) and all(isinstance(each, dict | list) for each in value.values())


def _export_form(item: Any, places: Mapping[str, Place], index: int) -> Any:
    if isinstance(item, str):
        return {"name": item, "format": item}
    if not isinstance(item, dict):
        return item
    form = {key: item[key] for key in ("name", "format") if key in item}
    if "name" not in form and "format" in form:
        form["name"] = form["format"]
    form |= {"made_from": item["from"]} if "from" in item else {}
    if (given := artifacts.calibration(item)) is not None:
        # Said beside `format` or below `options`: either way it stands in the file that holds the export.
        where: KeyPath = ("exports", index)
        form["calibration"] = _absolute(given, places, where) if isinstance(given, str) else given
    return form | {"options": artifacts.format_options(item)}


def _backend_form(item: Any) -> Any:
    if isinstance(item, str):
        return {"name": item, "backend": item}
    if isinstance(item, dict) and "name" not in item and "backend" in item:
        return {"name": item["backend"], **item}
    return item


def _absolute(location: str, places: Mapping[str, Place], path: KeyPath) -> str:
    """Return a URL as it is, and a path below the folder of the file that gave it; the last link is not followed."""
    if not location or _URL.match(location) or "\0" in location:
        return location
    full = Path(find_place(places, path).folder) / location
    return str(Path(os.path.realpath(full.parent)) / full.name)


def _model_problems(model: type[BaseModel], value: Any, prefix: KeyPath) -> Iterator[Problem]:
    """Validate a value against a model and yield each problem once, with its path in the YAML."""
    try:
        model.model_validate(value)
    except ValidationError as error:
        seen = set()
        for details in error.errors(include_url=False):
            path, given = _existing(value, details)
            if path in seen:
                continue  # the other branches of a union
            seen.add(path)
            message, at_key = _message(model, path, given, details)
            yield Problem((*prefix, *_yaml_path(path)), message, details["type"], at_key)


def _existing(value: Any, details: ErrorDetails) -> tuple[KeyPath, Any]:
    """Return the path of an error without pydantic's own additions (branches of a union), and the value there."""
    path: KeyPath = ()
    for part in details["loc"]:
        if not isinstance(value, dict | list) or (isinstance(value, list) and not isinstance(part, int)):
            break
        path = (*path, part)
        try:
            value = lookup(value, [part])
        except KeyError:
            return path, None
    return path, value


def _yaml_path(path: KeyPath) -> KeyPath:
    """Return a path as the YAML has it: a format's options stand beside `format`."""
    if path[0] == "exports" and path[2:3] == ("made_from",):
        return (*path[:2], "from")
    return (*path[:2], *path[3:]) if path[0] == "exports" and path[2:3] == ("options",) else path


def _message(model: type[BaseModel], path: KeyPath, given: Any, details: ErrorDetails) -> tuple[str, bool]:
    """Say what is wrong, and whether that is the key rather than its value."""
    kind, context = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key{suggestion(str(path[-1]), _keys_at(model, path[:-1]))}", True
    if kind == "missing":
        return "is missing", False
    if kind == "literal_error":
        valid = re.findall(r"'([^']*)'", context["expected"])
        near = suggestion(given, valid) if isinstance(given, str) else f" (valid: {', '.join(map(repr, valid))})"
        return f"{value_in_words(given)} is not valid{near}", False
    if kind == "value_error":
        return str(context["error"]), False
    return f"{_expected(path, kind, context, details['msg'])}, given {value_in_words(given)}", False


def _expected(path: KeyPath, kind: str, context: Mapping[str, Any], said: str) -> str:
    if kind in _EXPECTED:
        quote = "; quote it" if kind == "string_type" else ""
        return f"expected {_EXPECTED[kind]}{quote}"
    if kind == "string_pattern_mismatch":
        return f"expected {_PATTERNS.get(str(path[-1]), 'another form of text')}"
    if kind in {"too_short", "string_too_short"}:
        return f"expected at least {context['min_length']}"
    return said.removeprefix("Input ")


def _keys_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys that a mapping at a path may have."""
    current: Any = model
    for part in path:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = field.annotation if field else None
        else:
            arguments = get_args(current)
            current = arguments[-1] if arguments else None
        while get_origin(current) is Annotated or type(None) in get_args(current):
            current = get_args(current)[0]
    if not (isinstance(current, type) and issubclass(current, BaseModel)):
        return []
    return [*current.model_fields, "extends"] if current is Config else list(current.model_fields)


def _sound_sections(tree: Mapping[str, Any], problems: Sequence[Problem]) -> dict[str, Any]:
    """Return each top-level value that is valid apart from unknown keys, as its type; defaults where it is not given."""
    unsound = {problem.path[0] for problem in problems if problem.kind != "extra_forbidden"}
    clean = _without({key: value for key, value in tree.items() if key not in unsound}, problems)
    sections = {}
    for name, field in Config.model_fields.items():
        if name in clean:
            sections[name] = _adapter(name).validate_python(clean[name], strict=True)
        elif name not in unsound:
            sections[name] = field.get_default()
    return sections


@cache
def _adapter(section: str) -> TypeAdapter[Any]:
    """Return what validates one top-level section alone."""
    field = Config.model_fields[section]
    wanted: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return TypeAdapter(wanted)


def _without(tree: Any, problems: Sequence[Problem]) -> Any:
    """Return a tree without the unknown keys."""
    unknown = {problem.path for problem in problems if problem.kind == "extra_forbidden"}

    def strip(value: Any, path: KeyPath) -> Any:
        if isinstance(value, dict):
            return {key: strip(item, (*path, key)) for key, item in value.items() if (*path, key) not in unknown}
        if isinstance(value, list):
            return [strip(item, (*path, index)) for index, item in enumerate(value)]
        return value

    return strip(tree, ())


def _reread(source: Source, problems: Sequence[Problem]) -> bool:
    """Read anew the values that came as text (from the environment, from --set) and are wanted as another type."""
    changed = False
    for problem in problems:
        path = _written_path(source.tree, problem.path)
        text = source.texts.pop(path, None) if problem.kind in _REREAD else None
        if text is None:
            continue
        try:
            value = text if problem.kind == "string_type" else parse_value(text)
        except ValueError:
            continue
        if not isinstance(value, dict | list):
            assign(source.tree, path, value)
            changed = True
    return changed


def _written_path(tree: Any, path: KeyPath) -> KeyPath:
    """Return a path as the YAML has it, where a nested input goes by its dotted name."""
    if path[:1] != ("inputs",) or len(path) < 2 or path[1] in tree.get("inputs", {}):
        return path
    return ("inputs", *(int(part) if part.isdecimal() else part for part in str(path[1]).split(".")), *path[2:])


def _report(problems: Sequence[Problem], places: Mapping[str, Place]) -> str:
    lines = {}
    for problem in problems:
        # Places of outputs stand in `outputs`.
        path = ("outputs", *problem.path[1:]) if problem.path[:1] == ("output_paths",) else problem.path
        place = find_place(places, path)
        exact = places.get(key_text(path)) is place
        label = place.key_label if problem.at_key and exact else place.label
        lines[f"{label}: {key_text(path) or 'config'}: {problem.message}"] = place.rank
    return "\n".join(sorted(lines, key=lambda line: lines[line]))


def _complete(config: Config, vocabulary: Vocabulary) -> Config:
    """Fill in the defaults that depend on other keys, and on the tables."""
    require = config.require
    if "require" not in config.model_fields_set:
        names = [each.name for each in config.backends]
        require = [each.name for each in config.backends if each.backend not in vocabulary.optional] or names
    # An empty input is no work to time, where it may as well not be empty.
    smallest = {
        name: dimension.smallest or min(dimension.multiple_of, dimension.max or 0)
        for name, dimension in config.dimensions.items()
        if dimension.formula is None
    }
    sizes = [smallest | size for size in config.benchmark.sizes] or [smallest]
    benchmark = config.benchmark.model_copy(update={"sizes": sizes})
    exports = [
        each.model_copy(update={"made_from": artifacts.source_of(each, config.exports, vocabulary)})
        for each in config.exports
    ]
    backends = [
        each.model_copy(update={"artifact": artifacts.artifact_of(each, config.exports, vocabulary)})
        for each in config.backends
    ]
    completed = {"require": require, "benchmark": benchmark, "exports": exports, "backends": backends}
    return config.model_copy(update=completed)
