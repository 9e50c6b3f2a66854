"""Write a config for a weights file: arguments and inputs found out where they can be, asked for where they cannot."""

from __future__ import annotations

import ast
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import architectures
from pipeline.config.fields import DIMENSION_NAME
from pipeline.config.inputs import DTYPES
from pipeline.config.text import parse_value
from pipeline.errors import InputError
from pipeline.interface import Dimension, InputSpec
from pipeline.rebuild import auto, calling, trust
from pipeline.rebuild.doctor.renames import as_yaml
from pipeline.run.jobs import FindArchitectures, InferConfig
from pipeline.storage.store import atomic_write
from pipeline.weights import headers, read, wrappers
from pipeline.weights.kinds import Kind
from pipeline.weights.verified import weights_digest
from pipeline.worker.process import LOCAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pipeline.interface import Interface
    from pipeline.rebuild.infer import Arguments
    from pipeline.run.jobs import Inferred

TIMEOUT_S = 120.0
_SHIPPED = Path(architectures.__file__).parent
_INPUT = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<dtype>[a-z0-9]+)\[(?P<shape>[^\]]*)\](?P<range>.*)")
_RANGE = re.compile(r"(?::(?P<low>-?[0-9.e+-]+)\.\.(?P<high>-?[0-9.e+-]+)|:(?P<values>mask|zeros|normal))?")
_ARGUMENT = "model.arguments."


@dataclass(frozen=True, slots=True)
class Request:
    """What the command was given; `key` picks one of several state dicts in the weights file. `title`: what a config is called after."""

    weights: Path
    architecture: str
    trust: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    max_bytes: int | None = None
    key: str | None = None
    title: str | None = None

    @property
    def name(self) -> str:
        """The name of the release."""
        return _slug(self.title or self.weights.stem)


@dataclass(frozen=True, slots=True)
class Draft:
    """A config written to `path`; `unsure` are what the file could not tell, to be looked at."""

    path: Path
    text: str
    unsure: tuple[str, ...]


def init(request: Request, output: Path | None, ask: Callable[[str], str] | None, *, force: bool = False) -> Draft:
    """Write a config for `request.weights` and return it.

    `ask` puts a question to the user and returns the answer; None where nobody is there to answer.

    Raises:
        WeightsError, UnsafeError, ArchitectureError: the file or the network is not to be used, or not there.
        MisfitError: no arguments were found with which the state dict fits.
        InputError: an input could not be found out and was not given; or the config is there already.
    """
    target = target_of(request.name, output, force=force)
    auto.require_none(request.architecture, request.weights.parent)
    request = _with_key(request, ask)
    header = read.require_state_dict(request.weights, key=request.key, max_bytes=request.max_bytes)
    prefixes = trust.trusted_prefixes(Path.cwd(), request.trust)
    trust.locate(request.architecture, prefixes)
    values = _values(request.overrides)
    given = {spec.name: spec for spec in map(parse_input, request.inputs)}
    while True:
        found = _infer(request, prefixes, values, given)
        missing, interface = found.inputs.missing, found.inputs.interface
        if interface is not None:
            break
        if ask is None or not set(missing) - given.keys():
            raise _missing_error(missing, given, found.inputs.reason)
        for name in missing:
            given[name] = parse_input(f"{name}={ask(f'{name}: its type and shape, as in float32[batch,10]')}")
    text = config_text(request, target, found, interface, weights_digest(request.weights, header))
    atomic_write(target, text.encode())
    arguments = found.arguments
    exceptions = [f"model.{key}" for key in ("rename", "ignore") if getattr(arguments, key)]
    return Draft(target, text, (*arguments.checks, *exceptions, *found.inputs.comments))


def target_of(name: str, output: Path | None, *, force: bool) -> Path:
    """Return the file to write a config into; raises InputError where it is there already."""
    target = output or Path(f"{name}.yaml")
    if target.exists() and not force:
        raise InputError(f"{target} is there already", hint="replace it with --force, or name another with --output")
    return target


def _with_key(request: Request, ask: Callable[[str], str] | None) -> Request:
    """Return the request with the state dict that the user means, where the file holds several and somebody can tell."""
    if ask is None or request.key is not None:
        return request
    header = headers.read(request.weights, max_bytes=request.max_bytes)
    if header.kind is not Kind.SEVERAL:
        return request
    choices = wrappers.listed(header.wrapped.choices)
    return replace(
        request, key=ask(f"{request.weights.name} holds several state dicts:\n{choices}\nwhich one is meant")
    )


