"""onnxruntime's other providers for real: parity, where nodes ran, a release that verifies, a fallback that is refused.

Run by `make check-providers` in an environment of its own: the builds of onnxruntime provide the same module.
"""

import sys
import tempfile
from pathlib import Path

from checks import Check, last_line, said, show, weighbridge

CONFIGS = ("simplenet", "silero-vad", "minilm")


def main() -> int:
    from pipeline.backends.onnxruntime_providers import PROVIDERS

    here = [each for each in PROVIDERS if each.probe() is None]
    checks = [Check(each.name, None, each.probe()) for each in PROVIDERS if each not in here]
    if not here:
        print("there is no provider here but the CPU's: " + "; ".join(f"{each.name}: {each.told}" for each in checks))
        return 4
    with tempfile.TemporaryDirectory() as folder:
        for each in here:
            checks += proven(each.name, Path(folder))
        if any(each.name == "onnxruntime-openvino" for each in here):
            checks.append(refused(Path(folder)))
    return show(checks)


def written(folder, config, name, backends, required):
    path = folder / f"{name}.yaml"
    path.write_text(
        f"extends: {Path('configs').absolute() / config}.yaml\nname: {name}\nexports: [onnx]\n"
        f"backends: [eager, {backends}]\nrequire: [{required}]\n"
    )
    return path


def proven(backend, folder):
    """Export each config with a backend required, and verify the release with it."""
    for config in CONFIGS:
        path = written(folder, config, f"{config}-{backend}", backend, backend)
        code, answer, messages = weighbridge("export", path, "--no-benchmark", "--out", folder)
        run = answer["runs"][0] if answer else {}
        rows = [each for each in (run.get("parity") or {}).get("backends", []) if each["name"] == backend]
        held = code == 0 and bool(rows) and rows[0]["status"] == "pass"
        yield Check(f"{config} on {backend}", held, said(rows[0]) if rows else last_line(messages))
        if held:
            code, answer, messages = weighbridge("verify", run["release"])
            held = code == 0 and backend in answer["backends"]
            told = (
                f"{answer['cases']} golden cases on {', '.join(answer['backends'])}" if answer else last_line(messages)
            )
            yield Check(f"{config} verified", held, told)


def refused(folder):
    """Ask for a device that may not be here: onnxruntime goes on with the CPU, and we must not."""
    gpu = "{name: gpu, backend: onnxruntime-openvino, options: {device_type: GPU}}"
    code, answer, messages = weighbridge("parity", written(folder, "simplenet", "fallback", gpu, "gpu"))
    rows = [each for each in (answer or {}).get("backends", []) if each["name"] == "gpu"]
    if not rows:
        return Check("a fallback is refused", "fell back to the CPU" in messages and code != 0, last_line(messages))
    if rows[0]["status"] == "pass":
        return Check("a fallback is refused", None, "OpenVINO has a GPU here, so nothing falls back")
    return Check("a fallback is refused", "fell back to the CPU" in (rows[0]["reason"] or ""), said(rows[0]))


if __name__ == "__main__":
    sys.exit(main())
