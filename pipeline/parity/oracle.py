"""The oracle: what the network computes in float64, and how much of it float32 can know.

Float32 has rounding errors of its own, so float32 eager is no reference. The same network in float64 is, to about nine
digits more than float32 holds. What float32 eager itself loses against it, as it stands and with inputs and weights
moved by one unit in the last place, is the *noise*: a backend that evaluates the same sums in another order
cannot be expected to do better (N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 1.5–1.6
and 3.1: rounding errors act like perturbations of the data of the size of the unit roundoff).

A network in float64 has nothing wider to be held against: its own evaluation is the reference then, and the noise twice its
response to changes by one unit in the last place of float64. The unit is always that of the coarsest precision on an output's way.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray  # noqa: TC002 - read when answers are validated

from pipeline.errors import ArchitectureError, DefectError
from pipeline.parity import budget, caller, hearing, lineage, telling
from pipeline.parity.telling import Origin  # noqa: TC001 - read when answers are validated
from pipeline.parity.ties import Choice
from pipeline.rebuild import calling, cases, witness

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import nn

    from pipeline.interface import Arrays, Case, Interface
    from pipeline.parity.caller import Caller
    from pipeline.parity.lineage import Followed
    from pipeline.worker.runner import Runner, Worker

FALLBACK_FACTOR = 2.0
_FEWEST = 2
_DIFFERED = "came out differently twice on the same input"
BOUNDED_ROUNDOFFS = 4
"""What a sigmoid or softmax may be off by, in unit roundoffs of its range of 1; onnxruntime's sigmoid is off by 2.4 at most."""
ENVIRONMENT = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}
"""What a process that evaluates the oracle runs with: the same instructions on every x86-64 processor with AVX2.

Float32 noise otherwise depends on whether the builder's machine has AVX-512, and golden cases carry the noise.
"""


def started(runner: Runner) -> Worker:
    """Start the worker that evaluates the oracle."""
    modules = ("torch", "torch.fx.experimental.symbolic_shapes", __name__)  # the second: what meta tensors import
    return runner.start("the oracle", threads=1, environment=ENVIRONMENT, modules=modules)


@dataclass(frozen=True, slots=True)
class Reference:
    """What one case's outputs should be, by output name.

    `values`: float64 (complex128) for floating outputs, exact values for the others. `noise`: for floating outputs the largest
    error seen in the network's own precision, elementwise and float64; for the others 1.0 where the network itself disagrees
    (a tie), else 0.0. `dtypes`: what eager returns.

    `roundoffs`: the unit roundoff of the coarsest precision on a floating output's way. `slack`: for an output that ends in
    sigmoids or softmaxes what their own accuracy moves it by, ÷ the usual limit. `choices`: what an index output was chosen from.
    `origins`: what reaches an output. `responses`: how far it moves ÷ its floor when weights (or inputs) move by 2 %.
    `fed`: the outputs that the values of inputs reach, but those that show every weight on the way although they are always the same.
    """

    values: dict[str, NDArray[Any]]
    noise: dict[str, NDArray[np.float64]]
    dtypes: dict[str, str]
    roundoffs: dict[str, float] = field(default_factory=dict)
    slack: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    choices: dict[str, tuple[Choice, ...]] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    responses: dict[str, float] = field(default_factory=dict)
    fed: tuple[str, ...] = ()

    def tells(self, name: str) -> bool:
        """Whether a defect would show in an output in this case (see `pipeline.parity.telling`)."""
        return self.responses.get(name, 0.0) > budget.Rule().limit


