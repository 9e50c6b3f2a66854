"""What parity asks of a worker beside running a backend: everything here runs in the child process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from pipeline.errors import ExportError, InputError, WeighbridgeError
from pipeline.formats.format import AuditSubject, CulpritSearch, FromNetwork, Signature
from pipeline.formats.format import Found as NotFound
from pipeline.formats.table import formats
from pipeline.interface import Array, Case, Interface
from pipeline.parity import rows
from pipeline.parity.caller import PERTURBATIONS
from pipeline.parity.oracle import Reference
from pipeline.parity.rows import Rows
from pipeline.rebuild import why
from pipeline.rebuild.network import Network
from pipeline.worker.job import Context, Model, Request, without_collection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from pipeline.interface import Arrays
    from pipeline.parity.twins import Run
    from pipeline.rebuild.model import Loaded
    from pipeline.rebuild.rehearsal import Rehearsal


class Rehearsed(Model):
    """A network that was built and took every case: what was noted, its size, and what its inputs are bound to.

    Of recorded cases also what it gave in float32, `plain`, and what identifies the network. `shapes`: its outputs', in the first case.
    """

    notes: tuple[str, ...]
    contradictions: tuple[str, ...]
    sha256: str
    parameters: int
    bytes: int
    binding: tuple[str, ...]
    plain: tuple[dict[str, Array], ...]
    shapes: dict[str, tuple[int, ...]]
    fingerprint: dict[str, JsonValue]


class Evaluation(Model):
    """The oracle's reference for each case, and why float64 was not possible (None if it was).

    `rows`: whether rows of a batch depend on one another, where that was asked.
    `signals` are cases that were added because the others say too little, with their own references.
    """

    network: Rehearsed
    references: tuple[Reference, ...]
    fallback: str | None
    rows: Rows | None = None
    signals: tuple[Case, ...] = ()
    signal_references: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True)
class _Network:
    """What `Rehearse` leaves for `Evaluate`."""

    loaded: Loaded
    interface: Interface
    cases: tuple[Case, ...]
    found: Rehearsal
    facts: Rehearsed


class Rehearse(Request[Rehearsed]):
    """Build the network, load its weights and run it on every case; the last `recorded` ones are those of a recording."""

    network: Network
    interface: Interface
    cases: tuple[Case, ...]
    recorded: int = 0
    is_lasting = True

    def run(self, context: Context) -> Rehearsed:
        """Leave the network, and its outputs in float32."""
        from pipeline.rebuild import calling, model, record, rehearsal

        loaded = model.load(self.network, examine=True)
        found = rehearsal.rehearse(loaded.module, self.interface, self.cases)
        state = loaded.module.state_dict().values()
        recorded = found.outputs[-self.recorded :] if self.recorded else []
        facts = Rehearsed(
            notes=loaded.notes,
            contradictions=loaded.contradictions,
            sha256=loaded.weights_sha256,
            parameters=sum(tensor.numel() for tensor in state),
            bytes=sum(tensor.nbytes for tensor in state),
            binding=tuple(found.binding),
            plain=tuple({name: calling.array_from(each) for name, each in call.items()} for call in recorded),
            shapes={name: tuple(each.shape) for name, each in found.outputs[0].items()} if found.outputs else {},
            fingerprint=record.fingerprint(loaded.module) if self.recorded else {},
        )
        context.leave(_Network(loaded, self.interface, self.cases, found, facts))
        return facts


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What `Evaluate` leaves for `Vary`: the network, and whether it was evaluated in float64."""

    module: nn.Module
    interface: Interface
    double: bool


