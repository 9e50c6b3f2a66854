"""Take every entry of torch's own `module_db` through our exporters and parity, and keep a ledger of what became of it.

    python -m benchmarks.module_ledger [--check] [--only NAME,…] [--ledger benchmarks/module_ledger.json]

An entry is a module of torch.nn with samples: arguments for its constructor and its forward. Up to three of them, spread over
those that our interface can express, are exported as any network is (the table in `pipeline.formats`, default options), opened
by the backend a release would be opened with, and held against the float64 oracle at the default limit: on the sample's own values
and on seeded cases within their range. The worst of the samples is the entry's verdict, with its reason:

- pass;
- inexpressible: a config cannot say how this forward is called, or the module draws random numbers;
- refused: the exporter, or the engine that opens its file, refuses;
- mismatch: an output leaves its budget;
- crash: the process died or took longer than five minutes, twice, or the exporter failed without a word of its own.

Shapes are fixed, as the samples do not say which sizes may change. Every entry runs in a worker, a few to each, so that none
ends the sweep. An interrupted sweep goes on where it stopped. `--check` compares with the ledger and ends with 1 where an
entry fares worse; without it the ledger is written. With `--only` both are about those entries alone.
"""

import argparse
import copy
import inspect
import json
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.progress import Rows
from pipeline.backends.backend import Source
from pipeline.backends.table import backends
from pipeline.errors import ExportError, WorkerError
from pipeline.formats.format import FromNetwork
from pipeline.formats.table import formats
from pipeline.interface import Case, InputSpec, Interface
from pipeline.parity import oracle, prove
from pipeline.parity.budget import Rule
from pipeline.parity.compare import compare, worst
from pipeline.rebuild import calling, cases
from pipeline.release.tools import tools
from pipeline.worker.job import Context, Request
from pipeline.worker.process import LocalRunner, WorkerProcess

LEDGER = Path("benchmarks/module_ledger.json")
RUNNER = LocalRunner(packages=("benchmarks",))
BACKENDS = {"torchscript": "torchscript", "onnx": "onnxruntime-cpu"}
VERDICTS = ("pass", "inexpressible", "refused", "mismatch", "crash")
"""From best to worst."""
SAMPLES = 3
ENTRIES_A_WORKER = 8
TIMEOUT_S = 300.0
SEED = 0
_SHOWN_CHARACTERS = 200


class InexpressibleError(Exception):
    """What a config cannot say."""


@dataclass(frozen=True)
class Sample:
    """A module in eval mode, what goes in and out of it, and the arrays to show to exporters."""

    module: Any
    interface: Interface
    inputs: dict[str, Any]


def entries() -> list[str]:
    """Return the names of module_db, in its order."""
    from torch.testing._internal.common_modules import module_db

    return [each.name for each in module_db]


# --- in the worker ------------------------------------------------------------------------------------------------------


class Examine(Request[dict[str, Any]]):
    """The verdict on one entry in one format: see `examine`."""

    name: str
    format: str

    def run(self, _: Context) -> dict[str, Any]:
        """Examine it."""
        return examine(self.name, self.format)


def examine(name: str, format: str) -> dict[str, Any]:  # noqa: A002 - the name the config uses
    """Return the verdict on one entry in one format with its reason, the samples it rests on, and its largest factor."""
    warnings.simplefilter("ignore")
    samples, reason = _samples(name)
    if not samples:
        return {"verdict": "inexpressible", "reason": reason, "samples": 0}
    found = [_judge(sample, format) for sample in samples]
    decisive = max(found, key=lambda each: VERDICTS.index(each.verdict))
    share = [each.verdict for each in found].count(decisive.verdict)
    which = "" if share == len(found) else f" ({share} of {len(found)} samples)"
    return {
        "verdict": decisive.verdict,
        "reason": _shown(decisive.reason) + which,
        "samples": len(samples),
        "factor": max((each.factor for each in found if each.verdict == "pass"), default=None),
    }


def _samples(name: str) -> tuple[list[Sample], str]:
    """Return up to three samples spread over those that can be expressed, and why the last of the others cannot."""
    import torch
    from torch.testing._internal.common_modules import module_db

    info = next(each for each in module_db if each.name == name)
    torch.manual_seed(SEED)
    given = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=False)
    found, reason = [], "module_db has no samples of it"
    for each in given:
        try:
            found.append(_sample(info.module_cls, each))
        except InexpressibleError as error:
            reason = str(error)
    chosen = sorted({round(index * (len(found) - 1) / (SAMPLES - 1)) for index in range(SAMPLES)}) if found else []
    return [found[index] for index in chosen], reason