def evaluate(
    module: nn.Module,
    interface: Interface,
    inputs: Sequence[Arrays],
    *,
    seed: int,
    plain: Sequence[Mapping[str, torch.Tensor]] | None = None,
    unbounded: Sequence[str] = (),
    perturbations: int = caller.PERTURBATIONS,
) -> tuple[list[Reference], str | None]:
    """Return each case's reference, and the reason if float64 was not possible (None if it was).

    The noise is the largest over `perturbations` calls with moved numbers and the plain one.
    `plain` are the outputs of each case in the network's own precision, where they are known already. Without float64 the
    reference is eager, and the noise is twice its response to one-ulp changes. `unbounded` names outputs before whose last
    sigmoids and softmaxes the network is evaluated: these give back what enters them. The module comes back as it was, its
    tensors in memory of their own.

    Raises:
        ArchitectureError: the network draws random numbers or keeps a state, so that it has no output to hold anything against.
        DefectError: a call by hand gives something else than ours.
    """
    caller.own_tensors(module)
    run = caller.Caller(module, interface)
    if unbounded:
        skipped = [run(case, follow=True).bounded(unbounded) for case in inputs]
        run = caller.Caller(module, interface, dict(zip(map(id, inputs), skipped, strict=True)))
        plain = [run(case).outputs for case in inputs]
    else:
        _require_same_twice(run, min(inputs, key=_elements))
        plain = list(plain or (run(case).outputs for case in inputs))
        _require_witness(module, interface, run, inputs[0], plain[0])
    moved = caller.perturbed(run, inputs, seed, perturbations)
    origins = [_origins(each[0], plain[0], has_weights=bool(caller.floating(module))) for each in moved]
    decided = [_decided(each[0], plain[0]) for each in moved]
    shaken = caller.shaken(run, inputs, plain, origins, decided, seed)
    exact, reason = caller.exactly(run, inputs, plain)
    references = _references(run, exact, plain, moved, fallback=reason is not None)
    told = _with_responses(references, origins, shaken)
    fed = [{name for name, trail in first.trails.items() if trail.inputs} for first, *_ in moved]
    values = {name: [each.values[name] for each in told] for name in set.intersection(*fed)}
    shown = {
        name for name, own in values.items() if hearing.shows_every_weight(run, inputs, name, own, floors(told, name))
    }
    return [replace(each, fed=tuple(sorted(own - shown))) for each, own in zip(told, fed, strict=True)], reason


def signals(
    module: nn.Module, interface: Interface, sampled: Sequence[Case], references: Sequence[Reference], *, seed: int
) -> list[tuple[Case, Reference]]:
    """Return further cases, each the first that says something about an output of which fewer than two of the others do."""
    lacking = {
        name
        for name in references[0].values
        if not is_settled(references, name) and sum(each.tells(name) for each in references) < _FEWEST
    }
    found: list[tuple[Case, Reference]] = []
    sizes = next((each.sizes for each in sampled if each.name == "odd"), sampled[0].sizes)
    for case in cases.signals(interface, sizes, seed=seed) if lacking else ():
        try:
            (reference,), _ = evaluate(module, interface, [case.inputs], seed=seed)
        except Exception:  # noqa: BLE001, S112 - a network may raise anything on inputs that nobody promised
            continue
        if told := {name for name in lacking if reference.tells(name)}:
            found.append((case, reference))
            lacking -= told
        if not lacking:
            break
    return found


def is_settled(references: Sequence[Reference], name: str) -> bool:
    """Whether there is nothing to say of an output: neither weights nor inputs reach it, or it is always empty."""
    known = [each for each in references if name in each.origins]
    return all(each.origins[name] == "constant" for each in known) or not any(each.values[name].size for each in known)


def floors(references: Sequence[Reference], name: str) -> list[budget.Floats] | None:
    """Return an output's floor in every case (see `pipeline.parity.budget`); None for one that is compared exactly."""
    if not all(np.issubdtype(each.values[name].dtype, np.inexact) for each in references):
        return None
    roundoff = max(each.roundoffs.get(name, budget.UNIT_ROUNDOFF) for each in references)
    return budget.floors(
        [each.values[name] for each in references], [each.noise[name] for each in references], roundoff
    )


def _origins(followed: Followed, outputs: Mapping[str, torch.Tensor], *, has_weights: bool) -> dict[str, Origin]:
    """Return what reaches each output; weights, where the call could not be followed."""
    found: dict[str, Origin] = {}
    for name in outputs:
        trail = followed.trails.get(name)
        if has_weights and (trail is None or trail.weights):
            found[name] = "weights"
        else:
            found[name] = "inputs" if trail is None or trail.inputs or trail.weights else "constant"
    return found


def _require_same_twice(run: Caller, case: Arrays) -> None:
    """Raise if a call draws random numbers that its outputs show. Its own chance would pass for noise, and hide any defect."""
    before = _random_states()
    first = run(case).outputs
    if _random_states() == before:
        return
    again = run(case).outputs
    changed = [name for name in first if not _same(first[name], again[name])]
    if changed:
        raise ArchitectureError(
            f"the network draws random numbers when it is called: {', '.join(changed)} {_DIFFERED}",
            hint="make them an input, or leave them out in eval() mode: nothing can be held against outputs of chance",
            about="changes-between-calls",
        )


