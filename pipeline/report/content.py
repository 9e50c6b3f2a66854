"""What a report says, in order, whatever it is written in: sections of sentences and tables, made from the documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.formats.onnx.record import ONNX
from pipeline.interface import in_words
from pipeline.parity.document import Exported
from pipeline.report import chosen, measured, proven
from pipeline.report.audits import accuracies, audits
from pipeline.report.section import Section
from pipeline.report.summary import section as summary
from pipeline.report.words import factor, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.benchmark.document import Benchmark
    from pipeline.parity.claims import Accuracy
    from pipeline.parity.document import BackendResult, Parity
    from pipeline.report.document import Documents


@dataclass(frozen=True, slots=True)
class Content:
    """A whole report: the verdict first, and what to do next."""

    name: str
    passed: bool
    headline: str
    verdict: tuple[str, ...]
    next: str
    sections: tuple[Section, ...]


def content(name: str, documents: Documents) -> Content:
    """Return what there is to say about a run."""
    parity, benchmark = documents.parity, documents.benchmark
    failed = [each for each in parity.backends if each.required and each.status != "pass"]
    figures = benchmark.figures
    judged = {name: each for name, each in parity.accuracies.items() if each.closes}
    passed = not failed and not parity.silent and not judged
    sections = (
        summary(parity, benchmark),
        *(chosen.sections(documents) if passed else ()),
        *proven.explanations(parity),
        *([] if passed else [proven.findings(parity)]),
        *measured.latency(benchmark),
        *(measured.started(figures) if figures else ()),
        *measured.gpu(benchmark),
        *([proven.findings(parity)] if passed else []),
        *accuracies(parity),
        *audits(parity),
        *proven.placement(parity),
        *proven.processors(parity),
        *(measured.reached(figures) if figures else ()),
        *measured.machine(benchmark),
        *_elsewhere(parity),
        *([_how_to_run(name, parity)] if passed else []),
        *_notes(parity, benchmark),
    )
    return Content(
        name,
        passed,
        "verified" if passed else "no release",
        (*_inaccurate(judged), *_verdict(parity, benchmark, failed), *_shared(parity)),
        _next(parity, passed=passed),
        sections,
    )


def _next(parity: Parity, *, passed: bool) -> str:
    """Return what to do with a report in hand."""
    if passed:
        return f"check it on the machine that will run it, as “{_RUN}” below says"
    if parity.silent:
        return "give inputs that tell (`samples` in the config), and export again"
    if parity.explanations:
        return f"read “{_WRONG}” below, mend what it names, and export again"
    return "mend what is named here, and export again"


def _inaccurate(judged: Mapping[str, Accuracy]) -> Iterator[str]:
    for name, each in judged.items():
        yield f"{name} is not released, its accuracy: {each.verdict}: {each.in_words()}."


def _verdict(parity: Parity, benchmark: Benchmark, failed: Sequence[BackendResult]) -> Iterator[str]:
    for name, why in parity.silent.items():
        yield f"No case would show a defect in output '{name}': {why}."
    for each in failed:
        yield f"{each.name}: {each.reason}"
    passed = [(each.worst, each.name) for each in parity.backends if each.status == "pass" and each.worst]
    if passed and not failed and not parity.silent:
        worst, backend = max(passed, key=lambda each: each[0].factor)
        yield (
            f"Every output of {len(parity.cases)} cases is within its error budget on {len(passed)} backends; the largest error "
            f"is {factor(worst.factor)} × the noise floor ({backend}), the limit {worst.limit:g}."
        )
    for size in benchmark.sizes:
        where = in_words(size.sizes)
        faster = [(row.ratio, row) for row in size.rows if row.verdict == "faster" and row.ratio is not None]
        if faster:
            ratio, row = min(faster, key=lambda each: each[0])
            yield (
                f"At {where} {row.name} takes {ratio:.2f} of the time of {size.reference} "
                f"({milliseconds(row.median_ms)} a call)."
            )
        elif not size.can_tell:
            yield f"Which backend is fastest at {where} cannot be told: {size.reason}."
        else:
            yield f"At {where} no backend is proven faster than {size.reference}."


def _shared(parity: Parity) -> Iterator[str]:
    if parity.elsewhere:
        keys = list(dict.fromkeys(f"{each.writer[:16]}…" for each in parity.elsewhere))
        count = len(parity.elsewhere)
        yield (
            f"{count} result{'' if count == 1 else 's'} of this run {'was' if count == 1 else 'were'} made elsewhere, and taken for the "
            f"signature of {', '.join(keys)} (“{_ELSEWHERE}” below); everything else was made here."
        )


def _elsewhere(parity: Parity) -> Iterator[Section]:
    if parity.elsewhere:
        said = (
            "Taken from the cache that machines share, for their signatures and digests. "
            "Whatever is not named here was made and proven by this run; latencies are always measured by it."
        )
        body = tuple((each.result, each.writer, each.processor, each.weighbridge) for each in parity.elsewhere)
        yield Section(_ELSEWHERE, (said,), ("result", "signed by key", "processor", "weighbridge"), body)


_ELSEWHERE = "Made elsewhere"
_RUN, _WRONG = "How to run it", proven.WRONG


def _how_to_run(name: str, parity: Parity) -> Section:
    code = f"weighbridge verify artifacts/{name}\nweighbridge predict artifacts/{name} --example"
    if any(isinstance(each, Exported) and each.format == ONNX.name for each in parity.exports):
        code += f'\n\ncd "artifacts/{name}/$(cat artifacts/{name}/latest)" && python verify.py'
    text = (
        "In the folder that holds artifacts/, or with the release's own place for it; the last line needs numpy and onnxruntime only.",
        "The card, README.md in the release, shows how to call it from Python.",
    )
    return Section(_RUN, text, code=code)


def _notes(parity: Parity, benchmark: Benchmark) -> Iterator[Section]:
    notes = [*parity.notes, *(note for each in parity.exports if isinstance(each, Exported) for note in each.notes)]
    notes += [f"{each.name}: {each.reason}" for each in parity.backends if each.reason and not each.required]
    notes += benchmark.figures.notes if benchmark.figures else ()
    if notes:
        yield Section("Notes", tuple(notes))
