"""Take every entry of torch's own `module_db` through TorchScript and ONNX, and keep a ledger of what became of it.

    python benchmarks/module_ledger.py [--only NAME] [--check] [--ledger benchmarks/module_ledger.json]

Each entry is one of: pass; refused (with the exporter's reason); mismatch (outputs differ by more than 1e-4 of their scale);
crash. Every entry runs in a child of its own, so that none ends the sweep. `--check` compares with the ledger and ends with 1
where an entry that passed does not any more; without it the ledger is written.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

CHUNK = 25
TIMEOUT_S = 120
MARGIN = 1e-4


def entries() -> list[str]:
    """Return the names of module_db, in its order."""
    from torch.testing._internal.common_modules import module_db

    return [each.name for each in module_db]


def examine(index: int) -> dict[str, str]:
    """Return what becomes of one entry, for each format."""
    import torch
    from torch.testing._internal.common_modules import module_db

    torch.manual_seed(0)
    info = module_db[index]
    samples = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=False)
    sample = next((each for each in samples if _is_plain(each)), None)
    if sample is None:
        return dict.fromkeys(("torchscript", "onnx"), "no sample: none takes only tensors")
    module = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs).eval()
    inputs = tuple(sample.forward_input.args)
    with torch.no_grad():
        expected = module(*inputs)
    return {
        "torchscript": _attempt(_torchscript, module, inputs, expected),
        "onnx": _attempt(_onnx, module, inputs, expected),
    }


def _is_plain(sample: Any) -> bool:
    import torch

    given = sample.forward_input
    return bool(given.args) and not given.kwargs and all(isinstance(each, torch.Tensor) for each in given.args)


def _attempt(run: Any, module: Any, inputs: tuple[Any, ...], expected: Any) -> str:
    import torch
    from torch.utils import _pytree as pytree

    try:
        got = run(module, inputs)
    except Exception as error:  # noqa: BLE001 - every exporter has its own ways to refuse
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"refused: {type(error).__name__}: {lines[0][:160] if lines else ''}"
    wanted = [each for each in pytree.tree_leaves(expected) if isinstance(each, torch.Tensor)]
    if len(got) != len(wanted):
        return f"mismatch: {len(got)} outputs instead of {len(wanted)}"
    for mine, other in zip(got, wanted, strict=True):
        if mine.shape != other.shape:
            return f"mismatch: shape {list(mine.shape)} instead of {list(other.shape)}"
        scale = float(other.double().abs().max()) if other.numel() else 0.0
        away = float((mine.double() - other.double()).abs().max()) if other.numel() else 0.0
        if not away <= MARGIN * max(scale, 1e-6):
            return f"mismatch: off by {away:.3g} of {scale:.3g}"
    return "pass"


def _torchscript(module: Any, inputs: tuple[Any, ...]) -> list[Any]:
    import torch
    from torch.utils import _pytree as pytree

    try:
        scripted = torch.jit.script(module)
    except Exception:  # noqa: BLE001 - tracing is what the exporter does next
        scripted = torch.jit.trace(module, inputs, check_trace=False)
    with torch.no_grad():
        return [each for each in pytree.tree_leaves(scripted(*inputs)) if isinstance(each, torch.Tensor)]


def _onnx(module: Any, inputs: tuple[Any, ...]) -> list[Any]:
    import onnxruntime as ort
    import torch

    exported = torch.onnx.export(module, inputs, dynamo=True, verbose=False)
    session = ort.InferenceSession(exported.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {each.name: value.numpy() for each, value in zip(session.get_inputs(), inputs, strict=False)}
    return [torch.from_numpy(each) for each in session.run(None, feed)]


def child(first: int, last: int, out: Path) -> None:
    warnings.simplefilter("ignore")
    for index in range(first, last):
        with out.open("a") as file:
            file.write(json.dumps({"index": index, **_examined(index)}) + "\n")


def _examined(index: int) -> dict[str, str]:
    try:
        return examine(index)
    except Exception as error:  # noqa: BLE001 - an entry whose own sample fails is part of the ledger
        return dict.fromkeys(("torchscript", "onnx"), f"no sample: {type(error).__name__}: {str(error)[:120]}")


def sweep(names: list[str]) -> list[dict[str, Any]]:
    """Examine every entry, a chunk a child; what a child died on is a crash, and the next one goes on behind it."""
    found: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        start = 0
        while start < len(names):
            last, out = min(start + CHUNK, len(names)), Path(folder) / f"{start}.jsonl"
            out.touch()
            command = [sys.executable, __file__, "--child", f"{start}:{last}", "--ledger", str(out)]
            try:
                subprocess.run(command, capture_output=True, timeout=TIMEOUT_S * 5, check=False)
            except subprocess.TimeoutExpired:
                print(f"a child timed out between {start} and {last}", file=sys.stderr)
            for line in out.read_text().splitlines():
                row = json.loads(line)
                found[row.pop("index")] = row
            reached = max((index for index in found if start <= index < last), default=start - 1) + 1
            if reached < last:
                found[reached] = dict.fromkeys(("torchscript", "onnx"), "crash")
                reached += 1
            start = reached
            print(f"{start} of {len(names)}", file=sys.stderr, flush=True)
    return [{"module": name, **found[index]} for index, name in enumerate(names)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ledger", type=Path, default=Path("benchmarks/module_ledger.json"))
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        first, last = map(int, arguments.child.split(":"))
        child(first, last, arguments.ledger)
        return
    import onnx
    import onnxruntime
    import onnxscript
    import torch

    rows = sweep(entries())
    versions = {each.__name__: each.__version__ for each in (torch, onnx, onnxscript, onnxruntime)}
    counts = {kind: _counts(rows, kind) for kind in ("torchscript", "onnx")}
    print(json.dumps(counts, indent=1))
    if arguments.check:
        before = {each["module"]: each for each in json.loads(arguments.ledger.read_text())["entries"]}
        worse = [
            f"{row['module']}, {kind}: {row[kind]}"
            for row in rows
            for kind in ("torchscript", "onnx")
            if before.get(row["module"], {}).get(kind) == "pass" and row[kind] != "pass"
        ]
        print("\n".join(worse) or "no entry got worse")
        raise SystemExit(bool(worse))
    document = {"versions": versions, "counts": counts, "entries": rows}
    arguments.ledger.write_text(json.dumps(document, indent=1) + "\n")


def _counts(rows: list[dict[str, Any]], kind: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        name = row[kind].partition(":")[0]
        found[name] = found.get(name, 0) + 1
    return found


if __name__ == "__main__":
    main()
