"""Rebuilding and loading: strict, in eval mode, without gradients, whatever the constructor does."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from pipeline.config.text import parse_value
from pipeline.errors import ArchitectureError, MisfitError, UnsafeError
from pipeline.formats import program
from pipeline.formats.format import FromNetwork
from pipeline.formats.onnx import audit, graph
from pipeline.formats.onnx import export as onnx
from pipeline.formats.torchscript import audit as scripted
from pipeline.formats.torchscript import export as torchscript
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.parity import jobs, oracle
from pipeline.rebuild import cases, model
from pipeline.rebuild.network import Network
from tests.formats import networks

PLACES = {"model.arguments": "config.yaml:4:3"}


class Plain(nn.Module):
    def __init__(self, size: int = 4):
        super().__init__()
        self.fc = nn.Linear(size, size)
        self.norm = nn.BatchNorm1d(size)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.fc(x)))


class Tied(nn.Module):
    """One tensor under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


class TiedTo(nn.Module):
    """A language model in miniature, tied in either order, by the parameter or by its memory, or not at all."""

    def __init__(self, tie: bool = True, way: str = "head is embed"):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        if tie and way == "head is embed":
            self.head.weight = self.embed.weight
        elif tie and way == "embed is head":
            self.embed.weight = self.head.weight
        elif tie:
            self.head.weight = nn.Parameter(self.embed.weight.data)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(x))


class Computed(nn.Module):
    """A buffer that is not in the state dict, and a plain tensor attribute: both come from the constructor."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("scale", torch.arange(4.0), persistent=False)
        self.shift = torch.full((4,), 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * self.scale + self.shift


class Recurrent(nn.Module):
    """An LSTM keeps a flat list of its weights beside them."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x.unsqueeze(1))[0]