def _require_witness(
    module: nn.Module, interface: Interface, run: Caller, case: Arrays, ours: Mapping[str, torch.Tensor]
) -> None:
    """Hold a call of ours against one by hand (see `pipeline.rebuild.witness`)."""
    try:
        witness.require_agreement(module, interface, calling.tensors_from(case), ours)
    except DefectError:
        again = run(case).outputs
        changed = [name for name in ours if not _same(ours[name], again[name])]
        if not changed:
            raise
        raise ArchitectureError(
            f"the network keeps a state between calls: {', '.join(changed)} {_DIFFERED}",
            hint="make the state an input and an output: an exported file starts from the same state at every call",
            about="changes-between-calls",
        ) from None


def _same(first: torch.Tensor, again: torch.Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN where the other has NaN."""
    return bool(((first == again) | ((first != first) & (again != again))).all())  # noqa: PLR0124 - NaN is what differs from itself


def _random_states() -> tuple[Any, ...]:
    """Return where the generators stand that a network may draw from: torch's, Python's and numpy's."""
    import random

    import numpy as np
    import torch

    _, keys, position, *_ = np.random.get_state()  # noqa: NPY002 - the one that networks draw from
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), np.asarray(keys).tobytes(), position


def _elements(case: Arrays) -> int:
    return sum(int(array.size) for array in case.values())


def _decided(followed: Followed, outputs: Mapping[str, torch.Tensor]) -> set[str]:
    """Return the outputs that come of whole numbers alone, such as a label, whatever their own type is."""
    return {
        name
        for name, each in outputs.items()
        if (followed.trails[name].decided if name in followed.trails else not lineage.own_roundoff(each))
    }


def _references(
    run: Caller,
    exact: Sequence[Followed],
    plain: Sequence[Mapping[str, torch.Tensor]],
    moved: Sequence[Sequence[Followed]],
    *,
    fallback: bool,
) -> list[Reference]:
    roundoffs = {name: run.roundoff(name, [each[0] for each in moved], plain[0][name]) for name in plain[0]}
    wide = {name for name, roundoff in roundoffs.items() if fallback or roundoff == lineage.ROUNDOFFS["float64"]}
    references = [
        _reference(truth, [first, *(each.outputs for each in others)], roundoffs, wide)
        for truth, first, others in zip(exact, plain, moved, strict=True)
    ]
    chosen = _choices(exact, moved, wide_factor=FALLBACK_FACTOR if fallback else 1.0)
    return [replace(each, choices=own) for each, own in zip(references, chosen, strict=True)]


def _reference(
    truth: Followed, samples: Sequence[Mapping[str, torch.Tensor]], roundoffs: Mapping[str, float], wide: set[str]
) -> Reference:
    import torch

    values, noise, dtypes, slack = {}, {}, {}, {}
    for name, value in truth.outputs.items():
        dtypes[name] = str(samples[0][name].dtype).removeprefix("torch.")
        own = [sample[name] for sample in samples]
        if not value.is_floating_point() and not value.is_complex():
            # Where the network itself finds more or fewer, no element has a counterpart.
            ties = [
                each != value if each.shape == value.shape else torch.ones_like(value, dtype=torch.bool) for each in own
            ]
            values[name] = calling.array_from(value)
            noise[name] = calling.array_from(torch.stack(ties).any(0).double())
            continue
        widest = torch.complex128 if value.is_complex() else torch.float64
        exact = value.to(widest)
        errors = torch.stack([_error(each.to(widest), exact) for each in own])
        values[name] = calling.array_from(exact)
        noise[name] = calling.array_from(errors.amax(0) * (FALLBACK_FACTOR if name in wide else 1.0))
        if (trail := truth.trails.get(name)) and trail.moved is not None and trail.moved.shape == exact.shape:
            share = roundoffs[name] * BOUNDED_ROUNDOFFS / budget.Rule().limit
            slack[name] = calling.array_from(trail.moved.nan_to_num(posinf=0.0) * share)
    return Reference(values, noise, dtypes, roundoffs=dict(roundoffs), slack=slack)


