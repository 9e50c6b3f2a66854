"""What parity asks of a worker beside running a backend: everything here runs in the child process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from pipeline.errors import ExportError, InputError
from pipeline.interface import Array, Case, Interface
from pipeline.parity.candidate import Signature
from pipeline.parity.oracle import Reference
from pipeline.rebuild import why
from pipeline.rebuild.network import Network
from pipeline.worker.job import Context, Model, Request, without_collection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from pipeline.rebuild.model import Loaded
    from pipeline.rebuild.rehearsal import Rehearsal

_OPSET = 20


class Rehearsed(Model):
    """A network that was built and took every case: what was noted, its size, and what its inputs are bound to.

    Of recorded cases also what it gave in float32, `plain`, and what identifies the network.
    """

    notes: tuple[str, ...]
    contradictions: tuple[str, ...]
    sha256: str
    parameters: int
    bytes: int
    binding: tuple[str, ...]
    plain: tuple[dict[str, Array], ...]
    fingerprint: dict[str, JsonValue]


class Evaluation(Model):
    """The oracle's reference for each case, and why float64 was not possible (None if it was)."""

    network: Rehearsed
    references: tuple[Reference, ...]
    fallback: str | None


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
            fingerprint=record.fingerprint(loaded.module) if self.recorded else {},
        )
        context.leave(_Network(loaded, self.interface, self.cases, found, facts))
        return facts


class Evaluate(Request[Evaluation]):
    """Evaluate the oracle on the cases that were rehearsed, or the last few of them."""

    seed: int
    last: int = 0

    def run(self, context: Context) -> Evaluation:
        """Take the network, which the oracle changes."""
        from pipeline.parity import oracle

        taken = context.take(_Network)
        inputs, plain = [case.inputs for case in taken.cases[-self.last :]], taken.found.outputs[-self.last :]
        module, interface = taken.loaded.module, taken.interface
        references, fallback = oracle.evaluate(module, interface, inputs, seed=self.seed, plain=plain)
        return Evaluation(network=taken.facts, references=tuple(references), fallback=fallback)


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
    """A file to audit; `program` is None if its exporter states none (see `pipeline.formats.artifact.Artifact`)."""

    format: str
    file: Path
    program: dict[str, JsonValue] | None


class Audit(Request[tuple[dict[str, JsonValue], ...]]):
    """Account for the constants and numbers of exported files; return the audit of each as JSON values.

    The network is loaded once for all, and captured only if none of the programs is the captured one.
    """

    network: Network
    interface: Interface
    examples: dict[str, Array]
    files: tuple[Exported, ...]

    def run(self, _: Context) -> tuple[dict[str, JsonValue], ...]:
        """Audit one file after the other.

        Raises:
            InputError: a file cannot be read as its format.
        """
        from pipeline.formats.onnx import audit as auditing
        from pipeline.formats.torchscript import audit as scripted
        from pipeline.rebuild import model

        module = model.load(self.network).module
        state = arrays_of(module)
        found = []
        for each in self.files:
            if each.format == "onnx":
                found.append(auditing.audit_onnx(read_onnx(each.file), state, each.program))
                continue
            known = [other.program for other in self.files if other.program and other.program.get("captured")]
            captured, reason = (known[0], None) if known else _captured(module, self.interface, self.examples)
            audited = scripted.audit(scripted.read(each.file), state, captured)
            found.append(audited if reason is None else {**audited, "unchecked": reason})
        return tuple(found)


class ReadSignature(Request[Signature]):
    """Return what a file takes and returns."""

    format: str
    file: Path

    def run(self, _: Context) -> Signature:
        """Read the file; raises InputError if it cannot be read as `format`."""
        if self.format == "torchscript":
            from pipeline.formats.torchscript import audit as scripted

            arguments = scripted.read(self.file).forward.schema.arguments[1:]
            return Signature(tuple((each.name, None, None) for each in arguments), ())
        graph = read_onnx(self.file).model.graph
        constants = {each.name for each in graph.initializer}
        return Signature(
            tuple(_declared(each) for each in graph.input if each.name not in constants),
            tuple(_declared(each) for each in graph.output),
        )


