"""The composite action does what docs/ci.md says, its steps run as a GitHub runner runs them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

from pipeline.release import signing
from pipeline.release.verify import Origin, verify

ACTION = yaml.safe_load(Path(".github/actions/weighbridge/action.yml").read_text())
EXPRESSION = re.compile(r"\$\{\{ (\w+(?:[.\w-]*)) \}\}")
# What GitHub starts for `shell: bash`: docs.github.com, workflow syntax, jobs.<job_id>.steps[*].shell
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]


class Runner:
    """As much of a runner as the action asks for: inputs with defaults, expressions in `env`, outputs and the summary."""

    def __init__(self, folder: Path, variables: dict[str, str], **inputs: str) -> None:
        self.variables = variables
        self.values = {f"inputs.{name}": each.get("default", "") for name, each in ACTION["inputs"].items()}
        self.values |= {f"inputs.{name.replace('_', '-')}": value for name, value in inputs.items()}
        self.folder, self.said = folder, ""
        self.summary = folder / "summary.md"

    def run(self) -> int:
        """Run the steps until one fails; return its exit code, or 0."""
        for step in ACTION["runs"]["steps"]:
            assert step["shell"] == "bash"
            output = self.folder / "output"
            output.write_text("")
            environment = self.variables | {
                "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(self.summary),
                **{name: EXPRESSION.sub(lambda found: self.values[found[1]], text) for name, text in step["env"].items()},
            }  # fmt: skip
            done = subprocess.run([*BASH, step["run"]], env=environment, capture_output=True, text=True, check=False)
            self.said += done.stdout + done.stderr
            for name, value in re.findall(r"^(\w+)<<END\n(.*?)END$", output.read_text(), re.MULTILINE | re.DOTALL):
                self.values[f"steps.{step['id']}.outputs.{name}"] = value.strip()
            if done.returncode:
                return done.returncode
        return 0

    def output(self, name: str) -> str:
        """Return an output of the action."""
        return EXPRESSION.sub(lambda found: self.values[found[1]], ACTION["outputs"][name]["value"])


def test_it_exports_signs_reports_and_verifies(tmp_path, serving):
    private, public = signing.generate(tmp_path / "key")
    runner = Runner(
        tmp_path, serving, config="configs/simplenet.yaml", out=str(tmp_path / "out"), arguments="--no-benchmark",
        signing_key=private.read_text(), install="numpy",
    )  # fmt: skip
    assert runner.run() == 0, runner.said
    release = Path(runner.output("releases"))
    assert release.parent == tmp_path / "out" / "simplenet"
    assert verify(release, origin=Origin(key=public)).passed
    assert "ok: digests, golden cases on onnxruntime-cpu" in runner.said
    assert "simplenet" in runner.summary.read_text()
    assert "PRIVATE KEY" not in runner.said


def test_it_fails_with_the_exports_exit_code_and_annotates_the_error(tmp_path, serving):
    runner = Runner(tmp_path, serving, config="configs/simplenet.yaml", arguments="--set no.such=1", install="numpy")
    assert runner.run() == 2, runner.said
    assert "::error title=configs/simplenet.yaml::" in runner.said
    assert runner.output("releases") == ""