def _error(value: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """Return the absolute error: equal infinities and shared NaNs have none; what else is not finite stays visible as inf."""
    import torch

    if value.shape != exact.shape:
        return torch.full(exact.shape, float("inf"), dtype=torch.float64)
    same = (value == exact) | (value.isnan() & exact.isnan())
    return torch.where(same, 0.0, (value - exact).abs().nan_to_num(nan=float("inf")))


def _choices(
    exact: Sequence[Followed], moved: Sequence[Sequence[Followed]], *, wide_factor: float
) -> list[dict[str, tuple[Choice, ...]]]:
    """Return, for each case, what index outputs were chosen from."""
    wanted = [
        [
            (name, number)
            for name, trail in truth.trails.items()
            if trail.chosen is not None and not truth.outputs[name].is_floating_point()
            for number in trail.chosen.tables
        ]
        for truth in exact
    ]
    numbers = [{number for _, number in each} for each in wanted]
    known = [
        {number: _measured(truth.sources[number], number, others, wide_factor) for number in mine}
        for truth, others, mine in zip(exact, moved, numbers, strict=True)
    ]
    alike = all(each == numbers[0] for each in numbers)
    found: list[dict[str, tuple[Choice, ...]]] = []
    for index, (truth, pairs) in enumerate(zip(exact, wanted, strict=True)):
        own: dict[str, list[Choice]] = {}
        for name, number in pairs:
            cases = [each[number] for each in known] if alike else [known[index][number]]
            own.setdefault(name, []).append(_choice(truth, name, number, cases, index if alike else 0))
        found.append({name: tuple(each) for name, each in own.items()})
    return found


def _measured(source: Any, number: int, moved: Sequence[Followed], factor: float) -> tuple[Any, Any, Any, float]:
    """Return a source's values, its noise, what bounded functions move it by, and its unit roundoff, 0.0 for whole numbers."""
    import torch

    values = source.values.double()
    own = [each.sources[number] for each in moved if number < len(each.sources)]
    errors = [_error(each.values.double(), values) for each in own if each.values.shape == values.shape]
    noise = torch.stack(errors).amax(0).nan_to_num(posinf=0.0) * factor if errors else torch.zeros_like(values)
    roundoff = max((each.coarsest for each in own), default=source.coarsest)
    slack = (
        None
        if source.moved is None
        else calling.array_from(source.moved * roundoff * BOUNDED_ROUNDOFFS / budget.Rule().limit)
    )
    return calling.array_from(values), calling.array_from(noise), slack, roundoff


def _choice(
    truth: Followed, name: str, number: int, cases: Sequence[tuple[Any, Any, Any, float]], index: int
) -> Choice:
    chosen, source = truth.trails[name].chosen, truth.sources[number]
    if chosen is None:
        raise DefectError(f"nothing is known of what {name} was chosen from")
    roundoff = max(each[3] for each in cases)
    floor = budget.floors([each[0] for each in cases], [each[1] for each in cases], roundoff)[index]
    values, _, slack, _ = cases[index]
    local = chosen.cells - source.first
    cells = calling.array_from(_within(local, values.size))
    return Choice(
        values=values,
        floor=(floor if slack is None else np.maximum(floor, slack)) * (1.0 if roundoff else 0.0),
        cells=cells,
        table=calling.array_from(chosen.tables[number]),
    )


def _within(local: torch.Tensor, size: int) -> torch.Tensor:
    import torch

    return torch.where((local >= 0) & (local < size), local, -1)


def _with_responses(
    references: Sequence[Reference],
    origins: Sequence[Mapping[str, Origin]],
    shaken: Sequence[Mapping[str, Sequence[torch.Tensor]]],
) -> list[Reference]:
    """Return the references with what reaches outputs, and how these respond."""
    by_output = {name: floors(references, name) for name in references[0].values}
    found = []
    for index, (each, own, others) in enumerate(zip(references, origins, shaken, strict=True)):
        responses = {}
        for name, changed in others.items():
            floor = by_output[name]
            responses[name] = max(
                telling.response(each.values[name], calling.array_from(_wide(one)), floor[index] if floor else None)
                for one in changed
            )
        found.append(replace(each, origins=dict(own), responses=responses))
    return found


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor
