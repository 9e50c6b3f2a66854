"""What no single key can tell: values that must agree with one another, or with the tables of formats and backends."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pipeline.config import accuracy, artifacts, preprocessing
from pipeline.config.fields import DIMENSION_NAME
from pipeline.config.inputs import DTYPES
from pipeline.config.tree import Problem, value_in_words
from pipeline.errors import suggestion
from pipeline.interface import formula_bounds, formula_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pydantic import BaseModel

    from pipeline.config.inputs import DimensionConfig, InputConfig
    from pipeline.config.models import (
        BackendConfig,
        BenchmarkConfig,
        DescribeConfig,
        GateConfig,
        ModelConfig,
        ParityConfig,
        ReferenceConfig,
        TuneConfig,
        Vocabulary,
    )
    from pipeline.config.tree import KeyPath

    Validate = Callable[[type[BaseModel], Any, KeyPath], Iterator[Problem]]

_NAME = re.compile(DIMENSION_NAME)
_OUTPUT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def options(tree: Mapping[str, Any], vocabulary: Vocabulary, validate: Validate) -> Iterator[Problem]:
    """Yield unknown formats and backends, and whatever their models say against their options."""
    for index, item in enumerate(_items(tree, "exports")):
        name, given = (item, {}) if isinstance(item, str) else (item.get("format"), artifacts.format_options(item))
        key: KeyPath = ("exports", index) if isinstance(item, str) else ("exports", index, "format")
        yield from _named(vocabulary.formats, "format", name, key, given, ("exports", index), validate)
    for index, item in enumerate(_items(tree, "backends")):
        name, given = (item, {}) if isinstance(item, str) else (item.get("backend"), item.get("options", {}))
        key = ("backends", index) if isinstance(item, str) else ("backends", index, "backend")
        yield from _named(vocabulary.backends, "backend", name, key, given, ("backends", index, "options"), validate)


def crosswise(sections: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what contradicts between sections; a check runs once all the sections it needs are sound."""
    for needs, check in _CHECKS:
        if all(name in sections for name in needs):
            yield from check(*(sections[name] for name in needs))


def _items(tree: Mapping[str, Any], key: str) -> list[Any]:
    """Return the list items of a usable form; for the others, the model has its say."""
    found = tree.get(key)
    return [item if isinstance(item, str | dict) else {} for item in found] if isinstance(found, list) else []


def _named(
    table: Mapping[str, type[BaseModel]],
    what: str,
    name: Any,
    key: KeyPath,
    given: Any,
    path: KeyPath,
    validate: Validate,
) -> Iterator[Problem]:
    if not isinstance(name, str) or not isinstance(given, dict):
        return
    model = table.get(name)
    if model is None:
        yield Problem(key, f"unknown {what} {name!r}{suggestion(name, table)}")
        return
    found = list(validate(model, given, path))
    yield from found
    if model.model_config.get("extra") in {"allow", "forbid"}:
        return
    for extra in given.keys() - model.model_fields.keys():
        yield Problem(
            (*path, extra), f"unknown key{suggestion(extra, model.model_fields)}", "extra_forbidden", at_key=True
        )


def _model(model: ModelConfig) -> Iterator[Problem]:
    if "://" in model.weights and model.sha256 is None:
        yield Problem(("model", "weights"), "a URL needs model.sha256, so that the file it names is the file you meant")


def _shapes(inputs: Mapping[str, InputConfig], dimensions: Mapping[str, DimensionConfig]) -> Iterator[Problem]:
    used = set()
    for name, each in inputs.items():
        sizes: dict[KeyPath, int | str] = {("shape", index): size for index, size in enumerate(each.shape)}
        if each.preprocess and each.preprocess.resize:
            sizes |= {("preprocess", "resize", index): size for index, size in enumerate(each.preprocess.resize)}
        for path, size in sizes.items():
            if isinstance(size, str):
                used.add(size)
                if size not in dimensions:
                    yield Problem(
                        ("inputs", name, *path), f"{size!r} is not in dimensions{suggestion(size, dimensions)}"
                    )
    for dimension in dimensions.values():
        used.update(_names_in(dimension.formula))
    for name in dimensions.keys() - used:
        yield Problem(("dimensions", name), f"no input has a dimension {name!r}", at_key=True)


