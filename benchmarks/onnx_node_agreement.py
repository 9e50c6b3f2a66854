"""Hold explicit tolerances against onnx's own test runner: the same verdict on every node case of the onnx wheel.

    python benchmarks/onnx_node_agreement.py [--sample N] [--seed S]

Every case is run by onnxruntime; outputs are judged once as `onnx.backend.test.runner` does (`assert_allclose` with the
case's own rtol and atol, shapes and dtypes equal) and once by `pipeline.parity.compare`; and once more with the outputs moved by
1 % so that failures are compared too. What cannot be compared is counted by its reason.
"""

import argparse
import importlib
import pkgutil
import random
import warnings
from collections import Counter
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx.backend.test.case import node
from onnx.backend.test.runner import Runner

from pipeline.parity.budget import Rule
from pipeline.parity.compare import compare
from pipeline.parity.oracle import Reference

FLOATS = {"float32", "float64", "float16"}


def ours(names: list[str], wanted: list[Any], got: list[Any], rtol: float, atol: float) -> bool:
    """Return whether our comparison passes, the expected outputs being exact."""
    values = {
        name: each.astype(np.float64) if each.dtype.name in FLOATS else each
        for name, each in zip(names, wanted, strict=True)
    }
    noise = {name: np.zeros(each.shape) for name, each in values.items()}
    dtypes = {name: each.dtype.name for name, each in zip(names, wanted, strict=True)}
    rules = dict.fromkeys(names, Rule(atol=atol, rtol=rtol))
    found = compare(
        "case", Reference(values, noise, dtypes), dict.fromkeys(names), dict(zip(names, got, strict=True)), rules
    )
    return all(each.passed for each in found)


def theirs(wanted: list[Any], got: list[Any], rtol: float, atol: float) -> bool:
    """Return whether onnx's own runner passes."""
    try:
        Runner.assert_similar_outputs(wanted, got, rtol=rtol, atol=atol)
    except (AssertionError, TypeError):
        return False
    return True


def run(case: Any) -> tuple[str, list[tuple[bool, bool]]]:
    """Return why a case cannot be compared, or "" and the two verdicts on its outputs, plain and moved by 1 %."""
    try:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        session = ort.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - onnxruntime raises a type of its own for each reason
        return "onnxruntime does not implement it", []
    names = [each.name for each in session.get_outputs()]
    verdicts = []
    for inputs, wanted in case.data_sets:
        arrays = [*inputs, *wanted]
        if not all(isinstance(each, np.ndarray) and each.dtype.kind in "fiub" for each in arrays):
            return "inputs or outputs are sequences, optional, text or a narrow float", []
        try:
            got = session.run(names, dict(zip([each.name for each in session.get_inputs()], inputs, strict=False)))
        except Exception:  # noqa: BLE001 - as above
            return "onnxruntime refuses to run it", []
        for values in (got, [_moved(each) for each in got]):
            pair = (ours(names, wanted, values, case.rtol, case.atol), theirs(wanted, values, case.rtol, case.atol))
            verdicts.append(pair)
    return "", verdicts


def _moved(value: Any) -> Any:
    return (value * 1.01 + 0.01).astype(value.dtype) if value.dtype.kind == "f" else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=0, help="only the cases of so many operators; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    excluded, disagreed, compared = judge(arguments.sample, arguments.seed)
    print(f"{compared} verdicts compared; {len(disagreed)} differ")
    for reason, count in excluded.most_common():
        print(f"  {count} cases left out: {reason}")
    for name in disagreed:
        print(f"  differs: {name}")
    raise SystemExit(bool(disagreed))


def judge(sample: int, seed: int) -> tuple[Counter[str], list[str], int]:
    """Return the excluded cases by reason, the names of those judged differently, and the number of verdicts compared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx generates its cases with overflows on purpose
        excluded: Counter[str] = Counter()
        disagreed: list[str] = []
        compared = 0
        for case in _cases(sample, seed):
            reason, verdicts = run(case)
            if reason:
                excluded[reason] += 1
            compared += len(verdicts)
            disagreed += [case.name for mine, other in verdicts if mine != other]
    return excluded, disagreed, compared


def _cases(sample: int, seed: int) -> list[Any]:
    """Return all cases, or those of a sample of operators: a module makes its cases when it is imported, and all take seconds."""
    if not sample:
        return node.collect_testcases(None)
    before = len(node._NodeTestCases)  # noqa: SLF001 - what its modules add to
    for name in random.Random(seed).sample([each.name for each in pkgutil.iter_modules(node.__path__)], sample):
        importlib.import_module(f"{node.__name__}.{name}")
    return node._NodeTestCases[before:]  # noqa: SLF001 - as above


if __name__ == "__main__":
    main()