def _sample(make: Any, given: Any) -> Sample:
    import torch
    from torch.utils import _pytree as pytree

    tensors = _tensors(make, given.forward_input)
    torch.manual_seed(SEED)
    module = make(*given.constructor_input.args, **given.constructor_input.kwargs).eval()
    try:
        with torch.no_grad():  # a lazy module makes its parameters now
            first, again = (pytree.tree_leaves(module(*tensors.values())) for _ in range(2))
    except RuntimeError as error:
        raise InexpressibleError(f"its sample does not run: {error}") from error
    module.requires_grad_(False)  # noqa: FBT003 - torch's own signature
    outputs = [each for each in first if each is not None]
    if not all(isinstance(each, torch.Tensor) for each in outputs):
        raise InexpressibleError("it returns something that is not a tensor")
    if not all(torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in zip(first, again, strict=True)):
        raise InexpressibleError("its outputs are random, also in eval mode")
    inputs = {name: calling.array_from(tensor.contiguous()) for name, tensor in tensors.items()}
    names = tuple(f"output_{index}" for index in range(len(outputs)))
    return Sample(module, Interface(tuple(map(_spec, inputs, inputs.values())), (), names), inputs)


def _tensors(make: Any, given: Any) -> dict[str, Any]:
    """Return the tensors of a call by the forward's own names: a config names the first parameters, and all are tensors."""
    import torch

    signature = inspect.signature(make.forward)
    bound = signature.bind(None, *given.args, **given.kwargs).arguments
    defaults = {name: each.default for name, each in signature.parameters.items()}
    said = {name: value for name, value in list(bound.items())[1:] if value is not defaults[name]}
    for name, value in said.items():
        if not isinstance(value, torch.Tensor):
            raise InexpressibleError(f"its forward takes a {type(value).__name__} as '{name}', which is no tensor")
    if list(said) != list(signature.parameters)[1 : len(said) + 1]:
        raise InexpressibleError(f"its forward takes {', '.join(said)} and nothing for a parameter in between")
    return said


def _spec(name: str, array: Any) -> InputSpec:
    """Declare an input with the range of the sample's values, as a config would: a target is a class, a probability is one.

    One value is no range: cases that the network does not take are left out later.
    """
    finite = array[np.isfinite(array)]
    is_integer = array.dtype.kind in "iu"
    if array.dtype.name == "bool" or not finite.size or (finite.min() == finite.max() and not is_integer):
        return InputSpec(name, array.dtype.name, array.shape)
    high = float(finite.max()) + (1 if is_integer else 0)
    return InputSpec(name, array.dtype.name, array.shape, low=float(finite.min()), high=high)


class Judged(NamedTuple):
    """What became of one sample in one format; `factor`: the largest of its outputs over all cases."""

    verdict: str
    reason: str = ""
    factor: float = 0.0


def _same_tools(ledger: dict[str, Any]) -> bool:
    """Whether a ledger was made with the versions that are installed, as far as it states them."""
    here = tools()
    return all(here.get(name) == version for name, version in ledger["tools"].items())


def _judge(sample: Sample, format: str) -> Judged:  # noqa: A002 - the name the config uses
    """Export a sample, open the file, and hold it against the oracle."""
    exporter, backend = formats()[format], backends()[BACKENDS[format]]
    with tempfile.TemporaryDirectory() as folder:
        job = FromNetwork(
            copy.deepcopy(sample.module),
            sample.interface,
            sample.inputs,
            Path(folder, exporter.file),
            {"name": "ledger"},
        )
        try:
            artifact = exporter.export(job, exporter.options())
        except ExportError as error:
            return Judged("refused", error.message)
        source = Source(sample.interface, artifact.files[0])
        try:
            session = backend.open(source, backend.options())
        except Exception as error:  # noqa: BLE001 - onnxruntime has an exception type for each reason
            return Judged("refused", f"{backend.name}: {error}")
        return _compare(sample, session)


def _compare(sample: Sample, session: Any) -> Judged:
    known = _truth(sample)
    findings = []
    for case, reference, floors in zip(known.cases, known.references, known.floors, strict=True):
        try:
            outputs = session.run(case.inputs)
        except Exception as error:  # noqa: BLE001 - as above
            return Judged("mismatch", f"refuses case '{case.name}': {error}")
        findings += compare(case.name, reference, floors, outputs, known.rules)
    deciding = worst(findings)
    if deciding.passed:
        return Judged("pass", factor=deciding.factor)
    return Judged("mismatch", prove.finding_in_words(deciding, known))


def _truth(sample: Sample) -> prove.Truth:
    """Return the sample itself and the seeded cases that the network takes, with what should come out."""
    interface = sample.interface
    drawn = cases.sample(interface, seed=SEED, cap_elements=1 << 20)
    chosen = [Case("sample", {}, sample.inputs), *(each for each in drawn if _takes(sample, each))]
    references, reason = oracle.evaluate(
        copy.deepcopy(sample.module), interface, [each.inputs for each in chosen], seed=SEED
    )
    return prove.truth(chosen, references, reason, dict.fromkeys(interface.outputs, Rule()))