def _names_in(formula: str | None) -> tuple[str, ...]:
    try:
        return formula_names(formula) if formula else ()
    except ValueError:
        return ()  # told where formulas are judged


def _inputs(inputs: Mapping[str, InputConfig]) -> Iterator[Problem]:
    for name, each in inputs.items():
        path: KeyPath = ("inputs", name)
        root, *parts = name.split(".")
        yield from _identifier(root, path)
        for part in parts:
            if not (_NAME.fullmatch(part) or part.isdecimal()):
                yield Problem(path, f"{part!r} in {name!r} is neither a position nor a name", at_key=True)
        yield from ((Problem((*path, key), message)) for key, message in _range(each))
        yield from preprocessing.check(name, each)
    yield from _nesting(list(inputs))


def _nesting(names: list[str]) -> Iterator[Problem]:
    """Yield lists with gaps, what is both a tensor and holds some, and names that only differ in what is no letter."""
    known: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"\W", "_", name)
        if plain in known:
            yield Problem(
                ("inputs", name), f"{name!r} and {known[plain]!r} would both be {plain!r} in an exported file"
            )
        known[plain] = name
    branches: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            branches.setdefault(".".join(parts[:depth]), []).append(parts[depth])
    for branch, parts in branches.items():
        path: KeyPath = ("inputs", next(name for name in names if name.startswith(f"{branch}.")))
        positions = {int(part) for part in parts if part.isdecimal()}
        if branch in names:
            yield Problem(path, f"{branch!r} is a tensor, and cannot hold others as well")
        elif positions and any(not part.isdecimal() for part in parts):
            yield Problem(path, f"{branch!r} is a list by its positions and a mapping by its names")
        elif positions and positions != set(range(len(positions))):
            yield Problem(path, f"the positions in {branch!r} are not 0 to {len(positions) - 1}")


def _range(each: InputConfig) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the bounds of what arrives: [low, high), both or none, and within the dtype."""
    (low, high), dtype = each.arriving_range, each.arriving_dtype
    limits = DTYPES[dtype]
    if (low is None) != (high is None):
        yield ("low", "is missing: high is given") if low is None else ("high", "is missing: low is given")
        return
    if dtype == "bool" and low is not None:
        yield "low", "a bool has no range"
    if limits and each.values == "normal":
        yield "values", f"{dtype} inputs have no normal values (valid: 'uniform', 'mask', 'zeros')"
    if low is None or high is None:
        if limits and each.values not in {"mask", "zeros"}:
            bounds = (limits[0], limits[1] + 1) if each.preprocess else (0, 1000)
            yield "dtype", f"{dtype} inputs need low and high, as in {{low: {bounds[0]}, high: {bounds[1]}}}"
        return
    if low >= high:
        yield "high", f"{high} is not above low, which is {low}"
    for key, bound, offset in (("low", low, 0), ("high", high, 1)):
        if limits and not isinstance(bound, int):
            yield key, f"expected an integer, given {value_in_words(bound)}"
        elif limits and not limits[0] <= bound - offset <= limits[1]:
            yield key, f"{bound} is outside {dtype}, which holds {limits[0]} to {limits[1]}"


def _dimensions(dimensions: Mapping[str, DimensionConfig]) -> Iterator[Problem]:
    for name, each in dimensions.items():
        yield from _identifier(name, ("dimensions", name))
        if each.formula is not None:
            yield from _formula(name, each, dimensions)
        elif each.max is None:
            yield Problem(("dimensions", name, "max"), "is missing")
        elif each.max < each.min:
            yield Problem(("dimensions", name, "max"), f"{each.max} is below min, which is {each.min}")
        elif each.smallest > each.max:
            yield Problem(
                ("dimensions", name, "multiple_of"),
                f"no multiple of {each.multiple_of} lies between {each.min} and {each.max}",
            )


def _formula(name: str, each: DimensionConfig, dimensions: Mapping[str, DimensionConfig]) -> Iterator[Problem]:
    path: KeyPath = ("dimensions", name) if each.model_fields_set == {"formula"} else ("dimensions", name, "formula")
    if given := sorted(each.model_fields_set - {"formula"}):
        yield Problem(("dimensions", name, given[0]), "a size that follows from others has no range of its own")
        return
    try:
        mentioned = formula_names(each.formula or "")
    except ValueError as error:
        yield Problem(path, str(error))
        return
    unknown = [other for other in mentioned if other not in dimensions]
    if unknown or not mentioned:
        what = (
            f"{unknown[0]!r} is not in dimensions{suggestion(unknown[0], dimensions)}" if unknown else "it names none"
        )
        yield Problem(path, f"expected the names of other dimensions: {what}")
    elif circle := _circle(name, dimensions):
        yield Problem(path, f"goes in a circle: {' → '.join(circle)}")
    else:
        low, high = _bounds(name, dimensions)
        if low < 0 or high < 1:
            yield Problem(path, f"can be {low} to {high}, and a size is not below 0")


def _circle(name: str, dimensions: Mapping[str, DimensionConfig], seen: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the names that lead from a dimension back to itself; () if none do."""
    if name in seen:
        return (*seen[seen.index(name) :], name)
    formula = dimensions[name].formula if name in dimensions else None
    return next((found for each in _names_in(formula) if (found := _circle(each, dimensions, (*seen, name)))), ())


