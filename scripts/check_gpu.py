"""Everything written for CUDA, in one command of at most eight minutes on a machine with an NVIDIA GPU.

For each of three configs one export with every CUDA backend of the table that can run here, with TF32 off (required to pass) and
on (judged beside it): parity, where nodes ran, timings by events of the device, a release, and that release verified with and
without the GPU. Besides: sessions that fell back to the CPU are refused. Run by `make check-gpu` in an environment of its own.
Exits 0 if all held, 1 if something did not, 4 where there is no GPU.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from checks import Check, last_line, said, show, weighbridge

CONFIGS = {
    "simplenet": "[{batch: 1}, {batch: 32}]",
    "silero-vad": "[{batch: 1}, {batch: 32}]",
    "efficientnet-lite0": "[{batch: 8}]",
}
TF32 = "-tf32"
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
_BUDGET_S = 8 * 60
_UNAVAILABLE = 4
_ENDS = time.monotonic() + _BUDGET_S


def left_s():
    """Return how much of the eight minutes is left, and a second where nothing is."""
    return max(1.0, _ENDS - time.monotonic())


def main() -> int:
    from pipeline.backends import probe
    from pipeline.backends.table import backends

    if reason := probe.cuda_device():
        print(f"there is no GPU to check anything on: {reason}", file=sys.stderr)
        return _UNAVAILABLE
    cuda = [each for each in backends().values() if each.device == "cuda"]
    able = [each for each in cuda if each.probe() is None]
    print(f"on {probe.cuda_facts()}", flush=True)
    checks = [Check(each.name, None, f"{each.probe()}; install {each.install}") for each in cuda if each not in able]
    checks.append(Check("a CUDA backend can run", bool(able), ", ".join(each.name for each in able) or "none"))
    with tempfile.TemporaryDirectory(prefix="check-gpu-", ignore_cleanup_errors=True) as folder:
        out = Path(folder) / "releases"
        for name in CONFIGS if able else ():
            checks += exported(name, able, Path(folder), out)
        checks += refusals(able, Path(folder))
    return show(checks)


def written(name, able, folder, required):
    """Write a config: every backend, with TF32 off and, where it has the option, on; each format that one of them opens."""
    formats = dict.fromkeys(["onnx", *(each.format for each in able if each.format)])
    with_tf32 = [each.name for each in able if "tf32" in each.options.model_fields]
    variants = [f"{{name: {each}{TF32}, backend: {each}, options: {{tf32: true}}}}" for each in with_tf32]
    path = folder / f"{name}.yaml"
    path.write_text(
        f"extends: {(Path('configs') / name).absolute()}.yaml\n"
        f"exports: [{', '.join(formats)}]\n"
        f"backends: [eager, onnxruntime-cpu, {', '.join([*(each.name for each in able), *variants])}]\n"
        f"require: [onnxruntime-cpu, {', '.join(required)}]\n"
        f"benchmark: {{reference: eager, sizes: {CONFIGS[name]}, seconds: 12}}\n"
    )
    return path


def exported(name, able, folder, out):
    """Yield what one export shows, then what its release does."""
    path = written(name, able, folder, [each.name for each in able])
    code, answer, messages = weighbridge("export", path, "--out", out, timeout_s=left_s())
    run = answer["runs"][0] if answer else {}
    yield Check(f"{name}: exported", code == 0, run.get("release") or last_line(messages))
    rows = {each["name"]: each for each in (run.get("parity") or {}).get("backends", [])}
    figures = {each["name"]: each for each in (run.get("benchmark") or {}).get("figures", {}).get("backends", [])}
    for each in able:
        if row := rows.get(each.name):
            yield Check(f"{name}: {each.name}", row["status"] == "pass", said(row))
            yield from placed(name, row)
            yield timed(name, figures.get(each.name))
        if row := rows.get(each.name + TF32):
            yield judged_with_tf32(name, row, rows[each.name])
    if run.get("release"):
        yield from verified(name, run["release"], able)


def placed(name, row):
    """Yield whether every node that computes ran on the GPU, where the runtime's profile tells."""
    from pipeline.backends.placement import problems

    if where := row["facts"].get("placement"):
        wrong = problems(where)
        yield Check(
            f"{name}: placement of {row['name']}", not wrong, "; ".join(wrong) or "nothing that computes is on the CPU"
        )


def timed(name, figures):
    """Say whether the device's own clock timed the calls."""
    taken = ((figures or {}).get("gpu") or {}).get("device_ms") or {}
    told = ", ".join(f"{size} {ms:.3g} ms" for size, ms in taken.items() if ms is not None)
    named = (figures or {}).get("name", "a backend")
    return Check(f"{name}: time on the device of {named}", bool(told), told or "not timed there")


def judged_with_tf32(name, row, off):
    """Say what TF32 costs: either verdict will do, as long as there is one."""
    judged = row["status"] in {"pass", "fail"} and row["worst"] is not None
    without = off["worst"]["factor"] if off["worst"] else "?"
    return Check(f"{name}: {row['name']} is judged", judged, f"{row['status']}: {said(row)}; without TF32 {without}")


def verified(name, release, able):
    """Yield whether the release holds with the GPU, and where there is none."""
    code, answer, messages = weighbridge("verify", release, timeout_s=left_s())
    opened = {each.name for each in able if each.format} & set((answer or {}).get("backends", ()))
    told = ", ".join((answer or {}).get("backends", ())) or last_line(messages)
    yield Check(f"{name}: verified on the GPU", code == 0 and bool(opened), told)
    code, answer, messages = weighbridge("verify", release, timeout_s=left_s(), **NO_GPU)
    ran = (answer or {}).get("backends", ())
    on_cpu = code == 0 and "onnxruntime-cpu" in ran and not set(ran) & {each.name for each in able}
    yield Check(f"{name}: verified without the GPU", on_cpu, ", ".join(ran) or last_line(messages))


def refusals(able, folder):
    """Yield whether what would run on the CPU instead is refused: by the session itself, and by a run that requires a GPU."""
    import os

    if any(each.name == "onnxruntime-cuda" for each in able):
        command = [sys.executable, "scripts/check_cuda_fallback.py"]
        try:
            done = subprocess.run(
                command, env=os.environ | NO_GPU, capture_output=True, text=True, check=False, timeout=left_s()
            )
            held, told = done.returncode == 0 and "noticed:" in done.stdout, last_line(done.stdout + done.stderr)
        except subprocess.TimeoutExpired:
            held, told = None, "no time left"
        yield Check("a session of onnxruntime that fell back is refused", held, told)
    for each in able:
        path = written("simplenet", [each], folder, [each.name])
        code, _, messages = weighbridge("parity", path, timeout_s=left_s(), **NO_GPU)
        yield Check(f"{each.name} without a GPU is refused", code == _UNAVAILABLE, last_line(messages))


if __name__ == "__main__":
    sys.exit(main())