def match(weights: Path, *, key: str | None = None, max_bytes: int | None = None) -> dict[str, dict[str, Any]]:
    """Return the shipped architectures that take a state dict, as MODULE:CLASS → arguments; raises as `init`."""
    read.require_state_dict(weights, key=key, max_bytes=max_bytes)
    search = FindArchitectures(candidates=tuple(shipped()), weights=weights, key=key, max_bytes=max_bytes)
    with LOCAL.start(
        "the search for an architecture", threads=1, modules=("torch", FindArchitectures.__module__)
    ) as worker:
        return worker.call(search, timeout_s=TIMEOUT_S)


def shipped() -> list[str]:
    """Return the networks that come with weighbridge, as MODULE:CLASS, from their source."""
    found = []
    for path in sorted(_SHIPPED.glob("[!_]*.py")):
        classes = [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
        found += [f"{trust.ALWAYS_TRUSTED}.{path.stem}:{each.name}" for each in classes if each.name[0] != "_"]
    return found


def parse_input(given: str) -> InputSpec:
    """Read `x=float32[batch,10]`, `ids=int64[batch,length]:0..30522` or `mask=int64[batch,length]:mask`.

    Raises InputError, naming what was expected, for anything else.
    """
    match = _INPUT.fullmatch(given.replace(" ", ""))
    extra = match and _RANGE.fullmatch(match["range"])
    if not match or not extra:
        raise InputError(
            f"--input {given!r} is not NAME=DTYPE[SIZES]", hint="for example --input 'x=float32[batch,10]'"
        )
    dtype = match["dtype"]
    if dtype not in DTYPES:
        raise InputError(f"--input {given!r}: {dtype} is no dtype of an input", hint=f"use {', '.join(DTYPES)}")
    parts = [part for part in match["shape"].split(",") if part]
    strange = next((p for p in parts if not re.fullmatch(rf"[1-9][0-9]{{0,9}}|{DIMENSION_NAME}", p)), None)
    if strange is not None:
        told = f"--input {given!r}: {strange!r} is neither a size nor a dimension's name"
        raise InputError(told, hint="give a whole number from 1 on, or a name such as batch")
    shape = tuple(int(part) if part.isdigit() else part for part in parts)
    try:
        low, high = (None if extra[name] is None else float(extra[name]) for name in ("low", "high"))
    except ValueError:
        raise InputError(f"--input {given!r}: {match['range']!r} is no range", hint="as in :0..30522") from None
    values = extra["values"] or ("uniform" if low is not None else "normal")
    if "int" in dtype and low is None and values == "normal":
        raise InputError(
            f"--input {given!r}: integers need a range, or to be a mask",
            hint=f"--input '{match['name']}={dtype}[{match['shape']}]:0..100', with its range (or :mask)",
        )
    return InputSpec(match["name"], dtype, shape, low, high, values)


def _values(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the constructor arguments among `--set` options; nothing else can be set before there is a config."""
    values = {}
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key.startswith(_ARGUMENT):
            raise InputError(
                f"--set {override}: only {_ARGUMENT}NAME=VALUE can be set here", hint="edit the config after"
            )
        values[key.removeprefix(_ARGUMENT)] = parse_value(value)
    return values


def _infer(
    request: Request, prefixes: Sequence[str], values: Mapping[str, Any], given: Mapping[str, InputSpec]
) -> Inferred:
    wanted = InferConfig(
        architecture=request.architecture,
        prefixes=tuple(prefixes),
        weights=request.weights,
        key=request.key,
        max_bytes=request.max_bytes,
        values=dict(values),
        given=dict(given),
        outputs=request.outputs,
    )
    with LOCAL.start("the network", threads=1, modules=("torch", InferConfig.__module__)) as worker:
        return worker.call(wanted, timeout_s=TIMEOUT_S)


def _missing_error(missing: Sequence[str], given: Mapping[str, InputSpec], reason: str) -> InputError:
    if not missing and not given:
        return InputError(
            f"which inputs the network takes could not be found out: {reason}",
            hint="give them: --input 'NAME=float32[batch,…]', named like the parameters of its forward",
        )
    if not set(missing) - given.keys():
        shown = ", ".join(f"{spec.name}={spec.dtype}[{','.join(map(str, spec.shape))}]" for spec in given.values())
        return InputError(f"the network does not take {shown}: {reason}", hint="correct --input")
    flags = " ".join(f"--input '{name}=float32[batch,…]'" for name in missing if name not in given)
    return InputError(
        f"the shapes of {', '.join(missing)} could not be found out: {reason}", hint=f"give them: {flags}"
    )


# The config's text


def config_text(request: Request, target: Path, found: Inferred, interface: Interface, sha256: str) -> str:
    """Return a config of what was found out; `request.weights` is named from the folder of `target`."""
    arguments, comments = found.arguments, found.inputs.comments
    weights = Path(os.path.relpath(request.weights.resolve(), target.resolve().parent)).as_posix()
    lines = [
        f"# Written by weighbridge init from {request.weights.name}. Lines marked CHECK could not be told from the file.",
        "",
        f"name: {request.name}",
        "",
        "model:",
        f"  architecture: {request.architecture}",
        *(f"  # from {source} ({', '.join(names)})" for source, names in arguments.sources.items()),
        f"  arguments: {flow(arguments.values)}",
        *(f"  # CHECK {name}: {why}." for name, why in arguments.checks.items()),
        f"  weights: {json.dumps(weights, ensure_ascii=False)}",
        *([f"  key: {flow(request.key)}"] if request.key is not None else []),
        f"  sha256: {sha256}",
        *_exception_lines(arguments),
        "",
        "# The arguments of the network's forward. In a shape, a number is a fixed size and a name a dynamic one.",
        "inputs:",
        *_input_lines(interface.inputs, comments),
        "",
        *_constant_lines(interface.constants),
        *_dimension_lines(interface.dimensions, comments),
        *_output_lines(interface),
        "exports: [torchscript, onnx]",
        "backends: [eager, torchscript, onnxruntime-cpu, onnxruntime-cuda]",
        "# These must be there and agree with the network; the others are tried.",
        "require: [torchscript, onnxruntime-cpu]",
        "",
    ]
    return "\n".join(lines)


def _exception_lines(arguments: Arguments) -> Iterator[str]:
    by = arguments.names_by
    if rename := arguments.rename:
        doubtful = "  # CHECK rename (file: network): told by words, numbers and shapes, which do not prove it."
        yield f"  # File: network, as {by} itself has it." if by else doubtful
        yield "  rename:"
        yield from (f"    {as_yaml(old)}: {as_yaml(new)}" for old, new in rename.items())
    if ignore := arguments.ignore:
        yield (
            f"  # {by} itself leaves these out."
            if by
            else "  # CHECK ignore: does the network do without these tensors of the file?"
        )
        yield f"  ignore: [{', '.join(map(as_yaml, ignore))}]"


def _input_lines(specs: Sequence[InputSpec], comments: Mapping[str, str]) -> Iterator[str]:
    fields = {spec.name: _fields(spec) for spec in specs}
    for root in calling.roots_of(fields):
        if root in comments and root in fields:
            yield f"  # CHECK {root}: {comments[root]}."
        given = calling.assemble(fields, root)
        if isinstance(given, list):
            yield f"  {root}:"
            yield from (f"    - {flow(each)}" for each in given)
        else:
            yield f"  {root}: {flow(given)}"


def _fields(spec: InputSpec) -> dict[str, Any]:
    fields: dict[str, Any] = {"dtype": spec.dtype, "shape": list(spec.shape)}
    if spec.values == "uniform":
        return fields | {"low": _whole(spec.low), "high": _whole(spec.high)}
    return fields if spec.values == "normal" else fields | {"values": spec.values}


def _output_lines(interface: Interface) -> list[str]:
    if interface.paths and any("." in name for name in interface.outputs):
        places = (f"  {name}: {flow(interface.paths.get(name, name))}" for name in interface.outputs)
        return ["# Names for what forward returns, and where each lies.", "outputs:", *places, ""]
    named = flow(dict(interface.paths) or list(interface.outputs))
    return ["# Names for what forward returns, in its order.", f"outputs: {named}", ""]


def _constant_lines(constants: Mapping[str, object]) -> list[str]:
    return ["# What the call is given beside them.", f"constants: {flow(dict(constants))}", ""] if constants else []


def _dimension_lines(dimensions: Sequence[Dimension], comments: Mapping[str, str]) -> list[str]:
    if not dimensions:
        return []
    lines = ["# The range of every dynamic size. Exports are tested at its ends and in between.", "dimensions:"]
    for each in dimensions:
        if each.name in comments:
            lines.append(f"  # CHECK {each.name}: {comments[each.name]}.")
        steps = {"multiple_of": each.multiple_of} if each.multiple_of > 1 else {}
        lines.append(f"  {each.name}: {each.formula or flow({'min': each.min, 'max': each.max, **steps})}")
    return [*lines, ""]


def _whole(number: float | None) -> float | int | None:
    return int(number) if number is not None and number == int(number) else number


def flow(value: Any) -> str:
    """Write a value as YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    return as_yaml(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _slug(stem: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._") or "model"