class Evaluate(Request[Evaluation]):
    """Evaluate the oracle on the cases that were rehearsed, or the last few of them.

    `unbounded` names outputs before whose last sigmoids and softmaxes it is evaluated (see `oracle.evaluate`). With `signals`
    other inputs are tried where the cases say too little; with `rows` it is asked whether rows of a batch depend on one another. `perturbations`: as `oracle.evaluate` has it.
    """

    seed: int
    last: int = 0
    unbounded: tuple[str, ...] = ()
    signals: bool = False
    rows: bool = False
    perturbations: int = PERTURBATIONS

    def run(self, context: Context) -> Evaluation:
        """Take the network, which the oracle changes."""
        from pipeline.parity import oracle

        taken = context.take(_Network)
        inputs, plain = [case.inputs for case in taken.cases[-self.last :]], taken.found.outputs[-self.last :]
        module, interface = taken.loaded.module, taken.interface
        references, fallback = oracle.evaluate(
            module,
            interface,
            inputs,
            seed=self.seed,
            plain=plain,
            unbounded=self.unbounded,
            perturbations=self.perturbations,
        )
        added = oracle.signals(module, interface, taken.cases, references, seed=self.seed) if self.signals else []
        left = Evaluated(module, interface, double=fallback is None)
        context.leave(left)
        found = None
        if self.rows:
            run = arrays_by(runner_of(left))
            found = rows.examine(run, interface, taken.cases[-self.last :], references, seed=self.seed)
        return Evaluation(
            network=taken.facts,
            references=tuple(references),
            fallback=fallback,
            signals=tuple(case for case, _ in added),
            signal_references=tuple(reference for _, reference in added),
            rows=found,
        )


def runner_of(network: Evaluated) -> Run:
    """Return what calls a network, which is turned into float64 if it was evaluated so.

    Without gradients but not in inference mode, as `parity.caller` does: there whoever watches would see composite operators whole.
    """
    import torch

    from pipeline.rebuild import calling

    if network.double:
        network.module.double()
    binding = calling.bind(network.module, network.interface)

    def run(inputs: Arrays) -> Mapping[str, torch.Tensor]:
        # Copies: a network may write to its inputs.
        given = calling.tensors_from(inputs, double=network.double)
        with torch.no_grad():
            named = calling.call(
                network.module, binding, network.interface, {name: each.clone() for name, each in given.items()}
            )
        return {name: tensor.clone() for name, tensor in named.items()}

    return run


def arrays_by(run: Run) -> Callable[[Arrays], Mapping[str, Array]]:
    """Return what calls a network as `run` does, and gives arrays."""
    from pipeline.rebuild import calling

    return lambda inputs: {name: calling.array_from(each) for name, each in run(inputs).items()}


class FindAlternatives(Request[tuple[Network, ...]]):
    """Return the network with each `rename` and `ignore` with which its file fits (see `model.alternatives`)."""

    network: Network

    def run(self, _: Context) -> tuple[Network, ...]:
        """Look at names and structure."""
        from pipeline.rebuild import model

        return tuple(model.alternatives(self.network))


class ExplainDifference(Request[why.Explanation]):
    """Say what differs between a network and what was recorded of it (see `pipeline.rebuild.why`).

    `attributes` are the plain ones of the recorded network.
    """

    network: Network
    interface: Interface
    calls: tuple[why.Call, ...]
    attributes: dict[str, JsonValue]

    def run(self, _: Context) -> why.Explanation:
        """Try what may be wrong."""
        return why.explain(self.network, self.interface, self.calls, self.attributes)


class Exported(Model):
    """A file to audit; `program` is None if its exporter states none (see `pipeline.formats.program.as_values`).

    `source` is the file that it was made from, where that has a precision of its own.
    """

    format: str
    file: Path
    program: dict[str, object] | None  # arrays among its values
    precision: str = ""
    source: Path | None = None


class Audit(Request[tuple[dict[str, JsonValue], ...]]):
    """Account for the constants and numbers of exported files; return the audit of each as JSON values.

    The network is loaded once for all, and captured only if none of the programs is the captured one. A file that cannot be audited
    is no reason against the others.
    """

    network: Network
    interface: Interface
    examples: dict[str, Array]
    files: tuple[Exported, ...]

    def run(self, _: Context) -> tuple[dict[str, JsonValue], ...]:
        """Audit one file after the other."""
        from pipeline.parity.effect import Effect
        from pipeline.rebuild import model

        module = model.load(self.network).module
        state = arrays_of(module)
        effect = Effect(lambda: model.load(self.network).module, self.interface, self.examples)

        @cache
        def captured() -> tuple[Mapping[str, Any] | None, str | None]:
            known = [each.program for each in self.files if each.program and each.program.get("captured")]
            return (known[0], None) if known else _captured(module, self.interface, self.examples)

        return tuple(
            _audited(each, AuditSubject(state, each.program, captured, effect, each.precision, each.source))
            for each in self.files
        )


