"""What parity asks of a worker about a file with a precision of its own: what it says, and what a runtime makes of its products."""

from __future__ import annotations

from pathlib import Path

from pydantic import JsonValue

from pipeline.errors import ExportError
from pipeline.formats.format import Product, ProductSearch, Ranking
from pipeline.formats.table import formats
from pipeline.interface import Array, Case
from pipeline.parity.oracle import Reference
from pipeline.worker.job import Context, Model, Request


class FileEvaluation(Model):
    """What a file's outputs should be in each case, by its own word."""

    references: tuple[Reference, ...]


class EvaluateFile(Request[FileEvaluation]):
    """Evaluate a file exactly on some cases (see `pipeline.parity.reduced`); `known` are the network's references of these."""

    format: str
    file: Path
    cases: tuple[Case, ...]
    known: tuple[Reference, ...]
    seed: int

    def run(self, _: Context) -> FileEvaluation:
        """Raise ExportError for a file that cannot be evaluated, or a format of which none can."""
        from pipeline.parity import reduced

        read = formats()[self.format].evaluate
        if read is None:
            raise ExportError(
                f"what a {self.format} file says cannot be evaluated exactly",
                hint="leave the artifact out of `exports`, or make it in the network's precision",
            )
        found = reduced.references(read(self.file), self.cases, self.known, seed=self.seed)
        return FileEvaluation(references=found)


class Products(Model):
    """What became of each product of whole numbers in a file (see `pipeline.formats.format.Product`)."""

    found: tuple[Product, ...]


class RankLayers(Request[tuple[tuple[str, ...], ...]]):
    """Return the layers to leave out of a file where it is to be one, two, … or all of them, by their names in what it was made from."""

    format: str
    file: Path
    source: Path
    inputs: dict[str, Array]
    outputs: tuple[str, ...] = ()

    def run(self, _: Context) -> tuple[tuple[str, ...], ...]:
        """Raise ExportError for a file that cannot be evaluated; of a format that ranks nothing there are none."""
        rank = formats()[self.format].rank
        found = rank(Ranking(self.file, self.source, self.inputs, self.outputs)) if rank else ()
        return tuple(tuple(each) for each in found)


class JudgeProducts(Request[Products]):
    """Run each product of whole numbers in a file alone, on what reaches it in a case."""

    format: str
    file: Path
    inputs: dict[str, Array]
    options: dict[str, JsonValue]
    custom_ops: Path | None
    limit: float

    def run(self, _: Context) -> Products:
        """Raise ExportError for a file that cannot be evaluated; of a format that has no such search there are none."""
        from pipeline.parity import budget

        judge = formats()[self.format].judge_products
        if judge is None:
            return Products(found=())
        wanted = ProductSearch(self.file, self.inputs, self.options, self.custom_ops, budget.floors, self.limit)
        return Products(found=tuple(judge(wanted)))
