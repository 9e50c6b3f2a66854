"""What an installer says is told as short as it can be, with what to do about it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from pipeline.errors import STOPPING, InterruptedRunError, UnavailableError
from pipeline.fleet.replay import installing
from pipeline.fleet.replay.installing import hint, reason

PIP_CONFLICT = """\
INFO: pip is looking at multiple versions of demanding to determine which version is compatible with other requirements.
ERROR: Cannot install demanding==1 because these package versions have conflicting dependencies.

The conflict is caused by:
    demanding 1 depends on bystander==2
    The user requested (constraint) bystander==1

To fix this you could try to:
1. loosen the range of package versions you've specified

ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/en/latest/topics/dependency-resolution/"""
PIP_MISSING = """\
WARNING: Location '/nowhere' is ignored: it is neither a file nor a directory.
ERROR: Could not find a version that satisfies the requirement bystander==7 (from versions: 2, 3)
ERROR: No matching distribution found for bystander==7"""
UV_MISSING = """\
Using Python 3.11.7 environment at: .venv
error: No solution found when resolving dependencies
  cause: Because there is no version of bystander==7 and you require bystander==7, we can conclude that your requirements are unsatisfiable."""
UV_CONFLICT = """\
error: No solution found when resolving dependencies
  cause: Because all versions of demanding depend on bystander==2 and bystander==1, we can conclude that all versions of demanding cannot be used.
         And because you require demanding==1, we can conclude that your requirements are unsatisfiable."""


@pytest.mark.parametrize(
    ("said", "why", "fix"),
    [
        (PIP_CONFLICT, "demanding 1 depends on bystander==2; what stays is bystander==1", "name what has to change"),
        (
            PIP_MISSING,
            "Could not find a version that satisfies the requirement bystander==7 (from versions: 2, 3)",
            "name a version",
        ),
        (
            UV_MISSING,
            "error: No solution found when resolving dependencies; cause: Because there is no",
            "name a version",
        ),
        (UV_CONFLICT, "error: No solution found when resolving dependencies; cause: Because all", "name what has to"),
        ("ERROR: Could not install packages due to an OSError: Connection refused", "Could not install", "be reached"),
        ("", "it ended with 2 and said nothing", "see why"),
    ],
)
def test_a_reason_is_the_installers_own_and_the_fix_is_ours(said, why, fix):
    assert reason(said.splitlines(), 2).startswith(why)
    assert hint(said.splitlines()).startswith(fix) or fix in hint(said.splitlines())


def test_of_a_long_list_of_versions_the_newest_are_kept():
    versions = ", ".join(f"1.{each}.0" for each in range(400))
    told = reason([f"ERROR: Could not find a version that satisfies x==9 (from versions: {versions})"], 1)
    assert "x==9" in told
    assert told.endswith("1.398.0, 1.399.0)")
    assert len(told) < 500


def printing(text, code=0):
    return [sys.executable, "-c", f"import sys; print({text!r}); sys.exit({code})"]


def test_what_an_installer_is_at_is_said_and_what_it_printed_returned():
    said = []
    told = installing.run("pip", "x==1", printing("Collecting x\nsomething else"), {}, said.append)
    assert said == ["Collecting x"]
    assert "something else" in told


def test_one_that_fails_is_told_with_what_was_asked_for():
    with pytest.raises(UnavailableError, match=r"an environment with x==1 cannot be made: pip: it is full"):
        installing.run("pip", "x==1", printing("ERROR: it is full", 1), {}, print)


def test_one_that_is_stopped_ends_at_once_with_what_it_started():
    STOPPING.clear()
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    command = [sys.executable, "-c", f"print('Collecting x', flush=True); {child}"]
    began = time.monotonic()
    try:
        with pytest.raises(InterruptedRunError):
            installing.run("pip", "x==1", command, {}, lambda _: STOPPING.set())
    finally:
        STOPPING.clear()
    assert time.monotonic() - began < 30


def test_one_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(installing, "TIMEOUT_S", 0.2)
    with pytest.raises(UnavailableError, match=r"not installed within 0\.2 s"):
        installing.run("pip", "x==1", [sys.executable, "-c", "import time; time.sleep(60)"], {}, print)


def test_uv_is_taken_where_it_is_unless_only_pip_was_told_an_index(monkeypatch):
    for name in (
        "UV_INDEX",
        "UV_DEFAULT_INDEX",
        "UV_INDEX_URL",
        "UV_EXTRA_INDEX_URL",
        "UV_FIND_LINKS",
        "UV_CONFIG_FILE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(installing.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    assert installing.installer().name == "uv"
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    assert installing.installer().name == "pip"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://index.example/simple")
    assert installing.installer().name == "uv"
    monkeypatch.setattr(installing.shutil, "which", lambda _: None)
    assert installing.installer().name == "pip"
    monkeypatch.setattr(installing, "_has_pip", lambda: False)
    with pytest.raises(UnavailableError, match="neither uv nor pip"):
        installing.installer()


def test_a_look_for_pip_leaves_distutils_to_setuptools():
    script = "from pipeline.fleet.replay import installing; print(installing._has_pip()); import distutils.core; import setuptools; print(distutils.core.__file__)"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", script], capture_output=True, text=True, check=True
    )
    found, file = done.stdout.split()
    assert found == "True"
    assert "_distutils" in file


def test_of_many_distributions_that_are_installed_their_number_is_shown():
    names = ", ".join(f"nvidia-part-{index}" for index in range(17))
    assert (
        installing._said(f"Installing collected packages: {names}") == "Installing collected packages: 17 distributions"
    )
    assert (
        installing._said("  Downloading torch-2.14.0-cp311.whl (554.6 MB)")
        == "Downloading torch-2.14.0-cp311.whl (554.6 MB)"
    )
