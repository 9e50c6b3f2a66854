"""What a run asks of workers beside proving and timing: an export, and what a weights file tells about its network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from pipeline.formats.artifact import Artifact
from pipeline.interface import Array, InputSpec, Interface
from pipeline.rebuild import infer, trust
from pipeline.rebuild.doubts import Doubt, undecided
from pipeline.rebuild.network import Network
from pipeline.worker.job import Context, Model, Request, without_collection


class Export(Request[Artifact]):
    """Export the network in one format into `folder`, with `identity` in the file."""

    network: Network
    interface: Interface
    examples: dict[str, Array]
    format: str
    options: Mapping[str, JsonValue]
    folder: Path
    identity: dict[str, str]

    def run(self, _: Context) -> Artifact:
        """Let the exporter write; raises ExportError with its reason where it refuses."""
        from pipeline.formats.format import Job
        from pipeline.formats.table import exporters
        from pipeline.rebuild import model

        with without_collection():
            exporter = exporters()[self.format]
            module = model.load(self.network).module
            job = Job(module, self.interface, self.examples, self.folder, self.identity)
            return exporter.export(job, exporter.options.model_validate(self.options))


class FindUndecided(Request[tuple[Doubt, ...]]):
    """Return the arguments of a network that nothing decides (see `pipeline.rebuild.doubts`)."""

    network: Network

    def run(self, _: Context) -> tuple[Doubt, ...]:
        """Build it with other values."""
        return tuple(undecided(self.network))


class Inferred(Model):
    """What was found out for a config."""

    arguments: infer.Arguments
    inputs: infer.Inputs


class InferConfig(Request[Inferred]):
    """Return what `infer.arguments` and `infer.inputs` find for an architecture."""

    architecture: str
    prefixes: tuple[str, ...]
    weights: Path
    key: str | None
    max_bytes: int | None
    values: dict[str, JsonValue]
    given: dict[str, InputSpec]
    outputs: tuple[str, ...]

    def run(self, _: Context) -> Inferred:
        """Try on meta tensors; raises as they do."""
        located = trust.locate(self.architecture, self.prefixes)
        found = infer.arguments(located, self.weights, self.values, key=self.key, max_bytes=self.max_bytes)
        taken = infer.inputs(located, {**found.values, **self.values}, self.given, self.outputs)
        return Inferred(arguments=found, inputs=taken)


class FindArchitectures(Request[dict[str, dict[str, JsonValue]]]):
    """Return which of `candidates` (MODULE:CLASS) take the state dict in a file, with the arguments they need."""

    candidates: tuple[str, ...]
    weights: Path
    key: str | None
    max_bytes: int | None

    def run(self, _: Context) -> dict[str, dict[str, JsonValue]]:
        """Compare names and shapes."""
        return infer.matching(self.candidates, self.weights, self.key, self.max_bytes)