class Looks(nn.Module):
    """A constructor that looks at values, which the meta device does not have."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.largest = float(torch.arange(3.0).max())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * self.largest


def loaded(network, folder, **arguments):
    torch.save(network.state_dict(), folder / "weights.pth")
    return model.load(described(type(network).__name__, folder, **arguments))


def described(name, folder, **arguments):
    return Network(
        f"tests.rebuild.test_model:{name}",
        arguments,
        str(folder / "weights.pth"),
        ("tests.rebuild.test_model",),
        PLACES,
    )


@pytest.mark.parametrize("kind", [Plain, Tied, Computed, Recurrent, Looks], ids=lambda each: each.__name__)
def test_a_loaded_network_computes_what_the_saved_one_did(kind, tmp_path):
    torch.manual_seed(1)
    network = kind().eval()
    x = torch.randn(3, 4)
    result = loaded(network, tmp_path).module(x)
    torch.testing.assert_close(result, network(x), rtol=0, atol=0)
    assert not result.requires_grad


@pytest.mark.parametrize("way", ["head is embed", "embed is head", "one memory"])
@pytest.mark.parametrize("left_out", ["head.weight", "embed.weight"])
def test_one_name_of_a_tied_tensor_is_enough_and_it_is_said(way, left_out, tmp_path):
    torch.manual_seed(2)
    network = TiedTo(way=way)
    state = network.state_dict()
    kept = ({*state} - {left_out}).pop()
    torch.save({kept: state[kept]}, tmp_path / "weights.pth")
    found = model.load(described("TiedTo", tmp_path, way=way))
    x = torch.arange(5)
    torch.testing.assert_close(found.module(x), network(x), rtol=0, atol=0)
    assert f"{left_out} is {kept}, which was loaded" in found.notes


def test_a_tensor_that_is_not_tied_is_missing_and_the_switch_that_ties_it_is_named(tmp_path):
    torch.save({"embed.weight": torch.zeros(5, 4)}, tmp_path / "weights.pth")
    with pytest.raises(MisfitError, match=r"head\.weight is in TiedTo.*: set model\.arguments\.tie to True"):
        model.load(described("TiedTo", tmp_path, tie=False))


def test_two_tensors_of_a_file_do_not_become_one_of_a_network(tmp_path):
    network = TiedTo(tie=False)
    with torch.no_grad():
        network.embed.weight.copy_(network.head.weight)
        network.embed.weight[2, 1] += 0.25
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(MisfitError) as caught:
        model.load(described("TiedTo", tmp_path))
    assert caught.value.message == (
        "embed.weight and head.weight are one tensor in TiedTo and two in weights.pth, which differ by up to 0.25"
    )
    assert "set model.arguments.tie to False (config.yaml:4:3)" in caught.value.hint
    assert model.load(described("TiedTo", tmp_path, tie=False)).module.embed.weight[2, 1] == network.embed.weight[2, 1]


class Views(nn.Module):
    """Buffers that are parts of one memory."""

    def __init__(self):
        super().__init__()
        memory = torch.zeros(8)
        self.register_buffer("first", memory[:4])
        self.register_buffer("second", memory[4:])
        self.register_buffer("middle", memory[2:6])


@pytest.mark.parametrize(("middle", "fits"), [([3.0, 4.0, 5.0, 6.0], True), ([0.0, 4.0, 5.0, 6.0], False)])
def test_parts_of_one_memory_load_if_the_file_agrees_with_itself(middle, fits, tmp_path):
    state = {"first": torch.arange(1.0, 5.0), "second": torch.arange(5.0, 9.0), "middle": torch.tensor(middle)}
    torch.save(state, tmp_path / "weights.pth")
    if fits:
        held = model.load(described("Views", tmp_path)).module.state_dict()
        assert all(torch.equal(held[name], tensor) for name, tensor in state.items())
        return
    with pytest.raises(MisfitError, match="differ by up to 3"):
        model.load(described("Views", tmp_path))


def test_not_a_number_in_both_names_of_a_tied_tensor_is_the_same(tmp_path):
    state = {"embed.weight": torch.full((5, 4), torch.nan), "head.weight": torch.full((5, 4), torch.nan)}
    torch.save(state, tmp_path / "weights.pth")
    assert model.load(described("TiedTo", tmp_path)).module.head.weight.isnan().all()
    torch.save(state | {"head.weight": torch.zeros(5, 4)}, tmp_path / "weights.pth")
    with pytest.raises(MisfitError, match="differ by up to inf"):
        model.load(described("TiedTo", tmp_path))


def test_names_that_only_the_file_ties_are_loaded_apart(tmp_path):
    network = TiedTo(tie=True)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    loaded_apart = model.load(described("TiedTo", tmp_path, tie=False)).module
    assert loaded_apart.head.weight is not loaded_apart.embed.weight
    torch.testing.assert_close(loaded_apart(torch.arange(5)), network(torch.arange(5)), rtol=0, atol=0)


def test_a_tied_network_is_exported_and_audited_from_a_file_that_has_each_tensor_once(tmp_path):
    """What safetensors.torch.save_model writes; every kind of tie at once, through both exporters and both audits."""
    network = networks.made(networks.Ties())
    save_model(network, str(tmp_path / "ties.safetensors"))
    described = Network(
        "tests.formats.networks:Ties", {}, str(tmp_path / "ties.safetensors"), ("tests.formats",), PLACES
    )
    found = model.load(described)
    assert sum("which was loaded" in note for note in found.notes) == 7
    interface = Interface((InputSpec("x", "int64", ("batch",), 0, 12, "uniform"),), (Dimension("batch", 1, 9),), ("y",))
    x = torch.tensor([0, 5, 11, 3])
    right = network(x)
    torch.testing.assert_close(found.module(x), right, rtol=0, atol=0)
    examples = cases.make(interface, cases.example_sizes(interface), seed=0, name="exporter").inputs
    work = FromNetwork(found.module, interface, examples, tmp_path / "model.onnx", {"name": "ties"})
    exported = onnx.export(work, onnx.OnnxOptions())
    scripted_file = torchscript.export(
        replace(work, target=tmp_path / "model.torchscript"), torchscript.TorchScriptOptions()
    ).files[0]
    state = jobs.arrays_of(found.module)
    session = onnxruntime.InferenceSession(str(exported.files[0]), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], right.numpy(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.jit.load(str(scripted_file))(x), right)
    for audited in (
        audit.audit_graph(graph.read(exported.files[0]), state, exported.program),
        scripted.audit_module(scripted.read(scripted_file), state, program.as_values(onnx.captured(work))),
    ):
        assert audited["passed"], audited
        assert audited["unaccounted_count"] == 0
    references, reason = oracle.evaluate(found.module, interface, [{"x": x.numpy()}], seed=0)
    assert reason is None
    np.testing.assert_allclose(references[0].values["y"], right.numpy(), rtol=1e-5, atol=1e-5)


OLD_NAMES = {
    "layers.": "encoder.layer.", "q_proj": "attention.attention.query", "k_proj": "attention.attention.key",
    "v_proj": "attention.attention.value", "o_proj": "attention.output.dense",
}  # fmt: skip
KERAS_NAMES = {
    "layers.": "block_",
    "layernorm_before": "norm.before",
    "layernorm_after": "norm.after",
    "_proj": "_dense",
}
ORIGINAL_NAMES = {
    "layers.": "layers.",
    "q_proj": "attention.wq",
    "k_proj": "attention.wk",
    "v_proj": "attention.wv",
    "o_proj": "attention.wo",
}
LETTERS = {"q_proj": "b", "k_proj": "d", "v_proj": "a", "o_proj": "c"}


def saved_in_the_order_of_its_names(network, names, folder):
    state = {}
    for name, tensor in network.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)  # noqa: PLW2901 - one after the other
        state[name] = tensor
    save_file(dict(sorted(state.items())), folder / "weights.safetensors")
    return Network(
        "tests.formats.networks:Attending", {}, str(folder / "weights.safetensors"), ("tests.formats",), PLACES
    )


@pytest.mark.parametrize("names", [OLD_NAMES, KERAS_NAMES, ORIGINAL_NAMES], ids=["ViT", "Keras", "Llama"])
def test_the_rename_that_is_asked_for_makes_the_network_that_was_saved(names, tmp_path):
    network = networks.made(networks.Attending())
    described = saved_in_the_order_of_its_names(network, names, tmp_path)
    with pytest.raises(MisfitError) as caught:
        model.load(described)
    asked = re.search(r"set model\.rename to (\{.*\})$", caught.value.message.splitlines()[0])
    assert asked, caught.value.message
    assert "another architecture" not in caught.value.message
    found = model.load(replace(described, rename=parse_value(asked[1])))
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(found.module(x), network(x), rtol=0, atol=0)


def test_letters_in_place_of_words_are_not_guessed(tmp_path):
    described = saved_in_the_order_of_its_names(networks.made(networks.Attending()), LETTERS, tmp_path)
    with pytest.raises(MisfitError, match="nothing decides which of these is which") as caught:
        model.load(described)
    assert (
        "  layers.*.a, layers.*.b, layers.*.c, layers.*.d in weights.safetensors: layers.*.q_proj"
        in caught.value.message
    )
    assert "set model.rename" not in caught.value.message
    assert "write model.rename for these by hand" in caught.value.hint


def test_what_is_left_open_can_be_tried_and_one_of_it_is_the_network_that_was_saved(tmp_path):
    network = networks.made(networks.Attending())
    names = LETTERS | {"layernorm_before": "norm.before", "layernorm_after": "norm.after"}
    described = saved_in_the_order_of_its_names(network, names, tmp_path)
    x = torch.randn(2, 3, 6)
    left = model.alternatives(described)
    right = [each for each in left if torch.equal(model.load(each).module(x), network(x))]
    assert (len(left), len(right)) == (24, 1)
    by_hand = replace(described, rename={"layers.*.b": "layers.*.q_proj", "layers.*.d": "layers.*.k_proj"})
    assert len(model.alternatives(by_hand)) == 2
    assert len(model.alternatives(right[0])) == 1


def test_what_was_written_by_hand_is_kept_in_the_rename_that_is_asked_for(tmp_path):
    """The user says which letter is which; the rest has words, and the rename that is asked for holds both."""
    network = networks.made(networks.Attending())
    names = LETTERS | {"layernorm_before": "norm.before", "layernorm_after": "norm.after"}
    described = saved_in_the_order_of_its_names(network, names, tmp_path)
    by_hand = {f"layers.*.{theirs}": f"layers.*.{ours}" for ours, theirs in LETTERS.items()}
    with pytest.raises(MisfitError) as caught:
        model.load(replace(described, rename=by_hand))
    asked = re.search(r"set model\.rename to (\{.*\})$", caught.value.message.splitlines()[0])
    assert asked, caught.value.message
    found = model.load(replace(described, rename=parse_value(asked[1])))
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(found.module(x), network(x), rtol=0, atol=0)


def test_it_is_in_eval_mode_without_gradients(tmp_path):
    module = loaded(Plain().train(), tmp_path).module
    assert not any(each.training for each in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_no_tensor_is_left_without_values(tmp_path):
    for network in (Plain(), Computed(), Tied()):
        module = loaded(network, tmp_path).module
        assert not any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()])


def test_half_precision_weights_are_loaded_into_the_networks_own_dtype(tmp_path):
    torch.save(
        {key: value.half() if value.is_floating_point() else value for key, value in Plain().state_dict().items()},
        tmp_path / "weights.pth",
    )
    module = model.load(described("Plain", tmp_path)).module
    assert module.fc.weight.dtype == torch.float32


def test_a_default_argument_is_named_when_it_is_what_has_to_change(tmp_path):
    torch.save(Plain(size=6).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(MisfitError, match=r"set model\.arguments\.size to 6 \(config\.yaml:4:3\)"):
        model.load(described("Plain", tmp_path))


def test_a_constructor_that_fails_is_the_configs_mistake_with_its_place(tmp_path):
    torch.save(Plain().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ArchitectureError, match=r"cannot be built from \(size='four'\)") as caught:
        model.load(described("Plain", tmp_path, size="four"))
    assert "config.yaml:4:3" in caught.value.hint


def test_an_untrusted_network_is_refused(tmp_path):
    torch.save(Plain().state_dict(), tmp_path / "weights.pth")
    network = Network(
        "tests.rebuild.test_model:Plain", {}, str(tmp_path / "weights.pth"), ("pipeline.architectures",), PLACES
    )
    with pytest.raises(UnsafeError):
        model.load(network)


def test_building_shapes_draws_no_values_and_imports_no_compiler():
    program = (
        "import sys, torch\nfrom pipeline.rebuild.shapes import shapes_only\n"
        "with shapes_only():\n    made = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), torch.nn.LSTM(4, 4))\n"
        "assert all(each.is_meta for each in made.parameters())\nassert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
