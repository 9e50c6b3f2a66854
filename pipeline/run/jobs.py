"""What a run asks of workers beside proving and timing: an export, and what a weights file tells about its network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from pipeline.errors import ExportError
from pipeline.formats.artifact import Artifact, Written
from pipeline.formats.format import Format, FromArtifact, FromNetwork, Options
from pipeline.formats.table import formats
from pipeline.interface import Array, InputSpec, Interface
from pipeline.rebuild import infer, infer_inputs, trust
from pipeline.rebuild.doubts import Doubt, undecided
from pipeline.rebuild.network import Network
from pipeline.worker.job import Context, Model, Request, without_collection


class Export(Request[Written]):
    """Write the network, or the artifact `source`, in one format to `folder`, with `identity` in the file; `samples` are for calibration.

    `before`: an artifact that was made like this one with other layers left out (see `FromArtifact`).
    """

    network: Network
    interface: Interface
    examples: dict[str, Array]
    format: str
    options: Mapping[str, JsonValue]
    folder: Path
    file_name: str
    identity: dict[str, str]
    source: Artifact | None = None
    samples: dict[str, Array] | None = None
    before: Artifact | None = None

    def run(self, _: Context) -> Written:
        """Let the format write; raises ExportError with its reason where it refuses."""
        chosen = formats()[self.format]
        options = chosen.options.model_validate(self.options)
        with without_collection():
            if self.source is not None:
                return self._derived(chosen, options, self.source)
            return self._exported(chosen, options)

    def _exported(self, chosen: Format, options: Options) -> Written:
        from pipeline.rebuild import model

        if chosen.export is None:
            raise ExportError(f"{chosen.name} is made from another artifact", hint="say which with `from`")
        module = model.load(self.network).module
        origin = FromNetwork(module, self.interface, self.examples, self.folder / self.file_name, self.identity)
        return chosen.export(origin, options)

    def _derived(self, chosen: Format, options: Options, source: Artifact) -> Written:
        if chosen.derive is None:
            raise ExportError(f"{chosen.name} is made from the network, not from an artifact", hint="leave out `from`")
        target = self.folder / self.file_name
        origin = FromArtifact(source, self.interface, target, self.identity, self.samples, self.before)
        return chosen.derive(origin, options)


class FindUndecided(Request[tuple[Doubt, ...]]):
    """Return the arguments of a network that nothing decides (see `pipeline.rebuild.doubts`)."""

    network: Network

    def run(self, _: Context) -> tuple[Doubt, ...]:
        """Build it with other values."""
        return tuple(undecided(self.network))


class Inferred(Model):
    """What was found out for a config."""

    arguments: infer.Arguments
    inputs: infer_inputs.Inputs


class InferConfig(Request[Inferred]):
    """Return what `infer.arguments` and `infer_inputs.inputs` find for an architecture."""

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
        found = infer.arguments(
            located, self.weights, self.values, key=self.key, max_bytes=self.max_bytes, trusted=self.prefixes
        )
        values = {**found.values, **self.values}
        taken = infer_inputs.inputs(located, values, self.given, self.outputs, self.prefixes)
        return Inferred(arguments=found, inputs=taken)


class InferPretrained(Request[Inferred]):
    """Return what `pretrained.inferred` finds for a folder that transformers saved."""

    folder: Path
    architecture: str
    prefixes: tuple[str, ...]
    json_file: str | None
    with_cache: bool
    again: str

    def run(self, _: Context) -> Inferred:
        """Build it and run it; raises as they do."""
        from pipeline.rebuild import pretrained
        from pipeline.weights.pretrained import read

        arguments, inputs = pretrained.inferred(
            read(self.folder),
            self.architecture,
            self.prefixes,
            self.json_file,
            with_cache=self.with_cache,
            again=self.again,
        )
        return Inferred(arguments=arguments, inputs=inputs)


class SavePretrained(Request[None]):
    """Write the weights of such a folder as transformers has them in memory, to a safetensors file."""

    folder: Path
    architecture: str
    prefixes: tuple[str, ...]
    max_bytes: int | None
    target: Path

    def run(self, _: Context) -> None:
        """Let transformers load what was read safely, and write it; raises as they do."""
        from pipeline.rebuild import pretrained
        from pipeline.weights import save
        from pipeline.weights.pretrained import read

        made = pretrained.weights(read(self.folder), self.architecture, self.prefixes, max_bytes=self.max_bytes)
        save.save(made, self.target)


class FindArchitectures(Request[dict[str, dict[str, JsonValue]]]):
    """Return which of `candidates` (MODULE:CLASS) take the state dict in a file, with the arguments they need."""

    candidates: tuple[str, ...]
    weights: Path
    key: str | None
    max_bytes: int | None

    def run(self, _: Context) -> dict[str, dict[str, JsonValue]]:
        """Compare names and shapes."""
        return infer.matching(self.candidates, self.weights, self.key, self.max_bytes)