def _declared(value: Any) -> tuple[str, str, tuple[int | str, ...] | None]:
    import onnx

    tensor = value.type.tensor_type
    sizes = (each.dim_value if each.HasField("dim_value") else each.dim_param or "?" for each in tensor.shape.dim)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return value.name, dtype, tuple(sizes) if tensor.HasField("shape") else None


def arrays_of(module: nn.Module) -> dict[str, Any]:
    """Return a network's state dict, and its buffers that are not in it, as arrays."""
    from pipeline.rebuild import calling

    tensors = {**dict(module.named_buffers()), **module.state_dict()}
    return {name: calling.array_from(tensor) for name, tensor in tensors.items()}


def read_onnx(path: Path, *, whole: bool = False) -> Any:
    """Return a graph with its constants; external data must lie beside it. `whole`: its model holds them as well.

    Raises:
        InputError: it is no valid ONNX model, or its weights are missing or elsewhere.
    """
    from importlib import import_module

    import onnx

    from pipeline.formats.onnx.graph import Graph

    decode_error = import_module("google.protobuf.message").DecodeError
    try:
        onnx.checker.check_model(str(path))
        return Graph(onnx.load(str(path), load_external_data=whole), path.parent)
    except (onnx.checker.ValidationError, decode_error, ValueError, OSError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"{path.name} is not a valid ONNX model: {first}", hint="check it with: python -m onnx.checker FILE"
        ) from None


def _captured(
    module: nn.Module, interface: Interface, examples: Mapping[str, Array]
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the network's program as torch.export captures it, or None and why not."""
    from pipeline.formats import program
    from pipeline.formats.format import Job
    from pipeline.formats.onnx.export import captured

    job = Job(module, interface, examples, Path(), {})
    try:
        return program.describe(captured(job)), None
    except ExportError as error:
        return None, error.message


class Candidate(Model):
    """An ONNX file, the optimisation level to run it at, its library of operators, and its names (see `candidate.Names`)."""

    file: Path
    level: str
    custom_ops: Path | None
    inputs: dict[str, str]
    outputs: dict[str, str]


class Culprit(Model):
    """The node where an error begins, None if every value is within its budget; and what the float64 program gives."""

    node: dict[str, JsonValue] | None
    program: dict[str, Array]


class FindCulprit(Request[Culprit]):
    """Find the node of an ONNX file where its error begins, and write its reproduction into `folder`."""

    network: Network
    interface: Interface
    examples: dict[str, Array]
    inputs: dict[str, Array]
    candidate: Candidate
    folder: Path

    def run(self, _: Context) -> Culprit:
        """Compare step by step; raises ExportError where the network cannot be exported, so that there are no steps."""
        from pipeline.formats.onnx import culprit as searching
        from pipeline.rebuild import model

        with without_collection():
            module = model.load(self.network).module
            known = searching.truths(module, self.interface, self.examples, self.inputs, _OPSET)
            theirs = self.candidate
            graph = read_onnx(theirs.file, whole=True)
            fed = {theirs.inputs[name]: array for name, array in self.inputs.items()}
            known = known.renamed(theirs.outputs)
            found = searching.find(graph, fed, known, level=theirs.level, custom_ops=theirs.custom_ops)
            if found is not None and found.output in known.values:
                searching.write_reproduction(
                    graph, found, fed, known, self.folder, level=theirs.level, custom_ops=theirs.custom_ops
                )
            return Culprit(node=searching.as_json(found) if found else None, program=dict(known.program_outputs))


class FindCulpritModule(Request[dict[str, JsonValue] | None]):
    """Find the module of a TorchScript file where its error begins; None if every module that can be called agrees."""

    network: Network
    interface: Interface
    inputs: dict[str, Array]
    file: Path

    def run(self, _: Context) -> dict[str, JsonValue] | None:
        """Call each module by itself."""
        from pipeline.formats.torchscript import audit as scripted
        from pipeline.rebuild import model

        module = model.load(self.network).module
        return scripted.culprit(module, scripted.read(self.file), self.interface, self.inputs)
