"""From a config to a release, for real; and every sabotage on the way must close the gate."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from pipeline.architectures.bert import BertEncoder
from pipeline.errors import GateError, UnavailableError
from pipeline.formats.artifact import Written
from pipeline.parity import prove
from pipeline.release import standalone
from pipeline.release.standalone import check_files
from pipeline.release.verify import verify
from pipeline.run.export import export
from pipeline.run.plan import Settings, plan
from pipeline.run.stages.proving import PROVE, prove_all
from pipeline.run.stages.results import Exported, Inputs, Released
from pipeline.run.stages.state import State, run
from pipeline.run.stages.table import STAGES
from pipeline.worker.inprocess import InProcessRunner
from tests.formats import networks

SMALL = {"vocab_size": 99, "hidden_size": 32, "layers": 2, "heads": 4, "intermediate_size": 64, "max_positions": 16}
SIMPLENET = Path("configs/simplenet.yaml")
NORM = """
name: norm
model: {architecture: "tests.formats.networks:Norm", weights: norm.pth}
inputs:
  x: {dtype: float32, shape: [batch, 4]}
dimensions: {batch: {min: 2, max: 16}}
outputs: [y]
exports: [torchscript, onnx]
backends: [torchscript, onnxruntime-cpu]
benchmark: {reference: torchscript}
"""


def until(stage, config, out, **settings):
    """Run the stages up to and including one, in this process unless told otherwise; return the state."""
    chosen = Settings(**{"out": out, "runner": InProcessRunner()} | settings)
    work = out / "work"
    work.mkdir(parents=True)
    names = [each.name for each in STAGES]
    return run(State(plan(config, chosen), chosen, work), STAGES[: names.index(stage) + 1])


def sabotaged(state, format_, change):
    """Return the state with one exported file changed by `change(path)`, which edits a copy of it, with those beside it."""
    folder = state.work / f"sabotaged-{len(list(state.work.iterdir()))}"
    folder.mkdir()
    exported = state.need(Exported)
    victim = exported.named(format_)
    copies = tuple(Path(shutil.copyfile(each, folder / each.name)) for each in victim.files)
    change(copies[0])
    facts = {name: each for name, each in victim.written.facts.items() if name != "method"}  # no exporter made it
    changed = replace(victim, written=Written(copies, facts))
    others = tuple(changed if each is victim else each for each in exported.artifacts)
    return state.adding(replace(exported, artifacts=others))


def proven(state):
    """Hold every backend against the network and ask the gate, without explaining what closes it; return what was proven."""
    found = prove_all(state)
    prove.gate(found.proofs)
    return found


def released(state):
    """Run what follows the exports; return the release."""
    return run(state, STAGES[2:]).need(Released).path


def edit_onnx(change):
    def apply(path):
        model = onnx.load(path)
        change(model)
        onnx.save(model, path)

    return apply


@pytest.fixture(scope="module")
def simplenet(tmp_path_factory):
    return until("export", SIMPLENET, tmp_path_factory.mktemp("simplenet"))


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transformer")
    torch.manual_seed(0)
    state = BertEncoder(**SMALL).state_dict()
    # As small as trained ones are: an epsilon tells.
    torch.save(
        {name: 0.02 * each if "embeddings" in name else each for name, each in state.items()}, folder / "small.pth"
    )
    config = folder / "transformer.yaml"
    config.write_text(
        f"extends: {Path('configs/minilm.yaml').resolve()}\nname: transformer\n"
        f"model: {{weights: small.pth, sha256: null, arguments: {json.dumps(SMALL)}}}\n"
        "exports: [onnx]\nbackends: [onnxruntime-cpu]\nrequire: [onnxruntime-cpu]\n"
        "inputs: {input_ids: {high: 99}}\ndimensions: {length: {max: 16}}\n"
        "benchmark: {reference: onnxruntime-cpu, sizes: []}\nparity: {cap_elements: 64}\n"
    )
    return until("export", config, folder)


def test_a_healthy_export_passes_on_every_backend(simplenet):
    found = proven(simplenet)
    status = {proof.variant.name: proof.status for proof in found.proofs if proof.status != "unavailable"}
    assert status.keys() >= {"eager", "torchscript", "onnxruntime-cpu"}
    assert set(status.values()) == {"pass"}
    assert all(proof.worst.factor < 8 for proof in found.proofs if proof.worst)


def test_the_network_itself_is_in_the_cases_at_sizes_no_exporter_saw(simplenet):
    sizes = {case.sizes["batch"] for case in simplenet.need(Inputs).cases}
    assert {1, 64} <= sizes
    assert len(sizes) >= 4


def one_weight(model):
    tensor = next(each for each in model.graph.initializer if len(each.dims) == 2)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[np.abs(values).argmax()] *= 1.02
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def half_precision(model):
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16).astype(np.float32), tensor.name))


def no_bias(model):
    node = next(each for each in model.graph.node if each.op_type == "Gemm")
    del node.input[2]


@pytest.mark.parametrize("change", [one_weight, half_precision, no_bias], ids=lambda each: each.__name__)
def test_a_changed_onnx_file_closes_the_gate_and_leaves_a_report_but_no_release(simplenet, change):
    state = sabotaged(simplenet, "onnx", edit_onnx(change))
    with pytest.raises(GateError, match=r"onnxruntime-cpu: .*logits") as caught:
        run(state, [PROVE])
    assert caught.value.exit_code == 1
    folder = state.settings.out / "simplenet"
    report = json.loads((folder / "failed" / "report" / "parity.json").read_bytes())
    assert next(each for each in report["backends"] if each["name"] == "onnxruntime-cpu")["status"] == "fail"
    assert not (folder / "latest").exists()
    assert str(folder / "failed") in caught.value.message
    assert "the error begins in Gemm" in (folder / "failed" / "report" / "report.md").read_text()


def test_a_changed_torchscript_file_closes_the_gate(simplenet):
    def change(path):
        module = torch.jit.load(str(path))
        with torch.no_grad():
            next(module.parameters()).mul_(1.001)
        module.save(str(path))

    with pytest.raises(GateError, match=r"torchscript: .*logits"):
        proven(sabotaged(simplenet, "torchscript", change))


def rewired(names):
    """Let graph outputs be what other outputs were."""

    def change(model):
        shapes = {each.name: each for each in model.graph.output}
        renamed = {name: f"{name}_before" for name in shapes}
        for node in model.graph.node:
            for index, name in enumerate(node.output):
                node.output[index] = renamed.get(name, name)
            for index, name in enumerate(node.input):
                node.input[index] = renamed.get(name, name)
        for old, new in names.items():
            model.graph.node.append(onnx.helper.make_node("Identity", [renamed[old]], [new]))

    return change


def test_swapped_outputs_are_named(tmp_path):
    folder = _config(tmp_path, "two", "tests.formats.networks:Pair", networks.Pair(), "[first, second]")
    state = until("export", folder, tmp_path / "out", trust=("tests.formats",))
    with pytest.raises(GateError, match="outputs are swapped"):
        proven(sabotaged(state, "onnx", edit_onnx(rewired({"first": "second", "second": "first"}))))


def test_a_dropped_output_is_named(transformer):
    def drop(model):
        gone = next(each for each in model.graph.output if each.name == "pooler_output")
        model.graph.output.remove(gone)

    state = sabotaged(transformer, "onnx", edit_onnx(drop))
    with pytest.raises(GateError, match=r"'pooler_output' .*missing"):
        proven(state)


def test_gelu_swapped_for_its_tanh_form_closes_the_gate(transformer):
    def swap(model):
        node = next(each for each in model.graph.node if each.op_type == "Gelu")
        del node.attribute[:]
        node.attribute.append(onnx.helper.make_attribute("approximate", "tanh"))

    with pytest.raises(GateError, match=r"last_hidden_state|pooler_output"):
        proven(sabotaged(transformer, "onnx", edit_onnx(swap)))


def test_a_changed_epsilon_closes_the_gate(transformer):
    def change(model):
        node = next(each for each in model.graph.node if each.op_type == "LayerNormalization")
        next(each for each in node.attribute if each.name == "epsilon").f = 1e-5

    with pytest.raises(GateError, match=r"last_hidden_state|pooler_output"):
        proven(sabotaged(transformer, "onnx", edit_onnx(change)))


def test_a_healthy_transformer_passes(transformer):
    assert proven(transformer).proofs[0].status == "pass"


def test_dropout_left_in_training_mode_closes_the_gate(tmp_path):
    config = _config(tmp_path, "norm", "tests.formats.networks:Dropped", networks.Dropped(), "[y]")
    state = until("export", config, tmp_path / "out", trust=("tests.formats",))
    module = networks.Dropped()
    module.load_state_dict(torch.load(tmp_path / "norm.pth", weights_only=True))

    def in_training(path):
        torch.jit.script(module.train()).save(str(path))

    with pytest.raises(GateError, match=r"torchscript: .*'y'"):
        proven(sabotaged(state, "torchscript", in_training))


def test_a_trace_that_baked_in_a_branch_closes_the_gate(tmp_path):
    config = _config(tmp_path, "branch", "tests.formats.networks:Branch", networks.Branch(), "[y]")
    text = config.read_text().replace("exports: [torchscript, onnx]", "exports: [{format: torchscript, method: trace}]")
    config.write_text(text.replace("backends: [torchscript, onnxruntime-cpu]", "backends: [torchscript]"))
    with pytest.raises(GateError, match=r"torchscript: output 'y' in case"):
        until("parity", config, tmp_path / "out", trust=("tests.formats",), runner=None)


def test_a_backend_that_is_not_required_may_fail_but_its_file_does_not_ship(tmp_path):
    config = _config(tmp_path, "norm", "tests.formats.networks:Norm", networks.Norm(), "[y]")
    config.write_text(config.read_text() + "require: [torchscript]\n")
    state = until("export", config, tmp_path / "out", trust=("tests.formats",), benchmark=False)

    release = released(sabotaged(state, "onnx", edit_onnx(one_weight)))
    assert not (release / "model.onnx").exists()
    assert (release / "model.torchscript").is_file()
    assert check_files(release) == []


def test_a_file_that_failed_its_audit_does_not_ship_even_where_its_outputs_are_right_and_nobody_requires_it(tmp_path):
    config = _config(tmp_path, "norm", "tests.formats.networks:Norm", networks.Norm(), "[y]")
    config.write_text(config.read_text() + "require: [torchscript]\n")
    state = until("export", config, tmp_path / "out", trust=("tests.formats",), benchmark=False)

    def one_ulp(model):
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor).copy()
            if values.dtype == np.float32 and values.size > 1:
                values.flat[0] = np.nextafter(values.flat[0], np.float32(np.inf))
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    state = sabotaged(state, "onnx", edit_onnx(one_ulp))
    judged = next(each for each in prove_all(state).proofs if each.variant.name == "onnxruntime-cpu")
    assert all(each.passed for each in judged.findings)
    assert judged.status == "fail"
    release = released(state)
    assert not (release / "model.onnx").exists()
    assert json.loads((release / "manifest.json").read_bytes())["backends"].keys() == {"torchscript"}


TWO = (
    "exports=[onnx, {name: onnx-18, format: onnx, opset: 18}]",
    "backends=[eager, onnxruntime-cpu, {name: ort-18, backend: onnxruntime-cpu, artifact: onnx-18}]",
    "require=[onnxruntime-cpu, ort-18]",
    "gates={onnx-18: {atol: 0.001, rtol: 0}}",
)


def test_two_artifacts_of_one_format_have_files_verdicts_gates_and_golden_limits_of_their_own(tmp_path):
    state = until("export", SIMPLENET, tmp_path, benchmark=False, overrides=TWO)
    assert {each.name: each.files[0].name for each in state.need(Exported).artifacts} == {
        "onnx": "model.onnx",
        "onnx-18": "onnx-18.onnx",
    }
    with pytest.raises(GateError, match="ort-18: output 'logits'") as caught:
        proven(sabotaged(state, "onnx-18", edit_onnx(one_weight)))
    assert "onnxruntime-cpu" not in str(caught.value)
    release = released(state)
    manifest = standalone.read_manifest(release)
    opsets = {each["name"]: onnx.load(release / each["path"]).opset_import[0].version for each in manifest["models"]}
    assert opsets == {"onnx": 20, "onnx-18": 18}
    assert manifest["backends"]["ort-18"]["artifact"] == "onnx-18"
    assert verify(release).passed
    assert subprocess.run([sys.executable, release / "verify.py"], check=False, capture_output=True).returncode == 0
    golden = standalone.read_golden(release / standalone.GOLDEN)
    off = {
        each["name"]: [
            problem
            for case in golden.cases
            for problem in standalone.judge(
                standalone.gated(golden, manifest, each["path"]),
                case,
                {name: value + np.float32(5e-4) for name, value in case.outputs.items()},
            )
        ]
        for each in manifest["models"]
    }
    assert off["onnx"]
    assert off["onnx-18"] == []


def test_a_required_backend_that_cannot_run_here_stops_before_any_work(tmp_path):
    from pipeline.backends import probe

    if probe.onnxruntime_cuda() is None:
        pytest.skip("CUDA works here")
    settings = Settings(out=tmp_path, overrides=("require=[onnxruntime-cuda]",))
    with pytest.raises(UnavailableError, match="onnxruntime-cuda cannot run here") as caught:
        export(SIMPLENET, settings)
    assert caught.value.exit_code == 4
    assert "install" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_resnet18_is_exported_from_ones_own_weights(tmp_path):
    """Transfer learning, the commonest case: another class count, a checkpoint wrapped by a training loop."""
    from pipeline.architectures.resnet import ResNet

    torch.manual_seed(0)
    state = {f"module.{key}": value for key, value in ResNet(depth=18, num_classes=7).state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "mine.pth")
    overrides = (
        f"model.weights={tmp_path / 'mine.pth'}",
        "model.arguments={depth: 18, num_classes: 7}",
        "parity.cap_elements=160000",
    )
    outcome = export(
        Path("configs/resnet18.yaml"), Settings(out=tmp_path / "out", overrides=overrides, benchmark=False)
    )
    parity = json.loads((outcome.release / "report" / "parity.json").read_bytes())
    assert {each["name"] for each in parity["backends"] if each["status"] == "pass"} >= {
        "torchscript",
        "onnxruntime-cpu",
    }
    assert any("module." in note for note in parity["notes"])
    assert any("state_dict" in note for note in parity["notes"])


def _config(folder, name, architecture, network, outputs):
    torch.save(networks.made(network).state_dict(), folder / f"{name}.pth")
    config = folder / f"{name}.yaml"
    text = NORM.replace("tests.formats.networks:Norm", architecture).replace("norm", name, 1)
    config.write_text(text.replace("norm.pth", f"{name}.pth").replace("[y]", outputs))
    return config
