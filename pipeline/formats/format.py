"""What a format is: a frozen record of functions. Everything that depends on how an artifact's bytes are laid out stands here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from pipeline.formats.artifact import Artifact, Written
    from pipeline.interface import Arrays, Interface
    from pipeline.weights.kinds import Kind


How: TypeAlias = Literal["exact", "written", "moved", "saturating"]
"""How a file is evaluated: exactly, that is whole numbers as written and float64 between; as written, in its own precisions; exactly, with
what is rounded to whole numbers moved a little: all up with the seed 0, all down with 1, at random with others; exactly, with products of 8 bits as processors without VNNI add them."""
Declared: TypeAlias = tuple[str, str | None, tuple[int | str, ...] | None]


class Options(BaseModel):
    """Options common to all formats."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Evaluate(Protocol):
    """What a file computes, by its own definition and without a runtime."""

    def __call__(self, inputs: Arrays, how: How = "exact", seed: int = 0) -> Mapping[str, Any]:
        """Return the outputs by name."""


@dataclass(frozen=True, slots=True)
class FromNetwork:
    """What an artifact is exported from: the network in eval mode, what goes in and out of it, example inputs.

    It is written to `target`; other files of it go beside that, under names that begin with its name. `identity` (name,
    weights digest) goes into the file's own metadata.
    """

    module: nn.Module
    interface: Interface
    examples: Arrays
    target: Path
    identity: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FromArtifact:
    """What an artifact is derived from: another one, with what goes in and out of it; the rest as in `FromNetwork`.

    `samples` are the user's own inputs for calibration, by name; None where there are none. `before` is an artifact made from the same
    one, on the same samples, with other layers left out: what was measured for it need not be measured again.
    """

    artifact: Artifact
    interface: Interface
    target: Path
    identity: Mapping[str, str]
    samples: Arrays | None = None
    before: Artifact | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """What a file declares: (name, numpy dtype or None, shape or None) of inputs and outputs; a size is an int or a name.

    Outputs are empty where a file has no names for them and gives them in order.
    """

    inputs: tuple[Declared, ...]
    outputs: tuple[Declared, ...]


@dataclass(frozen=True, slots=True)
class AuditSubject:
    """What a file is audited against: the network's tensors by name, and the exported program.

    `program` is what the file's own exporter stated of it, None if it stated nothing; `captured` returns the program as
    torch.export captures it, or None and why not, and takes time. `effect` returns whether outputs show it, far beyond rounding, when
    tensors of the network hold the given values instead; None if it cannot be tried. It takes time as well. `precision` is the file's own, empty for
    the network's; `source` the file that it was made from, where that has a precision of its own: its constants were rounded there.
    """

    state: Mapping[str, Any]
    program: Mapping[str, Any] | None
    captured: Callable[[], tuple[Mapping[str, Any] | None, str | None]]
    effect: Callable[[Mapping[str, Any]], bool | None] | None = None
    precision: str = ""
    source: Path | None = None


@dataclass(frozen=True, slots=True)
class CulpritSearch:
    """What a search for the place where a file's error begins is given.

    `inputs` are those of one case that fails, under the config's names; `names` and `outputs` map these to the file's inputs,
    and the file's outputs to them. `options` are the backend's that the error was seen with. `floors` returns the noise
    floors of references and their noise (see `pipeline.parity.budget.floors`). A reproduction is written into `folder`.
    """

    module: nn.Module
    interface: Interface
    examples: Arrays
    inputs: Arrays
    file: Path
    names: Mapping[str, str]
    outputs: Mapping[str, str]
    options: Mapping[str, Any]
    custom_ops: Path | None
    floors: Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]
    folder: Path


