"""The commands as a person meets them: instant help, one JSON document, a table, and what to do next."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.commands.app import COMMANDS
from pipeline.commands.shared import next_command

HEAVY = {"torch", "onnx", "onnxruntime", "numpy", "scipy"}


def imported_by(*arguments):
    """Return the modules a command line leaves imported, in a process of its own."""
    program = (
        "import sys, json\nsys.argv = ['weighbridge', *json.loads(sys.argv[1])]\nfrom pipeline.commands.app import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    code = stop.code\n"
        "print('\\n' + json.dumps([code, list(sys.modules)]))"
    )
    command = [sys.executable, "-c", program, json.dumps([str(each) for each in arguments])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["export", "--help"], ["predict", "--help"], ["--version"]], ids=" ".join
)
def test_help_imports_nothing_heavy(arguments):
    code, modules = imported_by(*arguments)
    assert code == 0
    assert not modules & HEAVY


@pytest.mark.parametrize("command", [each.__name__ for each in COMMANDS])
def test_help_names_what_to_give_and_no_type_of_pythons(weighbridge, command):
    said = weighbridge(command, "--help").out
    assert "<" not in said
    first = said.splitlines()[0]
    assert not re.search(r"[{[][a-z]+[}\]]", first), first


def test_the_package_runs_as_the_command_does(weighbridge):
    command = [sys.executable, "-m", "pipeline.commands", "verify", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == weighbridge("verify", "--help").out
    assert "weighbridge verify" in done.stdout


def test_a_bad_config_is_told_without_importing_torch(tmp_path):
    config = tmp_path / "bad.yaml"
    config.write_text(Path("configs/simplenet.yaml").read_text().replace("max: 64", "max: many"))
    code, modules = imported_by("check", config)
    assert code == 2
    assert not modules & {"torch", "onnx", "onnxruntime"}


def test_a_second_export_with_nothing_changed_says_so_without_importing_torch(built):
    arguments = ["export", "configs/simplenet.yaml", "--out", built.parent.parent, "--no-benchmark"]
    code, modules = imported_by(*arguments)
    assert code == 0
    assert not modules & {"torch", "onnx", "onnxruntime"}


def test_a_second_export_is_up_to_date_and_a_change_says_what_changed(built, weighbridge):
    out = built.parent.parent
    done = weighbridge("export", "configs/simplenet.yaml", "--out", out, "--no-benchmark", "--json")
    run = json.loads(done.out)["runs"][0]
    assert run["up_to_date"]
    assert run["release"] == str(built)
    shown = weighbridge("export", "configs/simplenet.yaml", "--out", out, "--no-benchmark")
    assert shown.out == f"up to date: {built}\n\nnext: weighbridge verify {built}\n"


def test_a_change_of_the_config_is_named_as_the_reason_to_build_again(built, tmp_path, weighbridge):
    shutil.copytree(built.parent, tmp_path / "simplenet")
    done = weighbridge(
        "export", "configs/simplenet.yaml", "--out", tmp_path, "--no-benchmark", "--set", "parity.seed=1", "--json"
    )
    run = json.loads(done.out)["runs"][0]
    assert not run["up_to_date"]
    assert run["why"] == "config: parity.seed changed: 0 → 1"


def test_a_damaged_release_is_built_again(built, tmp_path, weighbridge):
    shutil.copytree(built.parent, tmp_path / "simplenet")
    (tmp_path / "simplenet" / built.name / "model.onnx").write_bytes(b"gone")
    done = weighbridge("export", "configs/simplenet.yaml", "--out", tmp_path, "--no-benchmark")
    assert done.code == 0, done.err
    assert weighbridge("verify", tmp_path / "simplenet").code == 0


def test_an_export_that_made_something_ends_with_a_table_the_path_and_the_next_command(built, tmp_path, weighbridge):
    out = shutil.copytree(built.parent.parent, tmp_path / "out")
    done = weighbridge(
        "export", "configs/simplenet.yaml", "--out", out, "--no-benchmark", "--set", "release.version=2.0.0"
    )
    for part in (
        "verdict",
        "× noise floor",
        "torchscript",
        "onnxruntime-cpu",
        "pass",
        str(out / "simplenet" / "2.0.0"),
        "next: weighbridge verify",
    ):
        assert part in done.out


def test_verify_says_what_it_checked_and_what_to_do_next(built, weighbridge):
    done = weighbridge("verify", built)
    assert done.code == 0
    assert "golden cases on torchscript, onnxruntime-cpu" in done.out
    assert "next: weighbridge predict" in done.out


def test_predict_computes_what_the_network_computes(built, tmp_path, weighbridge):
    from pipeline.architectures.simplenet import SimpleNet

    network = SimpleNet()
    network.load_state_dict(torch.load("configs/weights/simplenet.pth", weights_only=True))
    x = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    with torch.inference_mode():
        expected = network.eval()(torch.from_numpy(x)).numpy()
    for backend in ("onnxruntime-cpu", "torchscript"):
        done = weighbridge("predict", built, "--input", tmp_path / "x.npy", "--backend", backend)
        assert done.code == 0, done.err
        np.testing.assert_allclose(json.loads(done.out)["logits"], expected, rtol=1e-5, atol=1e-6)


def test_a_release_is_a_library_call(built):
    from pipeline import load_release

    model = load_release(built)
    assert model(x=np.zeros((2, 10), np.float32))["logits"].shape == (2, 2)


def test_the_shipped_verifier_needs_neither_us_nor_torch(built, tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", "-X", "importtime", str(built / "verify.py")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert " torch\n" not in done.stderr
    assert " pipeline\n" not in done.stderr
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=built, check=True)


def test_every_command_has_help_that_says_what_it_does(weighbridge):
    commands = ("export", "check", "inspect", "verify", "predict", "report", "backends", "schema")
    overview = weighbridge("--help").out
    for command in commands:
        assert command in overview
        assert weighbridge(command, "--help").code == 0


@pytest.mark.parametrize(
    "arguments",
    [["inspect", "configs/weights/simplenet.pth", "--json"], ["backends", "--json"], ["schema"]],
    ids=" ".join,
)
def test_json_is_exactly_one_document(weighbridge, arguments):
    done = weighbridge(*arguments)
    assert done.code == 0
    assert json.loads(done.out)


def test_the_committed_schema_is_the_codes_own(weighbridge):
    assert json.loads(Path("schema/config.schema.json").read_text()) == json.loads(weighbridge("schema").out)


def test_backends_says_why_not_and_what_to_install(weighbridge):
    from pipeline.backends import probe

    if probe.cuda_device() is None:
        pytest.skip("CUDA works here")
    done = weighbridge("backends")
    assert re.search(r"^onnxruntime-cuda +no: ", done.out, re.MULTILINE)
    assert "install" in done.out


def test_a_report_can_be_shown_again(built, weighbridge):
    done = weighbridge("report", built)
    assert "onnxruntime-cpu" in done.out
    assert "report" in done.out


def test_stdout_and_stderr_are_plain_when_no_terminal(built, weighbridge):
    done = weighbridge("export", "configs/simplenet.yaml", "--out", built.parent.parent, "--no-benchmark")
    assert "\x1b" not in done.out + done.err


def test_what_to_do_next_can_be_pasted_into_a_shell(tmp_path):
    again = next_command("export", tmp_path / "my net.yaml", trust=["mine"], overrides=["a=[1, 2]"], out=Path("out"))
    assert shlex.split(again) == [
        *("weighbridge", "export", str(tmp_path / "my net.yaml")),
        *("--trust", "mine", "--set", "a=[1, 2]", "--out", "out"),
    ]
    assert next_command("check", "net.yaml", trust=None) == "weighbridge check net.yaml"
