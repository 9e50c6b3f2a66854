"""How long `weighbridge export` takes when there is nothing to do: the bars are 0.3 s for one config and 1.2 s for a hundred.

The hundred are SimpleNet's release under a hundred names, each recorded as built from a config of its own; the command parses every
config, takes every digest and checks every file, as always. Beside it, in the same run: a bare `import typer, pydantic`.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.release import bundle
from pipeline.run import keys as dependencies
from pipeline.run import plan as planning
from pipeline.run import up_to_date
from pipeline.run.export import export

SIMPLENET = Path("configs/simplenet.yaml").resolve()
RUNS = 9
MANY = 100
NOTHING_TO_DO = ["-m", "pipeline.commands", "export", "--no-benchmark", "--out"]


def prepare(folder: Path) -> list[Path]:
    """Build one release, copy it under many names, and return a config for each."""
    settings = planning.Settings(out=folder / "out", benchmark=False)
    release = export(SIMPLENET, settings).release
    configs = []
    for index in range(MANY):
        name = f"simplenet-{index}"
        config = folder / f"{name}.yaml"
        config.write_text(f"extends: {SIMPLENET}\nname: {name}\n")
        copy = Path(shutil.copytree(release, settings.out / name / release.name))
        (copy.parent / bundle.LATEST).write_text(f"{release.name}\n")
        planned = planning.plan(config, settings)
        up_to_date.remember(settings.out, name, dependencies.of_release(planned, settings), copy)
        configs.append(config)
    return configs


def seconds(command: list[str], runs: int) -> float:
    """Return the median wall time of a command in seconds."""
    durations = []
    for _ in range(runs):
        began_s = time.perf_counter()
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
        durations.append(time.perf_counter() - began_s)
        if "export" in command and done.stdout.count("up to date") != len(command) - len(NOTHING_TO_DO) - 1:
            raise SystemExit(f"there was something to do: {done.stdout}")
    return statistics.median(durations)


def main() -> None:
    """Measure and print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        configs = prepare(folder)
        arguments = [*NOTHING_TO_DO, str(folder / "out")]
        bare_s = seconds(["-c", "import typer, pydantic"], RUNS)
        one_s = seconds([*arguments, str(SIMPLENET)], RUNS)
        many_s = seconds([*arguments, *map(str, configs)], 3)
    print("| what | median s | × imports alone |\n|---|---|---|")
    for what, took_s in (("import typer, pydantic", bare_s), ("one config", one_s), (f"{MANY} configs", many_s)):
        print(f"| {what} | {took_s:.2f} | {took_s / bare_s:.1f} |")
    raise SystemExit(one_s > 0.3 or many_s > 1.2)


if __name__ == "__main__":
    main()