@dataclass(frozen=True, slots=True)
class ProductSearch:
    """What is given to whoever runs a file's products of whole numbers one by one.

    `inputs` are those of one case, by the file's names; `options` the backend's; `floors` as in `CulpritSearch`; `limit` is how many times its
    noise floor a product may be off.
    """

    file: Path
    inputs: Arrays
    options: Mapping[str, Any]
    custom_ops: Path | None
    floors: Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]
    limit: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """What is given to whoever ranks a file's layers: it, the file it was made from, and inputs of a call by the file's names.

    `outputs` are those that count; all where none is named.
    """

    file: Path
    source: Path
    inputs: Arrays
    outputs: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Product:
    """A product of whole numbers, run alone: its error ÷ its noise floor, and the ratio of signal to error.

    `saturating_…`: the same as processors without VNNI compute it. `helped`: what was tried
    and mends it, in words; None where nothing had to be.
    """

    name: str
    operator: str
    factor: float
    sqnr_db: float
    saturating_factor: float
    saturating_sqnr_db: float
    helped: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a search for a culprit came to, as JSON values: the culprit, or why there is none.

    `program`: the outputs of the exported program in float32, a rung of the ladder; None where a format has no such step.
    """

    culprit: Mapping[str, Any] | None
    problem: str | None = None
    program: Arrays | None = None


@dataclass(frozen=True, slots=True)
class Triton:
    """How the Triton Inference Server runs a format: the platform's name and what the file must be called there.

    `is_positional`: it finds inputs and outputs by their position; `ordinals` are what it calls them before their number, where their own
    names do not matter. `is_backend`: `platform` is the name of a backend, which opens the file under the name it has, with the files beside
    it. `batches`: it takes calls of fewer rows than the most that it may join. `note` is what whoever uses it must know.
    """

    platform: str
    file: str
    is_positional: bool = False
    ordinals: tuple[str, str] | None = None
    batches: bool = True
    is_backend: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Format:
    """A format, and all that depends on it.

    `file` is what an artifact's file (or folder) is called in a release; `distributions` are those whose versions its bytes depend on,
    beside its own and torch's; `modules` those that `export` imports, which one
    process may do for several. `export` makes it from the network, `derive` from an artifact of the format `derived_from`; both write to the given
    target and raise `ExportError` with their own reason. `alternative` returns the options to change for another try where
    what was written is wrong, or could not be written (None); None where there is no other way.

    `probe` returns None if files of it can be made here and otherwise the reason; `install` says what to install then. `varies` says why
    two builds give other bytes, where they may: such a file has a digest, and no promise that anybody else gets it. `compiler` says what makes
    machine code beside packages of Python's, with its version.

    What may be missing, and is said to be missing where it would count:
    `kind`: what the look at a file's bytes calls it; `is_native`: nobody can tell from a file's bytes what it does, so that it is opened only by whoever made it, or
    with the key of whoever signed its release; `native_as` says in messages what it is then; `require_safe` raises for a stranger's file that could do more than compute,
    given the names of the files that may lie beside it, and `beside` returns those that it keeps weights in; `runs_code`: opening one runs code that came
    with it; `takes_custom_ops`: it may need a library of operators. `read_signature`, `audit`, `find_culprit` and `count_operators` (operators, weights and operations of a call in each
    scenario of input shapes) look into a file, and `without_bounded` writes it again into a folder with the last sigmoids and softmaxes before
    some outputs giving back what enters them (raises InputError where there are none); they run in a worker. `precision` returns which
    precision of its own a file with such options has, empty for the network's: such a file is made from another and held against what itself says,
    which `evaluate` returns a function for; `judge_products` runs its products of whole numbers one by one;
    `leaves_out`: whether layers are to stay as they are until it is good enough, as the option `leave_out`; `rank` returns which: for each number of layers, from one to all, a set; `calibrates`: whether real inputs are needed to write it. `card` says in a model card what opens it, `library` is its name at the Hugging Face Hub.
    """

    name: str
    summary: str
    options: type[Options]
    file: str
    export: Callable[[FromNetwork, Options], Written] | None = None
    alternative: Callable[[Options, Written | None], Mapping[str, object] | None] = lambda *_: None
    derive: Callable[[FromArtifact, Options], Written] | None = None
    derived_from: str | None = None
    distributions: tuple[str, ...] = ()
    modules: tuple[str, ...] = ("torch",)
    probe: Callable[[], str | None] = lambda: None
    install: str = ""
    compiler: Callable[[], str] = lambda: ""
    varies: str = ""
    kind: Kind | None = None
    require_safe: Callable[[Path, Sequence[str]], None] | None = None
    beside: Callable[[Path], tuple[Path, ...]] = lambda _: ()
    runs_code: bool = False
    is_native: bool = False
    native_as: str = "machine code"
    takes_custom_ops: bool = False
    read_signature: Callable[[Path], Signature] | None = None
    audit: Callable[[Path, AuditSubject], Mapping[str, Any]] | None = None
    find_culprit: Callable[[CulpritSearch], Found] | None = None
    count_operators: Callable[[Path, Mapping[str, Mapping[str, Sequence[int]]]], Mapping[str, Any]] | None = None
    without_bounded: Callable[[Path, Sequence[str], Path], Path] | None = None
    triton: Triton | None = None
    precision: Callable[[Options], str] = lambda _: ""
    calibrates: Callable[[Options], bool] = lambda _: False
    evaluate: Callable[[Path], Evaluate] | None = None
    judge_products: Callable[[ProductSearch], Sequence[Product]] | None = None
    leaves_out: Callable[[Options], bool] = lambda _: False
    rank: Callable[[Ranking], Sequence[Sequence[str]]] | None = None
    card: str | None = None
    library: str | None = None

    def file_of(self, artifact: str) -> str:
        """Return what the file of an artifact of this format is called."""
        return self.file if artifact == self.name else f"{artifact}{PurePath(self.file).suffix}"
