"""The recipes of docs/fleet.md do what the page says: their steps run as Slurm and a GitHub runner run them, on real releases."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.fleet.shards.shard import Record
from tests.pages import ROOT
from tests.test_ci_action import BASH
from tests.test_messages import COMMANDS, OPTIONS

PAGE = Path("docs/fleet.md").read_text("utf-8")
BLOCKS = re.findall(r"(?:`([\w.]+)`:\n\n)?^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SCRIPTS = {name: text for name, language, text in BLOCKS if name and language == "bash"}
(WORKFLOW,) = [yaml.safe_load(text) for _, language, text in BLOCKS if language == "yaml"]
JOBS = WORKFLOW["jobs"]
BROKEN = "name: broken\nmodel: {architecture: nothing, weights: nothing.pth}\n"


def test_every_command_and_option_on_the_page_exists():
    found = re.findall(r"weighbridge ([a-z]+)((?:[^\n`|;]|\|\|)*)", PAGE)
    assert {command for command, _ in found} >= {"export", "merge", "league", "verify", "compare", "tune"}
    for command, rest in found:
        assert command in COMMANDS
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", rest)) <= OPTIONS[command], rest


@pytest.fixture
def checkout(built, tmp_path):
    """Return a folder with a config whose release is up to date, and one that is broken; and what starts each part with that release."""
    (tmp_path / "configs").mkdir()
    shutil.copytree(
        ROOT / "configs", tmp_path / "configs", dirs_exist_ok=True, ignore=lambda _, names: _unwanted(names)
    )
    (tmp_path / "configs" / "broken.yaml").write_text(BROKEN)
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "weights").symlink_to(ROOT / "artifacts" / "weights")

    def start(out):
        shutil.copytree(built.parent.parent, tmp_path / out, dirs_exist_ok=True)

    return tmp_path, start


def _unwanted(names):
    return {name for name in names if name.endswith(".yaml") and name != "simplenet.yaml"}


def run(script, folder, variables):
    """Run a script as bash does, without timing anything."""
    quick = script.replace("weighbridge export", "weighbridge export --no-benchmark")
    return subprocess.run([*BASH, quick], cwd=folder, env=variables, capture_output=True, text=True, check=False)


def test_the_array_exports_each_config_once_and_its_merge_tells_what_failed(checkout, serving):
    folder, start = checkout
    codes = []
    for task in (1, 2):
        start(f"parts/{task}")
        script = SCRIPTS["export.sbatch"].replace("PARTS=8 ", "PARTS=2 ")
        codes.append(run(script, folder, serving | {"SLURM_ARRAY_TASK_ID": str(task)}).returncode)
    assert sorted(codes) == [0, 2]
    merged = subprocess.run(
        ["bash", "-c", SCRIPTS["merge.sbatch"]], cwd=folder, env=serving, capture_output=True, text=True, check=False
    )
    assert merged.returncode == 1, merged.stderr
    assert "failed: broken.yaml" in merged.stderr
    assert (folder / "releases" / "simplenet" / "latest").is_file()
    assert "simplenet" in (folder / "releases" / "league.html").read_text()


def test_the_array_is_started_and_merged_whatever_becomes_of_its_tasks():
    (started,) = [text for name, language, text in BLOCKS if "sbatch --parsable" in text]
    assert set(re.findall(r"[\w-]+\.sbatch", started)) == SCRIPTS.keys()
    assert "--dependency=afterany:$job" in started
    parts = re.search(r"^PARTS=(\d+)", SCRIPTS["export.sbatch"], re.MULTILINE)[1]
    assert f"#SBATCH --array=1-{parts}\n" in SCRIPTS["export.sbatch"]


def steps(job, folder, variables, values):
    """Run the `run` steps of a job as a runner does: one that fails ends all but those that always run; return the exit code."""
    code = 0
    for step in JOBS[job]["steps"]:
        if "run" not in step or step["run"].startswith("pip install") or (code and step.get("if") != "always()"):
            continue
        script = re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda found: str(values[found[1]]), step["run"])
        code = run(script, folder, variables).returncode or code
    return code


def test_the_matrix_and_its_merge_say_which_config_failed_and_which_part_is_missing(checkout, serving, tmp_path):
    folder, start = checkout
    shards, summary = JOBS["export"]["strategy"]["matrix"]["shard"], tmp_path / "summary.md"
    variables = serving | {"GITHUB_STEP_SUMMARY": str(summary)}
    codes = []
    for shard in shards:
        start("releases")
        codes.append(steps("export", folder, variables, {"matrix.shard": shard, "strategy.job-total": len(shards)}))
        _upload(folder / "releases", folder / "parts" / f"releases-{shard}")
    assert sorted(codes) == [0, 0, 0, 2]
    assert [len(Record.read(each).runs) for each in sorted(folder.rglob("parts/*/shard-*.json"))].count(0) == 2
    assert steps("merge", folder, variables, {}) == 1
    assert "| simplenet |" in summary.read_text()
    shutil.rmtree(folder / "releases")
    shutil.rmtree(folder / "parts" / "releases-2")
    assert steps("merge", folder, variables, {}) == 1
    merged = run("weighbridge merge parts --out releases", folder, variables)
    assert "of 4 shards there is no 2" in merged.stderr


def _upload(source, target):
    """Move what the step uploads, as the runner that downloads it finds it."""
    uploads = next(
        each["with"] for each in JOBS["export"]["steps"] if each.get("uses", "").startswith("actions/upload")
    )
    wanted, left_out = uploads["path"].split()
    assert (wanted, left_out, uploads["include-hidden-files"]) == ("releases", "!releases/.cache/**", True)
    shutil.rmtree(source / ".cache", ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    shutil.move(source, target)


def test_the_jobs_go_on_where_one_of_them_fails():
    assert JOBS["export"]["strategy"]["fail-fast"] is False
    assert JOBS["merge"]["if"] == "always()"
    uploads = [each for job in JOBS.values() for each in job["steps"] if "upload-artifact" in each.get("uses", "")]
    assert [each["if"] for each in uploads] == ["always()", "always()"]
    (download,) = [each["with"] for each in JOBS["merge"]["steps"] if "download-artifact" in each.get("uses", "")]
    assert re.fullmatch(download["pattern"].replace("*", ".*"), uploads[0]["with"]["name"])


def test_the_page_of_the_zoo_is_small_asks_for_nothing_and_names_no_folder_of_a_machine():
    page = Path("docs/league.html").read_text("utf-8")
    assert len(page) < 500_000
    assert not re.search(r"(?:src|href)=\"(?!data:)|https?://|/(?:home|root|tmp|work|usr)/", page)
    assert page.count('<tr role="row" data-tone="good">') > 20