def _bounds(name: str, dimensions: Mapping[str, DimensionConfig]) -> tuple[int, int]:
    each = dimensions.get(name)
    if each is None or each.formula is None:
        return (each.smallest, each.max or each.smallest) if each else (1, 1)
    return formula_bounds(each.formula, {other: _bounds(other, dimensions) for other in _names_in(each.formula)})


def _identifier(name: str, path: KeyPath) -> Iterator[Problem]:
    if not _NAME.fullmatch(name):
        yield Problem(path, f"{name!r} is not a name of letters, digits and '_'", at_key=True)


def _outputs(outputs: list[str], output_paths: Mapping[str, str]) -> Iterator[Problem]:
    yield from _unique(outputs, "outputs")
    for index, name in enumerate(outputs):
        if not _OUTPUT.fullmatch(name):
            yield Problem(("outputs", index), f"{name!r} is not a name of letters, digits, '_', '.' and '-'")
    for name in output_paths.keys() - set(outputs):
        yield Problem(("output_paths", name), f"{name!r} is not in outputs{suggestion(name, outputs)}", at_key=True)


def _distinct(inputs: Mapping[str, InputConfig], outputs: list[str]) -> Iterator[Problem]:
    for index, name in enumerate(outputs):
        if name in inputs:
            yield Problem(
                ("outputs", index),
                f"{name!r} is the name of an input too, and an exported file has one value of a name: call it new_{name} "
                f"(where the network returns it under that key: outputs: {{new_{name}: {name}, …}})",
            )


def _constants(constants: Mapping[str, Any], inputs: Mapping[str, InputConfig]) -> Iterator[Problem]:
    roots = {name.partition(".")[0] for name in inputs}
    for name in constants:
        path: KeyPath = ("constants", name)
        yield from _identifier(name, path)
        if name in roots:
            yield Problem(path, f"{name!r} is an input already", at_key=True)


def _unique(names: list[str], *path: str | int) -> Iterator[Problem]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Problem((*path, index), f"{name!r} is already there, as item {names.index(name)}")


def _backends(backends: list[BackendConfig]) -> Iterator[Problem]:
    yield from artifacts.named_once(backends, "backends", "backends", "give each variant its own name")


def _require(require: list[str], backends: list[BackendConfig]) -> Iterator[Problem]:
    names = [each.name for each in backends]
    yield from _unique(require, "require")
    for index, name in enumerate(require):
        if name not in names:
            yield Problem(("require", index), f"{name!r} is not in backends{suggestion(name, names)}")


def _reference(benchmark: BenchmarkConfig, backends: list[BackendConfig]) -> Iterator[Problem]:
    names = [each.name for each in backends]
    if benchmark.reference not in names:
        yield Problem(
            ("benchmark", "reference"),
            f"{benchmark.reference!r} is not in backends{suggestion(benchmark.reference, names)}",
        )


def _sizes(benchmark: BenchmarkConfig, dimensions: Mapping[str, DimensionConfig]) -> Iterator[Problem]:
    for index, sizes in enumerate(benchmark.sizes):
        yield from _within(("benchmark", "sizes", index), sizes, dimensions)


def _tuned(tune: TuneConfig, dimensions: Mapping[str, DimensionConfig]) -> Iterator[Problem]:
    yield from _within(("tune", "size"), tune.size, dimensions)


