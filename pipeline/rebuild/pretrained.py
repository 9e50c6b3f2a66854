"""What transformers makes of a folder that it saved: the network, the names that its weights get, and what its forward takes.

The network is built by its class from its config object, never by code that came with the folder. What is claimed was run: names
are those under which transformers itself puts the tensors of the file, and inputs those with which the network ran at each size.
Runs transformers' code, which must be trusted, so it belongs into a worker.
"""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArchitectureError
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import calling, cases, conversion, decoders, objects, trust
from pipeline.rebuild.declarations import declarations
from pipeline.rebuild.infer import Arguments
from pipeline.rebuild.infer_inputs import Inputs
from pipeline.rebuild.outputs import tensors_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch
    from torch import nn

    from pipeline.interface import Arrays
    from pipeline.rebuild.declarations import Declared
    from pipeline.weights.pretrained import Pretrained

CONSTANTS = {"use_cache": False}
"""What a forward is called with where it has such a parameter: without it what was computed before comes back as an object."""
_GROUPED, _EXPERTS = "grouped_mm", "batched_mm"
"""How transformers computes experts by itself, by an operator that no exporter has, and otherwise: the same numbers from plain ones."""
_FEW_ELEMENTS = 1024
_SEED = 0


def inferred(
    found: Pretrained,
    architecture: str,
    prefixes: Sequence[str],
    json_file: str | None,
    *,
    with_cache: bool,
    again: str,
) -> tuple[Arguments, Inputs]:
    """Return the arguments of a network, the names that its weights get, and what goes in and out of it.

    `json_file` is its config.json as the config is to name it, None where it is to be written out there. `with_cache`: they are
    those of a step of it, as `decoders.STEP` makes it. `again` is the command that saves what transformers makes of the weights,
    "" where it did.

    Raises:
        UnsafeError: transformers is not trusted.
        ArchitectureError: it has no such network, or it cannot be built or run, or not from these weights.
    """
    make, config = _network(found, architecture, prefixes)
    module = _built(make, config)
    values: dict[str, Any] = {"config": _config_as_written(found, module.config, json_file)}
    if with_cache:
        module, declared = decoders.step(module)
        values, constants = {"model": {objects.TARGET: architecture, **values}}, {}
    else:
        declared, constants = declarations(module), _constants(module)
    rename, ignore = conversion.exceptions(found, make, config, again) if again else ({}, ())
    arguments = Arguments(values, {}, {}, (), rename, ignore, names_by="transformers")
    return arguments, _inputs(module, architecture, declared, constants)


def weights(
    found: Pretrained, architecture: str, prefixes: Sequence[str], *, max_bytes: int | None
) -> dict[str, torch.Tensor]:
    """Return the weights as transformers has them in memory; raises as `inferred`."""
    make, config = _network(found, architecture, prefixes)
    return conversion.converted(found, make, config, max_bytes=max_bytes)


def _network(found: Pretrained, architecture: str, prefixes: Sequence[str]) -> tuple[Any, Any]:
    """Return a network's class, and its config object."""
    make = _class_of(architecture, prefixes)
    return make, objects.make(_written(found, make.config_class), prefixes, found.folder)


def _written(found: Pretrained, kind: type) -> dict[str, Any]:
    return {objects.TARGET: f"transformers:{kind.__name__}.from_dict", "config_dict": dict(found.config)}


def _config_as_written(found: Pretrained, config: Any, json_file: str | None) -> dict[str, Any]:
    """Return what makes the config object, as an object of the config; experts are computed so that exporters take them."""
    choice = (
        {"experts_implementation": _EXPERTS} if getattr(config, "_experts_implementation", None) == _GROUPED else {}
    )
    if json_file is None:
        return {**_written(found, type(config)), **choice}
    target = f"transformers:{type(config).__name__}"
    if choice:
        return {objects.TARGET: f"{target}.from_pretrained", "pretrained_model_name_or_path": json_file, **choice}
    return {objects.TARGET: f"{target}.from_json_file", "json_file": json_file}


def _class_of(architecture: str, prefixes: Sequence[str]) -> Any:
    make = trust.import_architecture(trust.locate(architecture, prefixes))
    if not hasattr(make, "config_class") or not hasattr(make, "from_pretrained"):
        raise ArchitectureError(
            f"{architecture} is no network of transformers",
            hint="name the one that the folder was saved from: --architecture transformers:NAME",
        )
    return make


