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
from pipeline.rebuild import calling, cases, decoders, objects, trust
from pipeline.rebuild.declarations import declarations
from pipeline.rebuild.doctor.renames import shortest, stems
from pipeline.rebuild.infer import Arguments
from pipeline.rebuild.infer_inputs import Inputs
from pipeline.rebuild.outputs import tensors_in
from pipeline.weights import headers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch
    from torch import nn

    from pipeline.interface import Arrays
    from pipeline.rebuild.declarations import Declared
    from pipeline.weights.pretrained import Pretrained

CONSTANTS = {"use_cache": False}
"""What a forward is called with where it has such a parameter: without it what was computed before comes back as an object."""
_FEW_ELEMENTS = 1024
_SEED = 0


def inferred(
    found: Pretrained, architecture: str, prefixes: Sequence[str], json_file: str | None, *, with_cache: bool = False
) -> tuple[Arguments, Inputs]:
    """Return the arguments of a network, the names that its weights get, and what goes in and out of it.

    `json_file` is its config.json as the config is to name it, None where it is to be written out there. `with_cache`: they are
    those of a step of it, as `decoders.STEP` makes it.

    Raises:
        UnsafeError: transformers is not trusted.
        ArchitectureError: it has no such network, or it cannot be built or run, or not from these weights.
    """
    make = _class_of(architecture, prefixes)
    target = f"transformers:{make.config_class.__name__}"
    written: dict[str, Any] = {objects.TARGET: f"{target}.from_dict", "config_dict": dict(found.config)}
    read: dict[str, Any] = {objects.TARGET: f"{target}.from_json_file", "json_file": json_file}
    config = objects.make(written, prefixes, found.folder)
    values: dict[str, Any] = {"config": read if json_file else written}
    if with_cache:
        module, declared = decoders.step(_built(make, config))
        values, constants = {"model": {objects.TARGET: architecture, **values}}, {}
    else:
        module = _built(make, config)
        declared, constants = declarations(module), _constants(module)
    rename, ignore = _exceptions(found, make, config)
    arguments = Arguments(values, {}, {}, (), rename, ignore, names_by="transformers")
    return arguments, _inputs(module, architecture, declared, constants)


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


# The names of the weights


def _exceptions(found: Pretrained, make: Any, config: Any) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return `rename` and `ignore` as transformers has them for this file, told by where it puts tensors of the same names.

    Raises ArchitectureError where the file lacks tensors, or where it makes one of several, which no name can say.
    """
    import torch

    header = headers.read(found.weights)
    names = [each.name for each in header.tensors]
    numbered = {
        each.name: torch.full(each.shape, index, dtype=torch.int64 if "int" in each.dtype else torch.float32)
        for index, each in enumerate(header.tensors, start=1)
    }
    placed, told = _loaded(make, config, numbered)
    homes: dict[str, str] = {}
    for name, tensor in placed.items():
        source = _source_of(tensor, names)
        if source is not None and homes.get(source) != source:  # of names that are tied, its own
            homes[source] = name
    homes |= {name: name for name in names if name not in homes and name in placed and not placed[name].numel()}
    left_out = [name for name in names if name not in homes]
    if made := [name for name in left_out if name not in told["unexpected_keys"]]:
        raise ArchitectureError(
            f"transformers makes other tensors of {made[0]} and {len(made) - 1} more of {found.weights.name}, which no rename can say",
            hint=f"save it as it is in memory: {make.__name__}.from_pretrained({str(found.folder)!r}).state_dict(), with torch.save",
        )
    if lacking := sorted(told["missing_keys"]):
        raise ArchitectureError(
            f"{found.weights.name} lacks {lacking[0]}{f' and {len(lacking) - 1} more' if lacking[1:] else ''}, which {make.__name__} would leave at random",
            hint=f"name the network that was saved: --architecture transformers:{found.architecture}",
        )
    moved = any(old != new for old, new in homes.items())
    return shortest(homes) if moved else {}, stems(left_out, list(homes))


def _loaded(make: Any, config: Any, tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Any]:
    """Return where transformers puts tensors, and what it says of those that have no place, or got nothing.

    In float32 throughout: the type that a config states may not hold the numbers.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module, told = make.from_pretrained(
                None, config=config, state_dict=dict(tensors), output_loading_info=True, dtype=torch.float32
            )
    except Exception as error:
        raise ArchitectureError(
            f"{make.__name__} does not take these weights: {' '.join(str(error).split())[:300]}",
            hint="is this the config.json that was saved with them?",
        ) from error
    return module.state_dict(), told


def _source_of(tensor: torch.Tensor, names: Sequence[str]) -> str | None:
    """Return which tensor of the file was put there: the one whose number it holds throughout."""
    if not tensor.numel():
        return None
    first = float(tensor.flatten()[0])
    if not first.is_integer() or not 1 <= first <= len(names) or not bool((tensor == first).all()):
        return None
    return names[int(first) - 1]


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
    given = {
        root: calling.assemble(tensors, root) for root in dict.fromkeys(name.partition(".")[0] for name in tensors)
    }
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
