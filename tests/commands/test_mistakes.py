"""The mistakes people arrive with: each gets one clear message with the fix, the documented exit code, no traceback."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

SIMPLENET = Path("configs/simplenet.yaml").resolve()
WEIGHTS = Path("configs/weights/simplenet.pth").resolve()


@pytest.fixture
def project(tmp_path):
    """A config beside a folder of weights; `write` replaces the weights file or a line of the config."""
    text = SIMPLENET.read_text().replace("weights/simplenet.pth", str(tmp_path / "my_model.pth"))
    lines = [line for line in text.splitlines() if not line.strip().startswith(("sha256:", "#"))]
    (tmp_path / "simplenet.yaml").write_text("\n".join(lines) + "\n")
    (tmp_path / "my_model.pth").write_bytes(WEIGHTS.read_bytes())
    return tmp_path


def edited(project, old, new):
    path = project / "simplenet.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_the_right_config_passes_check_and_shows_the_plan(project, weighbridge):
    done = weighbridge("check", project / "simplenet.yaml")
    assert done.code == 0, done.err
    for part in ("SimpleNet", "262 parameters", "batch", "torchscript: required", "next: weighbridge export"):
        assert part in done.out


# --- the weights file -------------------------------------------------------------------------------------------------


def test_missing_weights_list_what_lies_beside_them(project, weighbridge):
    (project / "my_model.pth").rename(project / "my_modle.pth")
    done = weighbridge("export", project / "simplenet.yaml")
    assert done.failed_with(2, "my_model.pth", "my_modle.pth")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (WEIGHTS.read_bytes()[:1500], "truncated"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 3437\n", "git lfs pull"),
        (b"just some text\n" * 20, "text"),
        (np.random.default_rng(0).bytes(4000), "my_model.pth"),
    ],
    ids=["empty", "truncated", "html", "lfs", "text", "noise"],
)
@pytest.mark.parametrize("command", ["export", "check"])
def test_a_file_that_is_no_state_dict_is_called_what_it_is(project, weighbridge, command, content, words):
    (project / "my_model.pth").write_bytes(content)
    done = weighbridge(command, project / "simplenet.yaml")
    assert done.failed_with(2, "my_model.pth", words)


def test_layers_under_names_that_say_nothing_are_not_guessed(project, weighbridge):
    state = nn.ModuleDict({"b": nn.Linear(8, 8), "a": nn.Linear(8, 8)}).state_dict()
    torch.save(dict(sorted(state.items())), project / "my_model.pth")
    done = weighbridge(
        "check", project / "simplenet.yaml", "--set", "model.arguments={input_size: 8, hidden_size: 8, output_size: 8}"
    )
    assert done.failed_with(
        2,
        "a, b in my_model.pth: fc1, fc2 in SimpleNet",
        "nothing decides",
        "fix:   write model.rename for these by hand",
    )
    assert "set model" not in done.err


def test_a_whole_pickled_model_is_answered_with_how_to_get_its_state_dict(project, weighbridge):
    torch.save(nn.Sequential(nn.Linear(10, 20)), project / "my_model.pth")
    done = weighbridge("check", project / "simplenet.yaml")
    assert done.failed_with(2, "state_dict()", "Sequential")


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(project, weighbridge):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (project / "marker",))

    (project / "my_model.pth").write_bytes(pickle.dumps(Payload()))
    done = weighbridge("check", project / "simplenet.yaml")
    assert done.code == 3
    assert not (project / "marker").exists()


def test_weights_of_another_size_name_the_argument_and_both_numbers(project, weighbridge):
    edited(project, "hidden_size: 20", "hidden_size: 30")
    done = weighbridge("check", project / "simplenet.yaml")
    assert done.failed_with(2, "[20, 10]", "[30, 10]", "model.arguments.hidden_size", "to 20", "simplenet.yaml:")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"epoch": 7, "model_state_dict": state, "optimizer_state_dict": {"lr": 0.1}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"_orig_mod.{key}": value for key, value in state.items()}},
    ],
    ids=["wrapped", "module.", "both"],
)
def test_a_wrapped_or_prefixed_checkpoint_is_handled_and_said(project, weighbridge, wrap):
    torch.save(wrap(torch.load(WEIGHTS, weights_only=True)), project / "my_model.pth")
    done = weighbridge("check", project / "simplenet.yaml")
    assert done.code == 0, done.err
    assert "unwrapped" in done.out or "prefix" in done.out


def test_a_file_with_several_state_dicts_is_asked_about_and_never_guessed_at(project, weighbridge):
    state = torch.load(WEIGHTS, weights_only=True)
    other = {"fc1.weight": torch.ones(3, 10), "fc1.bias": torch.ones(3)}
    torch.save({"discriminator": other, "generator": state, "ema": dict(state)}, project / "my_model.pth")
    for command in ("check", "export"):
        done = weighbridge(command, project / "simplenet.yaml", "--out", project / "out")
        assert done.failed_with(2, "3 state dicts", "another network", "an average of it", "model.key: discriminator")
    assert weighbridge("check", project / "simplenet.yaml", "--set", "model.key=generatr").failed_with(
        2, "'generatr'", "nearest valid: 'generator'"
    )
    for chosen in ("model.key=generator", f"model.weights={project}/my_model.pth#ema"):
        done = weighbridge("check", project / "simplenet.yaml", "--set", chosen)
        assert done.code == 0, done.err
        assert "as asked, of 3 state dicts" in done.out
    twice = ("--set", "model.key=generator", "--set", f"model.weights={project}/my_model.pth#ema")
    done = weighbridge("check", project / "simplenet.yaml", *twice)
    assert done.failed_with(2, "model.key is 'generator'", "names 'ema'", "--set")
    done = weighbridge("inspect", f"{project}/my_model.pth#ema")
    assert "state dict under: ema" in done.out
    assert "fc1" in weighbridge("inspect", project / "my_model.pth").out


def test_another_file_than_the_config_was_written_for_is_a_digest_mismatch(project, weighbridge):
    edited(project, "weights:", f"sha256: {'ab' * 32}\n  weights:")
    assert weighbridge("check", project / "simplenet.yaml").failed_with(1, "ab" * 32, "sha256")


# --- the config -------------------------------------------------------------------------------------------------------


def test_a_missing_config_lists_the_ones_there_are(project, weighbridge):
    done = weighbridge("export", project / "simpelnet.yaml")
    assert done.failed_with(2, "simpelnet.yaml", "simplenet.yaml")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("outputs: [logits]", "outputs: [logits", ["simplenet.yaml:"]),
        ("hidden_size: 20", "hiden_size: 20", ["hiden_size", "hidden_size", "simplenet.yaml:"]),
        ("dimensions:", "dimentions:", ["dimentions", "dimensions", "simplenet.yaml:"]),
        ("dtype: float32", "dtype: float31", ["float31", "float32", "simplenet.yaml:"]),
        ("max: 64", "max: many", ["max", "simplenet.yaml:"]),
        (":SimpleNet", ":SimpelNet", ["SimpelNet", "SimpleNet"]),
        ("architectures.simplenet:", "architectures.simplnet:", ["simplnet", "simplenet"]),
        ("onnxruntime-cuda]", "onnxruntime-gpu]", ["onnxruntime-gpu", "nearest valid: 'onnxruntime-cpu'"]),
        ("[torchscript, onnx]", "[torchscript, onxx]", ["onxx", "nearest valid: 'onnx'"]),
    ],
    ids=["unparsable", "argument", "key", "dtype", "type", "class", "module", "backend", "format"],
)
def test_a_mistake_in_the_config_is_placed_and_corrected(project, weighbridge, old, new, words):
    path = edited(project, old, new)
    assert weighbridge("check", path).failed_with(2, *words)


def test_all_mistakes_are_told_at_once(project, weighbridge):
    edited(project, "dtype: float32", "dtype: float31")
    edited(project, "max: 64", "max: many")
    done = weighbridge("check", project / "simplenet.yaml")
    assert done.failed_with(2, "float31", "many")


def test_an_untrusted_architecture_is_refused_with_the_flag_that_trusts_it(project, weighbridge):
    path = edited(project, "pipeline.architectures.simplenet:SimpleNet", "os:system")
    assert weighbridge("check", path).code == 3
    path = edited(project, "os:system", "tests.formats.networks:Norm")
    assert weighbridge("check", path).failed_with(3, "--trust")


def test_a_required_backend_that_is_not_here_says_what_to_install(project, weighbridge):
    from pipeline.backends import probe

    if probe.onnxruntime_cuda() is None:
        pytest.skip("CUDA works here")
    done = weighbridge(
        "export", project / "simplenet.yaml", "--set", "require=[onnxruntime-cuda]", "--out", project / "out"
    )
    assert done.failed_with(4, "onnxruntime-cuda", "install")
    assert not (project / "out").exists()


def test_a_wrong_command_line_is_exit_2(weighbridge):
    for arguments in (["exprot"], ["export"], ["export", "--nonsense"], ["predict", "x"]):
        done = weighbridge(*arguments)
        assert done.code == 2
        assert "Traceback" not in done.err


def test_errors_in_json_are_one_document_on_stdout(project, weighbridge):
    edited(project, "max: 64", "max: many")
    done = weighbridge("check", project / "simplenet.yaml", "--json")
    document = json.loads(done.out)
    assert done.code == document["checks"][0]["exit_code"] == 2
    assert "many" in document["checks"][0]["error"]["message"]


def test_one_bad_config_does_not_stop_the_others(project, weighbridge):
    done = weighbridge("check", project / "missing.yaml", SIMPLENET, "--json")
    codes = [each["exit_code"] for each in json.loads(done.out)["checks"]]
    assert codes == [2, 0]
    assert done.code == 2


# --- running a release ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((1, 10)), ["float64", "float32"]),
        (np.zeros(10, np.float32), ["[10]", "[batch, 10]"]),
        (np.zeros((1, 9), np.float32), ["[1, 9]", "[batch, 10]"]),
        (np.zeros((0, 10), np.float32), ["batch is 0"]),
    ],
    ids=["dtype", "rank", "size", "range"],
)
def test_an_input_that_does_not_fit_is_told_what_is_declared(built, tmp_path, weighbridge, array, words):
    np.save(tmp_path / "x.npy", array)
    assert weighbridge("predict", built, "--input", tmp_path / "x.npy").failed_with(2, *words)


def test_a_missing_input_is_named(built, tmp_path, weighbridge):
    np.savez(tmp_path / "x.npz", y=np.zeros((1, 10), np.float32))
    assert weighbridge("predict", built, "--input", tmp_path / "x.npz").failed_with(2, "missing x", "unknown y")
    assert weighbridge("predict", built, "--input", tmp_path / "none.npy").failed_with(2, "none.npy")


def test_a_release_that_is_not_there_is_answered_with_what_is(built, weighbridge):
    assert weighbridge("verify", built.parent.parent).failed_with(2, "holds no release", built.parent.name)


def test_a_changed_release_fails_verification(built, tmp_path, weighbridge):
    import shutil

    copy = tmp_path / "simplenet" / built.name
    shutil.copytree(built, copy)
    assert weighbridge("verify", copy).code == 0
    path = copy / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = weighbridge("verify", copy)
    assert done.code == 1
    assert "model.onnx" in done.err
    assert weighbridge("predict", copy, "--input", tmp_path / "x.npy").code in {1, 2}


@pytest.mark.parametrize(
    ("options", "fix"),
    [(["--with-cache"], "leave it out"), (["--save-weights", "new.safetensors"], "weighbridge inspect my_model.pth --save-weights new.safetensors")],
)  # fmt: skip
def test_what_only_a_hugging_face_folder_has_is_refused_for_a_file(project, weighbridge, monkeypatch, options, fix):
    monkeypatch.chdir(project)
    done = weighbridge("init", "my_model.pth", *options)
    assert done.failed_with(2, f"{options[0]} is for a folder that transformers saved", fix)