def _built(make: Any, config: Any) -> nn.Module:
    import torch

    torch.manual_seed(_SEED)
    try:
        module: nn.Module = make(config)
    except Exception as error:
        raise ArchitectureError(
            f"{make.__name__} cannot be built from its config.json: {type(error).__name__}: {error}",
            hint="does the installed transformers know it? see transformers_version in config.json",
        ) from error
    return module.eval()


# What goes in and out


def _constants(module: Any) -> dict[str, Any]:
    parameters = inspect.signature(module.forward).parameters
    return {name: value for name, value in CONSTANTS.items() if name in parameters}


def _inputs(module: Any, architecture: str, tried: Iterable[Declared], constants: Mapping[str, Any]) -> Inputs:
    """Return the first, the widest, declaration with which the network runs at all of its sizes."""
    problem = "nothing is known of what its forward takes"
    for declared in tried:
        try:
            return _settled(module, declared, constants)
        except Exception as error:  # noqa: BLE001 - a network may raise anything for inputs it does not take
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return Inputs(
        None,
        missing=tuple(_required(module)),
        reason=f"{architecture} ran with none of the usual inputs of its kind ({problem})",
    )


def _required(module: Any) -> list[str]:
    parameters = inspect.signature(module.forward).parameters
    main = getattr(module, "main_input_name", None)
    return [str(main)] if main in parameters else list(parameters)[:1]


def _settled(module: Any, declared: Declared, constants: Mapping[str, Any]) -> Inputs:
    interface = _interface(declared, constants)
    cap = _cap(interface)
    places = [
        tensors_in(_called(module, case.inputs, constants))
        for case in cases.sample(interface, seed=_SEED, cap_elements=cap)
    ]
    common = [path for path in places[0] if all(path in each for each in places)]
    taken = {each.name for each in interface.inputs}
    # What lies deeper is wanted only if it goes in as well, as the past of a step does.
    wanted = [path for path in common if "." not in path or path in taken] or common
    paths = {_output_name(path, taken): path for path in wanted}
    return Inputs(_interface(declared, constants, paths), _comments(declared))


def _interface(declared: Declared, constants: Mapping[str, Any], paths: Mapping[str, str] | None = None) -> Interface:
    inputs, dimensions = declared
    specs = tuple(
        InputSpec(
            name,
            each["dtype"],
            tuple(each["shape"]),
            each.get("low"),
            each.get("high"),
            each.get("values", "uniform" if "low" in each else "normal"),
        )
        for name, each in inputs.items()
    )
    used = {size for spec in specs for size in spec.shape}
    sizes = tuple(
        Dimension(name, each["min"], each["max"], each.get("multiple_of", 1), each.get("formula"))
        for name, each in dimensions.items()
        if name in used
    )
    named = paths or {}
    moved = {name: path for name, path in named.items() if name != path}
    return Interface(specs, sizes, tuple(named), constants=constants, paths=named if moved else {})


def _cap(interface: Interface) -> int:
    """Return how many elements an input of a trial may have: more than the smallest sizes need, and not all that the largest do."""
    return max(_FEW_ELEMENTS, 4 * cases.fewest_elements(interface))


def _called(module: Any, arrays: Arrays, constants: Mapping[str, Any]) -> Any:
    import torch

    tensors = calling.tensors_from(arrays)
    given = {root: calling.assemble(tensors, root) for root in calling.roots_of(tensors)}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return module(**given, **constants)


def _output_name(path: str, inputs: set[str]) -> str:
    if path in inputs:
        return f"new_{path}"
    name = path.replace(".", "_") or "output"
    return f"output_{name}" if name[:1].isdigit() else name


def _comments(declared: Declared) -> dict[str, str]:
    """Say which sizes are only what was tried, for somebody to set to what is needed."""
    inputs, dimensions = declared
    used = {size for each in inputs.values() for size in each["shape"]}
    return {
        name: "it ran at these sizes; set them to what it will be given"
        for name, each in dimensions.items()
        if name in used and name != "batch" and "formula" not in each
    }