def _takes(sample: Sample, case: Case) -> bool:
    import torch

    try:
        with torch.inference_mode():
            sample.module(*calling.tensors_from(case.inputs).values())
    except (RuntimeError, ValueError, IndexError):
        return False
    return True


def _shown(reason: str) -> str:
    """Return a reason on one line, without the paths of this machine."""
    line = re.sub(r"/(?:[^\s/'\",:]+/)+", "…/", " ".join(reason.split()))
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}…"


# --- the sweep ----------------------------------------------------------------------------------------------------------


class Children:
    """A worker, a new one every few entries and after each that died."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack, self._worker, self._used = stack, None, 0

    def ask(self, name: str, format: str) -> dict[str, Any]:  # noqa: A002 - the name the config uses
        """Examine one entry. One that does not end is tried once more: the machine may have been asleep."""
        from benchmarks import module_ledger  # under this name a worker finds it, also where it is run as a program

        request = module_ledger.Examine(name=name, format=format)
        for attempt in range(2):
            worker = self._fresh()
            try:
                return worker.call(request, timeout_s=TIMEOUT_S)
            except WorkerError as error:
                if worker.alive or attempt:
                    return {"verdict": "crash", "reason": _shown(error.message), "samples": 0}
        raise AssertionError

    def _fresh(self) -> WorkerProcess:
        self._used += 1
        if self._worker is None or not self._worker.alive or self._used > ENTRIES_A_WORKER:
            self._stack.close()
            self._worker, self._used = self._stack.enter_context(self._start()), 1
        return self._worker

    def _start(self) -> WorkerProcess:
        modules = [each for format_ in BACKENDS for each in formats()[format_].modules]
        return RUNNER.start("the ledger's worker", threads=1, modules=modules)


def sweep(names: Sequence[str], rows: Rows | None = None) -> Iterator[dict[str, Any]]:
    """Yield each entry with its verdict in each format."""
    with ExitStack() as stack:
        children = Children(stack)
        for name in names:
            row: dict[str, Any] = {"module": name}
            for kind in BACKENDS:
                made = lambda name=name, kind=kind: children.ask(name, kind)  # noqa: E731 - what rows.get takes
                found = rows.get(f"{name}, {kind}", made) if rows else made()
                row[kind] = f"{found['verdict']}: {found['reason']}" if found["reason"] else found["verdict"]
                row["samples"] = max(found["samples"], row.get("samples", 0))
            yield row


def verdict(text: str) -> str:
    """Return the verdict of a ledger's text."""
    return text.partition(":")[0]


def regressions(before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> list[str]:
    """Return in words what fares worse than in the ledger; an entry the ledger lacks must not be worse than a refusal."""
    known = {each["module"]: each for each in before}
    return [
        f"{row['module']}, {kind}: {row[kind]} (was: {was})"
        for row in now
        for kind in BACKENDS
        for was in [known.get(row["module"], {}).get(kind, "refused: not in the ledger")]
        if VERDICTS.index(verdict(row[kind])) > VERDICTS.index(verdict(was))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ledger", type=Path, default=LEDGER)
    parser.add_argument("--only", help="names of entries, with commas between")
    parser.add_argument("--check", action="store_true", help="compare with the ledger instead of writing it")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else entries()
    before = json.loads(arguments.ledger.read_text(encoding="utf-8")) if arguments.only or arguments.check else None
    if before and not arguments.check and not _same_tools(before):
        parser.error(f"the ledger was written with {before['tools']}: write it again as a whole")
    rows = Rows("module_ledger", {"only": arguments.only}, len(names) * len(BACKENDS))
    found = list(sweep(names, rows))
    if before and arguments.check:
        status = check(found, before)
    else:
        status = 0
        new = {each["module"]: each for each in found}
        every = [new.get(each["module"], each) for each in before["entries"]] if before else found
        document = {"tools": tools(), "counts": counts(every), "entries": every}
        arguments.ledger.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    factors = [row["factor"] for row in rows.rows.values() if row.get("factor") is not None]
    rows.forget()
    shown = f"largest factor of a sample that passes: {max(factors, default=0):.3g}"
    print(f"{len(found)} entries: {json.dumps(counts(found))}; {shown}")
    raise SystemExit(status)


def counts(found: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return how many entries have each verdict, by format."""
    return {kind: dict(Counter(verdict(row[kind]) for row in found)) for kind in BACKENDS}


def check(found: Sequence[dict[str, Any]], ledger: dict[str, Any]) -> int:
    """Print what fares worse or better than in the ledger; return the exit status."""
    if not _same_tools(ledger):
        print(f"the ledger was written with {ledger['tools']}")
    examined = {each["module"] for each in found}
    before = [each for each in ledger["entries"] if each["module"] in examined]
    worse, better = regressions(before, found), regressions(found, before)
    for each in worse:
        print(f"worse: {each}")
    print(f"{len(worse)} fare worse than in the ledger, {len(better)} better" + (": write it again" if better else ""))
    return int(bool(worse))


if __name__ == "__main__":
    main()
