"""What parity.json holds: the model behind its published JSON Schema (`weighbridge schema --of parity`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue

from pipeline.backends.placement import Placement  # noqa: TC001 - pydantic evaluates annotations in this module
from pipeline.interface import in_words
from pipeline.parity.budget import Rule  # noqa: TC001 - as above
from pipeline.parity.claims import Accuracy  # noqa: TC001 - as above
from pipeline.parity.compare import Finding  # noqa: TC001 - as above
from pipeline.storage.documents import Count, Many, Number, Part, schema_of

_NAMED = 3  # of those that nothing accounts for


class Oracle(Part):
    """What outputs were held against; `fallback` says why it is not the network in float64."""

    dtype: Literal["float32", "float64"]
    fallback: str | None


class SampledCase(Part):
    """A case, by its name, and its sizes."""

    name: str
    sizes: dict[str, Count]
    tells: dict[str, bool] = Field(
        default={}, description="Whether a defect would show in an output; missing: not known"
    )


class AuditProblem(Part):
    """Something in a file that is not what the network says: where, and what it nearly is."""

    where: str
    problem: str
    module: str | None = None
    nearest: str | None = None
    differing: Count = 0
    elements: Count = 0

    def in_words(self) -> str:
        """Say where, and what is wrong there."""
        return f"{self.where}{f' in {self.module}' if self.module else ''} {self.problem}".lstrip()


class Unaccounted(Part):
    """A constant or attribute that nothing accounts for, and the operators that use it."""

    name: str
    shape: Many[Count]
    elements: Count
    dtype: str
    used_by: str = ""

    def in_words(self) -> str:
        """Say what it is: "val_3 [4, 7] (MatMul node_linear)"."""
        shape = "" if self.dtype == "attribute" else f" {list(self.shape)}"
        return f"{self.name}{shape}" + (f" ({self.used_by})" if self.used_by and shape else "")


class Audit(Part):
    """Where the constants and numbers of a file come from; `crashed`: nothing is known of it.

    `suspects` are differences that outputs would show, so that parity judges them; they explain a failure of it.
    """

    passed: bool
    problems: Many[AuditProblem] = Field(description="The first hundred of them")
    problem_count: Count
    crashed: bool = False
    constants: Count = 0
    elements: Count = 0
    attributes: Count = 0
    accounted: dict[str, Count] = Field(default={}, description="Elements by how they are accounted for")
    absent: dict[str, Count] = Field(
        default={},
        description="Tensors of the state dict that the file does not hold as they are, by why that is right",
    )
    share: float = Field(default=0.0, description="Part of the elements that is not accounted for")
    unaccounted: Many[Unaccounted] = Field(default=(), description="All of them")
    unaccounted_count: Count = 0
    suspects: Many[AuditProblem] = Field(
        default=(), description="The first hundred differences that outputs would show, so that parity judges them"
    )
    suspect_count: Count = 0
    unchecked: str | None = Field(default=None, description="Why operators were not checked")
    not_audited: str | None = Field(
        default=None,
        description="Why the file could not be looked into; `share` is then the part of the weights not found in it bit for bit",
    )

    def in_words(self) -> str:
        """Say in one line what was found."""
        if self.problems:
            more = self.problem_count - 1
            return self.problems[0].in_words() + (f" (and {more} more)" if more else "")
        if self.not_audited is not None:
            return f"not audited: {self.not_audited}; {1 - self.share:.1%} of the weights found in it bit for bit"
        said = f"{self.elements:,} elements of {self.constants} constants and {self.attributes} attributes"
        if self.unaccounted_count:
            said = (
                f"{self.unaccounted_count} constants or attributes ({self.share:.2%} of the elements) not accounted for"
            )
            said += f": {self.left_in_words()}"
        return said + "".join(f"; {count} tensors not in the file: {why}" for why, count in self.absent.items())

    def left_in_words(self) -> str:
        """Name the first few that nothing accounts for, constants first, and say how many more there are."""
        order = sorted(self.unaccounted, key=lambda each: -each.elements)[:_NAMED]
        more = self.unaccounted_count - len(order)
        return ", ".join(each.in_words() for each in order) + (f", and {more} more in parity.json" if more else "")

    def suspicion(self) -> str:
        """Say in one line which differences explain outputs that are wrong; empty if there are none."""
        if not self.suspects:
            return ""
        more = self.suspect_count - 1
        return f"in its file, {self.suspects[0].in_words()}" + (f" (and {more} more)" if more else "")


class Exported(Part):
    """An artifact that was written, and what it was made from (null: the network)."""

    name: str = Field(default="", description="Missing in older reports: its format")
    format: str
    made_from: str | None = None
    status: Literal["exported"]
    size_bytes: Count
    facts: dict[str, JsonValue] = Field(description="What the exporter states of it: method, opset, …")
    audit: Audit | None
    notes: Many[str]
    accuracy: Accuracy | None = Field(default=None, description="null: no gate asks for it, or no backend proved it")

    @property
    def artifact(self) -> str:
        """Its name."""
        return self.name or self.format


class Refused(Part):
    """An artifact that could not be written."""

    name: str = Field(default="", description="Missing in older reports: its format")
    format: str | None = None
    status: Literal["refused"]
    reason: str

    @property
    def artifact(self) -> str:
        """Its name."""
        return self.name or self.format or ""


class Facts(Part):
    """What a session told of itself; a backend may tell more than is named here."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    placement: Placement | None = None
    processors: dict[str, str] = Field(
        default={}, description="For which processors the products of whole numbers of its file are right"
    )