def _audited(exported: Exported, subject: AuditSubject) -> dict[str, JsonValue]:
    """Return the audit of one file; what stopped it is all that there is to say of one that cannot be audited."""
    audit = formats()[exported.format].audit
    try:
        if audit is None:
            raise InputError(f"{exported.format} files cannot be audited")
        return dict(audit(exported.file, subject))
    except Exception as error:  # noqa: BLE001 - a file may hold anything, and the others are to be audited all the same
        reason = error.message if isinstance(error, WeighbridgeError) else f"{type(error).__name__}: {error}"
        problem: dict[str, JsonValue] = {"where": "", "problem": f"could not be audited: {reason.splitlines()[0]}"}
        return {"passed": False, "crashed": True, "problems": [problem], "problem_count": 1}


class WithoutBounded(Request[Path]):
    """Write a file again with the last sigmoids and softmaxes before some outputs left out; return where it lies."""

    format: str
    file: Path
    outputs: tuple[str, ...]
    folder: Path

    def run(self, _: Context) -> Path:
        """Raise InputError for a format, or a file, that cannot be run without them."""
        write = formats()[self.format].without_bounded
        if write is None:
            raise InputError(f"{self.format} files cannot be run without their last sigmoid or softmax")
        return write(self.file, self.outputs, self.folder)


class ReadSignature(Request[Signature]):
    """Return what a file takes and returns."""

    format: str
    file: Path

    def run(self, _: Context) -> Signature:
        """Read the file; raises InputError if it cannot be read as `format`."""
        read = formats()[self.format].read_signature
        if read is None:
            raise InputError(f"what a {self.format} file takes and gives cannot be read from it")
        return read(self.file)


def arrays_of(module: nn.Module) -> dict[str, Any]:
    """Return a network's state dict, and its buffers that are not in it, as arrays."""
    from pipeline.rebuild import calling

    return calling.arrays_of({**dict(module.named_buffers()), **module.state_dict()})


def _captured(
    module: nn.Module, interface: Interface, examples: Mapping[str, Array]
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the network's program as torch.export captures it, or None and why not."""
    from pipeline.formats import program
    from pipeline.formats.onnx.export import captured

    origin = FromNetwork(module, interface, examples, Path(), {})
    try:
        return program.as_values(captured(origin)), None
    except ExportError as error:
        return None, error.message


class Candidate(Model):
    """A file with its format, the options it is run with, its library of operators, and its names (see `candidate.Names`)."""

    format: str
    file: Path
    options: dict[str, JsonValue]
    custom_ops: Path | None
    inputs: dict[str, str]
    outputs: dict[str, str]


class Found(Model):
    """What a search for a culprit came to (see `pipeline.formats.format.Found`)."""

    culprit: dict[str, JsonValue] | None
    problem: str | None
    program: dict[str, Array] | None


class FindCulprit(Request[Found]):
    """Find where a file's error begins, and write its reproduction into `folder`, as far as its format can."""

    network: Network
    interface: Interface
    examples: dict[str, Array]
    inputs: dict[str, Array]
    candidate: Candidate
    folder: Path

    def run(self, _: Context) -> Found:
        """Let the format look; raises InputError for a file that it cannot read."""
        from pipeline.parity import budget
        from pipeline.rebuild import model

        theirs = self.candidate
        find = formats()[theirs.format].find_culprit
        if find is None:
            raise InputError(f"a culprit cannot be looked for in {theirs.format} files")
        with without_collection():
            wanted = CulpritSearch(
                module=model.load(self.network).module,
                interface=self.interface,
                examples=self.examples,
                inputs=self.inputs,
                file=theirs.file,
                names=theirs.inputs,
                outputs=theirs.outputs,
                options=theirs.options,
                custom_ops=theirs.custom_ops,
                floors=budget.floors,
                folder=self.folder,
            )
            try:
                found = find(wanted)
            except WeighbridgeError:
                raise
            except Exception as error:  # noqa: BLE001 - a search must not hide what it searched for
                said = next(iter(str(error).splitlines()), "") or type(error).__name__
                found = NotFound(None, f"where the error begins could not be found out: {said}")
        culprit, program = found.culprit, found.program
        return Found(
            culprit=None if culprit is None else dict(culprit),
            problem=found.problem,
            program=None if program is None else dict(program),
        )
