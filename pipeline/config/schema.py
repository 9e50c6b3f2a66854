"""The JSON Schema of a config file, for editors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.config.models import BackendConfig, Config, ExportConfig

if TYPE_CHECKING:
    from pydantic import BaseModel

    from pipeline.config.models import Vocabulary

_REFERENCE = {"$ref": "#/$defs/reference"}
_SCALARS = {"integer", "number", "boolean"}


def schema(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the YAML form: short forms, `extends`, and `${…}` for any scalar.

    Nothing is required of a file that extends another.
    """
    document = Config.model_json_schema()
    definitions: dict[str, Any] = document.pop("$defs")
    for name in ("ExportConfig", "BackendConfig"):
        del definitions[name]
    properties = document["properties"]
    properties["exports"]["items"] = _choice(
        list(vocabulary.formats),
        [_export(name, model, definitions) for name, model in vocabulary.formats.items()],
    )
    properties["backends"]["items"] = _choice(
        list(vocabulary.backends),
        [_backend(name, model, definitions) for name, model in vocabulary.backends.items()],
    )
    _add_short_forms(properties, definitions)
    for definition in definitions.values():
        definition.pop("required", None)  # the rest may stand in the file that this one extends
    required = document.pop("required")
    extends = {"type": "string", "description": "A config this one is laid over, relative to this file"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "weighbridge config",
        "description": document["description"],
        "type": "object",
        "properties": {"extends": extends, **{name: _editable(each) for name, each in properties.items()}},
        "additionalProperties": False,
        "anyOf": [{"required": ["extends"]}, {"required": required}],
        "$defs": {
            "reference": {
                "type": "string",
                "pattern": r"\$\{[^}]+\}",
                "description": "${key.path} or ${oc.env:VARIABLE}",
            },
            **{name: _editable(each) for name, each in definitions.items()},
        },
    }


def _add_short_forms(properties: dict[str, Any], definitions: dict[str, Any]) -> None:
    """Let the schema take what YAML may say in short: nested inputs, places of outputs, formulas of dimensions."""
    leaf = {"$ref": "#/$defs/InputConfig"}
    nested = {"$ref": "#/$defs/NestedInput"}
    several = [
        {"type": "array", "items": nested, "minItems": 1},
        {
            "type": "object",
            "additionalProperties": nested,
            "not": {"anyOf": [{"required": ["dtype"]}, {"required": ["shape"]}]},
        },
    ]
    definitions["NestedInput"] = {"description": "An input, or a list or mapping of them", "anyOf": [leaf, *several]}
    properties["inputs"]["additionalProperties"] = nested
    places = {
        "type": "object",
        "additionalProperties": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "minProperties": 1,
    }
    described = properties["outputs"].pop("description")
    properties["outputs"] = {"description": described, "anyOf": [properties["outputs"], places]}
    file = definitions["ReferenceConfig"]["properties"]["file"]
    properties["reference"]["anyOf"].insert(0, {key: each for key, each in file.items() if key != "description"})
    formula = definitions["DimensionConfig"]["properties"]["formula"]["anyOf"][0]
    properties["dimensions"]["additionalProperties"] = {"anyOf": [formula, {"$ref": "#/$defs/DimensionConfig"}]}


def _choice(names: list[str], mappings: list[dict[str, Any]]) -> dict[str, Any]:
    return {"anyOf": [{"enum": names}, *mappings]}


def _export(name: str, model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    fields = ExportConfig.model_json_schema()["properties"]
    options = _options(name, model, definitions)
    own = {
        "name": fields["name"],
        "format": {"const": name, "description": fields["format"]["description"]},
        "from": {"type": "string", "description": fields["made_from"]["description"]},
        "options": {**options, "description": fields["options"]["description"]},
    }
    return {**options, "properties": {**own, **options.get("properties", {})}, "required": ["format"]}


def _backend(name: str, model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    fields = BackendConfig.model_json_schema()["properties"]
    return {
        "type": "object",
        "properties": {
            "name": fields["name"],
            "backend": {"const": name, "description": fields["backend"]["description"]},
            "artifact": {"type": "string", "description": fields["artifact"]["description"]},
            "options": _options(name, model, definitions),
        },
        "required": ["backend"],
        "additionalProperties": False,
    }


def _options(name: str, model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an options model, its own definitions moved among the others."""
    options = model.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
    for inner, definition in options.pop("$defs", {}).items():
        definitions[f"{name}.{inner}"] = definition
    options["additionalProperties"] = model.model_config.get("extra") == "allow"
    return options


def _editable(node: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without generated titles, that takes a reference wherever it takes a scalar."""
    result: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties":
            result[key] = {name: _editable(each) for name, each in value.items()}
        elif key in {"items", "additionalProperties"} and isinstance(value, dict):
            result[key] = _editable(value)
        elif key in {"anyOf", "oneOf", "allOf", "prefixItems"}:
            result[key] = [_editable(each) for each in value]
        elif key != "title":
            result[key] = value
    return _or_reference(result) if _is_narrow(node) else result


def _is_narrow(node: dict[str, Any]) -> bool:
    """Tell whether a schema takes a scalar but not every text."""
    if "enum" in node or node.get("type") in _SCALARS:
        return True
    return node.get("type") == "string" and ("pattern" in node or "maxLength" in node)


def _or_reference(node: dict[str, Any]) -> dict[str, Any]:
    outside = {key: node[key] for key in ("description", "default") if key in node}
    inside = {key: value for key, value in node.items() if key not in outside}
    return outside | {"anyOf": [inside, _REFERENCE]}
