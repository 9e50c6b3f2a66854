"""An MLflow model directory (https://mlflow.org/docs/latest/ml/model): the ONNX flavor, run by `mlflow models serve`."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.release.packages.content import Content

_NAMESPACE = uuid.UUID("6a0ee3b6-62f7-5b4e-9d2e-0a4f6d0c7b5d")
_FIRST_OF_1980 = "1980-01-01 00:00:00.000000"
_PROVIDERS = ["CPUExecutionProvider"]
_TAKEN = {"intra_op_num_threads", "graph_optimization_level"}
_FLAVOUR = "onnx"  # what MLflow calls it, and the package that it reads it with


def write(content: Content, path: Path) -> None:
    """Write MLmodel, requirements.txt and the ONNX model. MLmodel is JSON, which YAML readers read."""
    model = content.onnx("mlflow")
    if model["facts"].get("external_data"):
        raise InputError(
            "mlflow packages hold weights inside model.onnx, and this release keeps them beside it",
            hint="set `external_data: false` for the onnx export",
        )
    content.copy(model["files"], path)
    requirements = _requirements(content.manifest["tools"])
    (path / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
    (path / "MLmodel").write_text(json.dumps(_description(content, model), indent=2) + "\n", encoding="utf-8")


def session(content: Content, model: Mapping[str, Any]) -> dict[str, int]:
    """Return what MLflow's loader sets of what is recommended (mlflow/onnx/__init__.py, `_OnnxModelWrapper`)."""
    return {name: value for name, value in content.session(model).items() if name in _TAKEN}


def notes(content: Content) -> tuple[str, ...]:
    """Return what is recommended and cannot be said."""
    model = content.onnx(_FLAVOUR)
    untold = content.session(model).keys() - session(content, model).keys()
    return tuple(f"MLflow's loader does not set {name}, which weighbridge tune recommends" for name in sorted(untold))


def _description(content: Content, model: Mapping[str, Any]) -> dict[str, Any]:
    manifest = content.manifest
    return {
        "flavors": {
            _FLAVOUR: {
                "data": model["path"],
                "onnx_version": manifest["tools"].get(_FLAVOUR, ""),
                "providers": _PROVIDERS,
                "code": None,
                **({"onnx_session_options": told} if (told := session(content, model)) else {}),
            },
            "python_function": {"loader_module": "mlflow.onnx", "data": model["path"], "env": {}},
        },
        "metadata": {"name": content.name, "version": content.version, "digest": manifest["digest"]},
        "model_uuid": uuid.uuid5(_NAMESPACE, manifest["digest"]).hex,
        "signature": {
            "inputs": json.dumps([_spec(each) for each in manifest["inputs"]]),
            "outputs": json.dumps([_spec(each) for each in manifest["outputs"]]),
            "params": None,
        },
        "utc_time_created": _FIRST_OF_1980,
    }


def _spec(tensor: Mapping[str, Any]) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in tensor["shape"]]
    return {"name": tensor["name"], "type": "tensor", "tensor-spec": {"dtype": tensor["dtype"], "shape": shape}}


def _requirements(tools: Mapping[str, str]) -> list[str]:
    wanted = ("onnx", "onnxruntime", "numpy")
    return ["mlflow-skinny", "pandas", *(f"{name}=={tools[name]}" for name in wanted if name in tools)]