def _within(place: KeyPath, sizes: Mapping[str, int], dimensions: Mapping[str, DimensionConfig]) -> Iterator[Problem]:
    for name, size in sizes.items():
        path: KeyPath = (*place, name)
        dimension = dimensions.get(name)
        if dimension is None:
            yield Problem(path, f"{name!r} is not in dimensions{suggestion(name, dimensions)}", at_key=True)
        elif dimension.formula is not None:
            yield Problem(path, f"{name} follows from others, as {dimension.formula}: leave it out", at_key=True)
        elif dimension.max is not None and not dimension.min <= size <= dimension.max:
            yield Problem(path, f"{size} is outside {name}, which goes from {dimension.min} to {dimension.max}")
        elif size % dimension.multiple_of:
            yield Problem(path, f"{size} is not a multiple of {dimension.multiple_of}, as {name} must be")


def _parity(parity: ParityConfig) -> Iterator[Problem]:
    yield from _budget(("parity",), parity)


def _gates(gates: Mapping[str, GateConfig]) -> Iterator[Problem]:
    for name, gate in gates.items():
        yield from _budget(("gates", name), gate)
        if not gate.model_fields_set:
            yield Problem(("gates", name), "expected limit, atol with rtol, outputs or accuracy")


def _budget(section: KeyPath, budget: ParityConfig | GateConfig) -> Iterator[Problem]:
    has_limit = "limit" in budget.model_fields_set and budget.limit is not None
    yield from _tolerance(section, budget.atol, budget.rtol, with_limit=has_limit)
    for name, each in budget.outputs.items():
        path: KeyPath = (*section, "outputs", name)
        yield from _tolerance(path, each.atol, each.rtol, with_limit=each.limit is not None)
        if each.limit is each.atol is each.rtol is None:
            yield Problem(path, "expected limit, or atol with rtol")


def _recorded(reference: ReferenceConfig | None) -> Iterator[Problem]:
    if reference is not None:
        yield from _tolerance(("reference",), reference.atol, reference.rtol, with_limit=False)


def _tolerance(path: KeyPath, atol: float | None, rtol: float | None, *, with_limit: bool) -> Iterator[Problem]:
    if (atol is None) != (rtol is None):
        missing, given = ("atol", "rtol") if atol is None else ("rtol", "atol")
        yield Problem((*path, given), f"goes with {missing}, which is missing")
    elif atol is not None and with_limit:
        yield Problem((*path, "limit"), "either limit, or atol with rtol: one of them must go")


def _budgeted(parity: ParityConfig, gates: Mapping[str, GateConfig], outputs: list[str]) -> Iterator[Problem]:
    sections: dict[KeyPath, ParityConfig | GateConfig] = {("parity",): parity}
    for section, budget in (sections | {("gates", name): gate for name, gate in gates.items()}).items():
        for name in budget.outputs:
            if name not in outputs:
                yield Problem(
                    (*section, "outputs", name), f"{name!r} is not in outputs{suggestion(name, outputs)}", at_key=True
                )


def _described(
    describe: Mapping[str, DescribeConfig], inputs: Mapping[str, InputConfig], outputs: list[str]
) -> Iterator[Problem]:
    for name, each in describe.items():
        if name not in {*inputs, *outputs}:
            known = suggestion(name, [*inputs, *outputs])
            yield Problem(("describe", name), f"{name!r} is neither an input nor an output{known}", at_key=True)
        elif each.labels is not None and name not in outputs:
            yield Problem(
                ("describe", name, "labels"), "an input has no classes: give labels to an output", at_key=True
            )


_CHECKS: Iterable[tuple[tuple[str, ...], Callable[..., Iterator[Problem]]]] = (
    (("model",), _model),
    (("inputs",), _inputs),
    (("inputs", "dimensions"), _shapes),
    (("dimensions",), _dimensions),
    (("outputs", "output_paths"), _outputs),
    (("inputs", "outputs"), _distinct),
    (("constants", "inputs"), _constants),
    (("backends",), _backends),
    (("require", "backends"), _require),
    (("benchmark", "backends"), _reference),
    (("benchmark", "dimensions"), _sizes),
    (("tune", "dimensions"), _tuned),
    (("parity",), _parity),
    (("reference",), _recorded),
    (("gates",), _gates),
    (("parity", "gates", "outputs"), _budgeted),
    (("gates", "outputs"), accuracy.check_all),
    (("describe", "inputs", "outputs"), _described),
)