class BackendResult(Part):
    """What became of one backend, with every output of every case that it ran."""

    name: str
    backend: str
    required: bool
    status: Literal["pass", "fail", "unavailable", "crashed"]
    reason: str | None
    worst: Finding | None = Field(description="The finding that decided")
    findings: Many[Finding]
    facts: Facts


class Trained(Part):
    """How the rebuilt network compares with recorded outputs of the one that was trained."""

    file: str
    calls: Count
    recorded: str = Field(description="Where they were recorded: torch's version, device, dtypes")
    passed: bool
    factor: Number
    limit: float
    differences: Many[str]


class ShrunkCase(Part):
    """The smallest case that fails."""

    name: str
    sizes: dict[str, Count]
    elements: Count


class Rung(Part):
    """One way to run the smallest case, the network itself first."""

    rung: str
    passed: bool
    factor: Number | None
    reason: str | None


class Culprit(Part):
    """The node of an ONNX file, or the module of a TorchScript file, where the error begins."""

    module: str
    output: str | int
    node: str | None = None
    operator: str | None = None
    source: str | None = None
    attributes: dict[str, JsonValue] = Field(default={})
    factor: Number | None = None
    input_factor: Number | None = None
    worst_index: Many[Count] = ()
    expected: Number | None = None
    got: Number | None = None
    consumers: Many[str] = ()
    explored: Count = 0
    certain: bool = True
    problem: str | None = Field(default=None, description="What is wrong where no element can say it")

    def in_words(self) -> str:
        """Say where it is, and what is wrong there."""
        numbers = f"{self.got} instead of {self.expected}"
        if self.node is None:
            where = f"module {self.module}" if self.module else "the network itself, in no module of it"
            return f"the error begins in {where}: {self.problem or numbers}"
        begins = "the error begins in" if self.certain else "the error probably begins in"
        source = f", {self.source}" if self.source else ""
        where = f"{self.operator} {self.node}, of {self.module or 'the network itself'}{source}"
        return f"{begins} {where}: {self.problem or f'{numbers} at {list(self.worst_index)}'}"


class Explanation(Part):
    """Where the error of a backend begins; `broke` is the first rung that fails, `problem` says why there is no culprit."""

    backend: str
    case: ShrunkCase
    causes: Many[str] = Field(
        default=(), description="What is wrong and what to do, as far as an experiment confirmed it"
    )
    ladder: Many[Rung]
    broke: str | None
    culprit: Culprit | None
    problem: str | None
    reproduction: str | None = Field(default=None, description="A script that shows it alone")

    def in_words(self) -> str:
        """Say in a line or two where the error begins."""
        place = (
            f"the first rung that breaks is '{self.broke}'"
            if self.broke
            else "every rung of the ladder passes on its smallest case"
        )
        case = f"smallest case '{self.case.name}': {in_words(self.case.sizes)}"
        found = self.culprit.in_words() if self.culprit else self.problem
        causes = "; ".join(self.causes)
        if causes and not self.ladder:
            return f"{self.backend}: {causes} ({case})"
        return f"{self.backend}: {f'{causes}; ' if causes else ''}{place} ({case}); {found}"


class Candidate(Part):
    """A file that somebody else made, and how its inputs and outputs were matched."""

    file: str
    format: str
    matched: str


class Elsewhere(Part):
    """A result that was not made here but taken from a cache that machines share: what it is, and who signed it."""

    result: str = Field(description="Of what: an export, an audit, the oracle, a backend's parity")
    writer: str = Field(description="The id of the key that signed it")
    processor: str = Field(description="What it was made on")
    weighbridge: str = Field(description="The version that made it")


class Parity(Part):
    """How every backend compares with the network; the last four keys only where `weighbridge parity` prints it."""

    schema_version: Literal[1] = Field(description="Version of this schema")
    oracle: Oracle
    rules: dict[str, Rule] = Field(description="What each output was held to")
    cases: Many[SampledCase]
    exports: Many[Annotated[Exported | Refused, Field(discriminator="status")]]
    backends: Many[BackendResult]
    notes: Many[str]
    silent: dict[str, str] = Field(
        default={}, description="Outputs in which no case would show a defect, and what they are instead"
    )
    reference: Trained | None = Field(default=None, description="null: not compared with the trained network")
    explanations: Many[Explanation] = Field(default=(), description="Of the backends that failed")
    elsewhere: Many[Elsewhere] = Field(
        default=(), description="What was taken from other machines; everything else was made here"
    )
    name: str = ""
    candidate: Candidate | None = None
    passed: bool | None = None

    @property
    def accuracies(self) -> dict[str, Accuracy]:
        """What was found of the accuracy of artifacts, by their names; only of those that a gate asks it of."""
        found = [(each.artifact, each.accuracy) for each in self.exports if isinstance(each, Exported)]
        return {name: each for name, each in found if each is not None}


def schema() -> dict[str, JsonValue]:
    """Return the JSON Schema of parity.json."""
    return schema_of(Parity, "parity", 1, "weighbridge parity report")
