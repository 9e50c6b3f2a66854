"""A release proves itself where it lands, and nothing that was done to it passes."""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from pipeline.errors import InputError, UnavailableError, WorkerError
from pipeline.release import bundle, standalone
from pipeline.release.verify import check, verify
from pipeline.storage.store import canonical_json, digest_file


def _shipped(release, cwd, *arguments):
    command = [sys.executable, "-I", str(release / "verify.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_an_untouched_release_passes_and_says_on_what(pristine):
    verdict = verify(pristine)
    assert verdict.problems == ()
    assert verdict.passed
    assert (verdict.name, verdict.version, verdict.cases) == ("tiny", pristine.name, 2)
    assert "onnxruntime-cpu" in verdict.backends
    assert verify(pristine.parent).release == pristine


def test_the_shipped_verifier_passes_from_a_read_only_copy_and_any_directory(release, tmp_path):
    for path in release.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    release.chmod(0o555)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for arguments in ((), (str(release),)):
        done = _shipped(release, elsewhere, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("release: ok: digests, golden cases on onnxruntime-cpu")
    release.chmod(0o755)


def test_the_shipped_verifier_needs_the_standard_library_numpy_and_onnxruntime_only(pristine):
    tree = ast.parse((pristine / "verify.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in imported}
    # cryptography serves --key, and nothing else asks for it.
    assert roots - sys.stdlib_module_names == {"numpy", "onnxruntime", "cryptography"}
    (checker,) = (node for node in ast.walk(tree) if getattr(node, "name", "") == "check_signature")
    asking = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and "crypto" in str(node.module)]
    assert set(asking) == {node for node in ast.walk(checker) if isinstance(node, ast.ImportFrom)}
    assert (pristine / "verify.py").read_bytes() == Path(standalone.__file__).read_bytes()


def test_the_shipped_verifier_fails_without_a_traceback(release, tmp_path):
    (release / "model.onnx").write_bytes(b"")
    done = _shipped(release, tmp_path)
    assert done.returncode == 1
    assert done.stdout == "release: FAILED: 1 problem(s)\n"
    assert done.stderr == "model.onnx: its digest differs from the recorded one\n"


def _flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def _all_files(release):
    return sorted(path for path in release.rglob("*") if path.is_file())


def test_every_flipped_bit_of_every_file_is_found(release):
    rng = random.Random(20)
    for path in _all_files(release):
        bits = 8 * path.stat().st_size
        for bit in rng.sample(range(bits), min(bits, 40)):
            _flip(path, bit)
            assert standalone.check_files(release) + standalone.check_manifest(release), (path, bit)
            _flip(path, bit)
    assert check(release) == []


def test_the_bits_of_the_lists_of_digests_count(release):
    rng = random.Random(21)
    for path in (release / "report" / "SHA256SUMS", release / "SHA256SUMS"):
        for bit in rng.sample(range(8 * path.stat().st_size), 200):
            _flip(path, bit)
            assert standalone.check_files(release), (path, bit)
            _flip(path, bit)


def _edit_manifest(release):
    manifest = json.loads((release / "manifest.json").read_bytes())
    manifest["weights"]["sha256"] = "cd" * 32
    (release / "manifest.json").write_bytes(canonical_json(manifest))


def _resum(release):
    """What a careful forger does: bring the list of digests up to date."""
    names = [name for name in standalone.list_files(release) if not name.startswith("report/") and name != "SHA256SUMS"]
    text = standalone.format_sums({name: digest_file(release / name) for name in names})
    (release / "SHA256SUMS").write_text(text)


def _edit_manifest_and_sums(release):
    _edit_manifest(release)
    _resum(release)


def _raise_version_and_sums(release):
    manifest = json.loads((release / "manifest.json").read_bytes())
    (release / "manifest.json").write_bytes(canonical_json({**manifest, "version": "9.0.0"}))
    _resum(release)


def _reformat_manifest_and_sums(release):
    manifest = json.loads((release / "manifest.json").read_bytes())
    (release / "manifest.json").write_text(json.dumps(manifest, indent=1))
    _resum(release)


def _edit_model_and_sums(release):
    _flip(release / "model.onnx", 900)
    _resum(release)


def _swap(release):
    (release / "model.onnx").rename(release / "x")
    (release / "model.torchscript").rename(release / "model.onnx")
    (release / "x").rename(release / "model.torchscript")


def _link(release):
    (release / "model.onnx").rename(release.parent / "elsewhere")
    (release / "model.onnx").symlink_to(release.parent / "elsewhere")


def _link_directory(release):
    (release / "report").rename(release.parent / "elsewhere")
    (release / "report").symlink_to(release.parent / "elsewhere")


def _pipe(release):
    os.mkfifo(release / "pipe")


_TAMPERS = {
    "added": lambda release: (release / "more.txt").write_bytes(b""),
    "added to the report": lambda release: (release / "report" / "more.txt").write_bytes(b""),
    "added directory": lambda release: (release / "more").mkdir(),
    "added pipe": _pipe,
    "removed model": lambda release: (release / "model.onnx").unlink(),
    "removed verifier": lambda release: (release / "verify.py").unlink(),
    "removed golden cases": lambda release: (release / "golden.safetensors").unlink(),
    "removed sums": lambda release: (release / "SHA256SUMS").unlink(),
    "removed sums of the report": lambda release: (release / "report" / "SHA256SUMS").unlink(),
    "removed from the report": lambda release: (release / "report" / "parity.json").unlink(),
    "renamed": lambda release: (release / "model.onnx").rename(release / "model2.onnx"),
    "swapped": _swap,
    "linked": _link,
    "linked report": _link_directory,
    "edited manifest": _edit_manifest,
    "edited manifest and sums": _edit_manifest_and_sums,
    "raised version and sums": _raise_version_and_sums,
    "reformatted manifest and sums": _reformat_manifest_and_sums,
    "edited model and sums": _edit_model_and_sums,
    "emptied": lambda release: (release / "model.onnx").write_bytes(b""),
    "appended": lambda release: (release / "SHA256SUMS").open("a").write("\n"),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("tamper", _TAMPERS.values(), ids=_TAMPERS)
def test_no_tampering_passes(release, tamper):
    tamper(release)
    verdict = verify(release)
    assert not verdict.passed
    assert verdict.backends == ()  # nothing of a tampered release is run
    assert standalone.main([str(release)]) == 1  # verify.py, which need not be the tampered release's own


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
)  # fmt: skip


@settings(max_examples=200)
@given(_JSON)
def test_the_shipped_verifier_writes_canonical_json_as_it_was_read(value):
    text = canonical_json(value)
    read = json.loads(text, parse_int=standalone._Number, parse_float=standalone._Number)
    assert standalone._canonical(read).encode() == text


@pytest.mark.parametrize(
    "manifest",
    [b"", b"[]", b"{}", b'{"schema_version":2}', b'{"schema_version":1}', b'{"schema_version":1,"files":1}', b"\xff"],
)
def test_a_manifest_of_another_form_fails_and_does_not_crash(release, manifest):
    (release / "manifest.json").write_bytes(manifest)
    _resum(release)
    assert not verify(release).passed
    assert standalone.main([str(release)]) == 1


def _with_model(content, changed, tmp_path, edit):
    """A release whose digests are right and whose network is not: only the golden cases can tell."""
    model = onnx.load(content.models[0].path)
    edit(model.graph)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    models = (bundle.ModelFile("onnx", "onnx", "model.onnx", path), content.models[1])
    return bundle.write(changed(models=models), tmp_path)


def _scale_weight(graph):
    weight = numpy_helper.to_array(graph.initializer[0]) * np.float32(1.001)
    graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight"))


def _negate(graph):
    graph.node[1].op_type = "Sin"


def _rename_output(graph):
    graph.node[2].output[0] = graph.output[1].name = "other"


@pytest.mark.parametrize("edit", [_scale_weight, _negate, _rename_output])
def test_a_model_that_computes_something_else_fails_its_golden_cases(content, changed, tmp_path, edit):
    release = _with_model(content, changed, tmp_path, edit)
    assert check(release) == []
    verdict = verify(release)
    assert verdict.backends
    assert all(problem.startswith("onnxruntime-") for problem in verdict.problems)
    assert len(verdict.problems) >= 2
    done = _shipped(release, tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_model_that_does_not_load_fails(content, changed, tmp_path):
    (tmp_path / "garbage").write_bytes(b"garbage")
    models = (bundle.ModelFile("onnx", "onnx", "model.onnx", tmp_path / "garbage"), content.models[1])
    release = bundle.write(changed(models=models), tmp_path)
    assert verify(release).problems == ("model.onnx: it is a text file, not an ONNX model",)


def _unknown_operator(graph):
    graph.node[0].op_type = "NoSuchOperator"


def test_a_model_that_no_runtime_takes_fails(content, changed, tmp_path):
    release = _with_model(content, changed, tmp_path, _unknown_operator)
    assert any("onnxruntime-cpu: " in problem for problem in verify(release).problems)


def _run(backend, file, inputs):
    assert backend == "torchscript"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is", category=DeprecationWarning)
        module = torch.jit.load(str(file))
    logits, best = module(torch.from_numpy(inputs["x"].copy()))
    return {"logits": logits.detach().numpy(), "best": best.numpy()}


def test_other_backends_run_where_the_caller_runs_them(pristine):
    verdict = verify(pristine, backends=["torchscript"], run=_run)
    assert (verdict.backends, verdict.problems) == (("torchscript",), ())


def test_a_backend_that_crashes_is_a_failed_check(pristine):
    def crash(*_):
        raise WorkerError("died of signal 11")

    verdict = verify(pristine, backends=["torchscript"], run=crash)
    assert len(verdict.problems) == 2
    assert "died of signal 11" in verdict.problems[0]


def test_a_backend_that_cannot_run_or_does_not_exist_is_an_error_not_a_pass(pristine):
    with pytest.raises(UnavailableError, match="torchscript cannot run here"):
        verify(pristine, backends=["torchscript"])
    with pytest.raises(InputError, match="no backend 'onnx'"):
        verify(pristine, backends=["onnx"])
    with pytest.raises(InputError, match="eager runs the network itself"):
        verify(pristine, backends=["eager"])


def test_without_a_backend_that_runs_nothing_is_proven(content, changed, tmp_path):
    release = bundle.write(changed(models=content.models[1:]), tmp_path)
    assert not verify(release).passed


def test_a_release_without_its_report_is_not_whole(release):
    shutil.rmtree(release / "report")
    verdict = verify(release)
    assert any("report/" in problem for problem in verdict.problems)
    assert _shipped(release, release).returncode == 1


# Against a config


def test_a_release_is_held_against_the_config_and_the_network_it_was_built_from(built, weighbridge):
    done = weighbridge("verify", built, "--against", "configs/simplenet.yaml", "--json")
    verdict = json.loads(done.out)
    assert (done.code, verdict["passed"]) == (0, True)
    assert {"eager", "torchscript", "onnxruntime-cpu"} <= set(verdict["backends"])


def test_another_config_or_other_weights_are_named(built, tmp_path, weighbridge):
    weights = torch.load("configs/weights/simplenet.pth", weights_only=True)
    torch.save({name: tensor * 1.01 for name, tensor in weights.items()}, tmp_path / "other.pth")
    config = tmp_path / "other.yaml"
    text = Path("configs/simplenet.yaml").read_text().replace("weights/simplenet.pth", str(tmp_path / "other.pth"))
    config.write_text(
        "".join(line for line in text.splitlines(keepends=True) if "sha256" not in line).replace("max: 64", "max: 32")
    )
    done = weighbridge("verify", built, "--against", config)
    assert done.failed_with(
        1, "config.dimensions.batch.max: the release has 64, the config gives 32", "weights: ", "eager: "
    )


def test_a_network_with_other_outputs_is_told_from_what_its_config_states_and_not_run(built, tmp_path, weighbridge):
    config = tmp_path / "other.yaml"
    text = Path("configs/simplenet.yaml").read_text().replace("outputs: [logits]", "outputs: [scores]")
    config.write_text(text.replace("weights/simplenet.pth", str(Path("configs/weights/simplenet.pth").resolve())))
    done = weighbridge("verify", built, "--against", config)
    assert done.failed_with(1, 'config.outputs: the release has ["logits"], the config gives ["scores"]')
    assert len(done.err.splitlines()) == 2  # and where that is explained
