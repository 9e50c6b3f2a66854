"""A config written for a weights file: what is found out, what is asked for, and that `check` accepts it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from pipeline import actions, infer, init, trust
from pipeline.architectures.bert import BertEncoder
from pipeline.architectures.resnet import ResNet
from pipeline.architectures.silero_vad import SileroVAD
from pipeline.architectures.simplenet import SimpleNet
from pipeline.errors import ArchitectureError, InputError, MisfitError, UnsafeError
from pipeline.init import Request
from pipeline.planning import Settings
from pipeline.types import InputSpec

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
OURS = "pipeline.architectures."


def saved(path: Path, make: Callable[[], nn.Module]) -> Path:
    """Write the state dict of a network whose weights take no memory until then."""
    with torch.device("meta"):
        state = make().state_dict()
    torch.save({name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in state.items()}, path)
    return path


def located(target: str) -> trust.Located:
    return trust.locate(OURS + target, (trust.ALWAYS_TRUSTED,))


@pytest.mark.parametrize(
    ("target", "make", "told", "unsure"),
    [
        (
            "simplenet:SimpleNet",
            lambda: SimpleNet(7, 33, 5),
            {"input_size": 7, "hidden_size": 33, "output_size": 5},
            (),
        ),
        (
            "bert:BertEncoder",
            lambda: BertEncoder(99, 48, 3, 4, 80, 40, 3),
            {"vocab_size": 99, "hidden_size": 48, "layers": 3, "intermediate_size": 80, "max_positions": 40, "type_vocab_size": 3},
            ("heads",),
        ),
        ("resnet:ResNet", lambda: ResNet(34, 11), {"depth": 34, "num_classes": 11}, ()),
        ("resnet:ResNet", lambda: ResNet(50, 12), {"depth": 50, "num_classes": 12}, ()),
    ],
)  # fmt: skip
def test_constructor_arguments_follow_from_the_shapes(target, make, told, unsure, tmp_path: Path) -> None:
    found = infer.arguments(located(target), saved(tmp_path / "w.pth", make), {}, max_bytes=None)
    assert {name: found.values[name] for name in told} == told
    assert set(unsure) <= set(found.unsure)
    assert not set(found.unsure) & set(told)
    make_again = trust.import_architecture(located(target))
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in make_again(**found.values).state_dict().items()}
        assert shapes == {name: tensor.shape for name, tensor in make().state_dict().items()}


def test_an_argument_that_was_given_is_taken_as_it_is(tmp_path: Path) -> None:
    weights = saved(tmp_path / "w.pth", lambda: BertEncoder(99, 48, 3, 4, 80, 40, 3))
    found = infer.arguments(located("bert:BertEncoder"), weights, {"heads": 4}, max_bytes=None)
    assert found.values["heads"] == 4
    assert "heads" not in found.unsure


NETWORK = """
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self, features, hidden, classes, bias):
        super().__init__()
        self.a = nn.Linear(features, hidden, bias=bias)
        self.b = nn.Linear(hidden, classes)

    def forward(self, rows, scale=1.0):
        return {"scores": self.b(self.a(rows)) * scale}

class Sequence(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.lstm = nn.LSTM(width, 2 * width, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.q_proj, self.k_proj, self.norm = nn.Linear(width, width), nn.Linear(width, width), nn.LayerNorm(width)

class Tied(nn.Module):
    def __init__(self, vocabulary: int = 30, width: int = 8, layers: int = 2):
        super().__init__()
        self.embed, self.head = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block.norm(x + block.q_proj(x) * block.k_proj(x))
        return self.head(x)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets_of_init.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("nets_of_init", None)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_arguments_without_defaults_are_found_too(own: Path) -> None:
    torch.save(nn.ModuleDict({"a": nn.Linear(9, 13), "b": nn.Linear(13, 4)}).state_dict(), own / "w.pth")
    target = trust.locate("nets_of_init:Plain", ("nets_of_init",))
    found = infer.arguments(target, own / "w.pth", {}, max_bytes=None)
    assert {**found.values, "bias": bool(found.values["bias"])} == {
        "features": 9, "hidden": 13, "classes": 4, "bias": True,
    }  # fmt: skip
    taken = infer.inputs(target, found.values, {}, ())
    assert taken.interface is not None
    assert taken.interface.inputs == (InputSpec("rows", "float32", ("batch", 9)),)
    assert taken.interface.outputs == ("scores",)


OLD = {
    "blocks.": "encoder.layer.",
    "q_proj": "attention.query",
    "k_proj": "attention.key",
    "norm": "LayerNorm",
    "embed": "wte",
}


def test_what_check_would_ask_for_is_written(own: Path) -> None:
    """Renames in every layer, a tensor beside them, one name of a tied tensor, and sizes: the config passes check as it is."""
    from nets_of_init import Tied

    state = {}
    for name, tensor in Tied(50, 12, 3).state_dict().items():
        for ours, theirs in OLD.items():
            name = name.replace(ours, theirs)  # noqa: PLW2901 - one after the other
        state[name] = tensor
    del state["head.weight"]
    torch.save(dict(sorted(state.items())) | {"criterion.centers": torch.zeros(3, 5)}, own / "w.pth")
    draft = init.init(Request(own / "w.pth", "nets_of_init:Tied", ("nets_of_init",)), own / "w.yaml", None)
    assert "arguments: {vocabulary: 50, width: 12, layers: 3}" in draft.text
    rename = draft.text.partition("  rename:\n")[2].partition("  # CHECK ignore")[0]
    assert {line.strip() for line in rename.splitlines()} == {
        "encoder.layer.*.LayerNorm: blocks.*.norm", "encoder.layer.*.attention.key: blocks.*.k_proj",
        "encoder.layer.*.attention.query: blocks.*.q_proj", "wte: embed",
    }  # fmt: skip
    assert "  ignore: [criterion]\n" in draft.text
    assert {"model.rename", "model.ignore"} <= set(draft.unsure)
    settings = Settings(out=own / "out", trust=("nets_of_init",))
    notes = actions.check(own / "w.yaml", settings)["plan"]["weights"]
    assert "head.weight is embed.weight, which was loaded" in str(notes)


def test_twins_that_nothing_tells_are_a_misfit_and_no_config_is_written(own: Path) -> None:
    torch.save(nn.ModuleDict({"x": nn.Linear(6, 6), "y": nn.Linear(6, 6)}).state_dict(), own / "w.pth")
    target = trust.locate("nets_of_init:Plain", ("nets_of_init",))
    with pytest.raises(MisfitError, match="nothing decides which of these is which") as caught:
        infer.arguments(target, own / "w.pth", {"bias": True}, max_bytes=None)
    assert "write model.rename for these by hand" in str(caught.value.hint)


@pytest.mark.usefixtures("own")
def test_a_sequence_has_a_dynamic_length() -> None:
    taken = infer.inputs(trust.locate("nets_of_init:Sequence", ("nets_of_init",)), {"width": 6}, {}, ())
    assert taken.interface is not None
    assert taken.interface.inputs[0].shape == ("batch", "length", 6)
    assert [each.name for each in taken.interface.dimensions] == ["batch", "length"]
    assert "length" in taken.comments


def test_the_inputs_of_a_transformer_have_their_tables_ranges_and_a_mask() -> None:
    values = {"vocab_size": 99, "hidden_size": 48, "layers": 1, "heads": 4, "max_positions": 40, "type_vocab_size": 3}
    taken = infer.inputs(located("bert:BertEncoder"), values, {}, ())
    assert taken.interface is not None
    by_name = {spec.name: spec for spec in taken.interface.inputs}
    assert (by_name["input_ids"].low, by_name["input_ids"].high) == (0, 99)
    assert by_name["token_type_ids"].high == 3
    assert by_name["attention_mask"].values == "mask"
    assert next(each for each in taken.interface.dimensions if each.name == "length").max == 40


def test_what_was_not_found_out_is_missing_and_not_guessed() -> None:
    taken = infer.inputs(located("silero_vad:SileroVAD"), {}, {}, ())
    assert taken.interface is None
    assert taken.missing == ("x",)
    assert taken.reason.startswith("forward runs with sizes from 192 to 703")
    given = {"x": InputSpec("x", "float32", ("batch", 576))}
    taken = infer.inputs(located("silero_vad:SileroVAD"), {}, given, ())
    assert taken.interface is not None
    assert taken.interface.inputs[1] == InputSpec("state", "float32", (2, "batch", 128))


def test_an_input_that_forward_does_not_take_is_an_error() -> None:
    given = {"y": InputSpec("y", "float32", ("batch", 10))}
    with pytest.raises(ArchitectureError, match="has no argument 'y'"):
        infer.inputs(located("simplenet:SimpleNet"), {}, given, ())


def test_a_written_config_passes_check(tmp_path: Path) -> None:
    weights = saved(tmp_path / "My Weights.pth", lambda: SimpleNet(7, 33, 5))
    target = tmp_path / "deep" / "net.yaml"
    target.parent.mkdir()
    draft = init.init(Request(weights, f"{OURS}simplenet:SimpleNet"), target, None)
    assert draft.unsure == ()
    assert "arguments: {input_size: 7, hidden_size: 33, output_size: 5}" in draft.text
    assert "../My Weights.pth" in draft.text
    plan = actions.check(target, Settings(out=tmp_path / "out"))["plan"]
    assert plan["inputs"] == ["x: float32 ['batch', 7]"]
    with pytest.raises(InputError, match="is there already"):
        init.init(Request(weights, f"{OURS}simplenet:SimpleNet"), target, None)


def test_the_rest_is_asked_for_or_named_with_its_flag(tmp_path: Path) -> None:
    weights = saved(tmp_path / "vad.pth", SileroVAD)
    request = Request(weights, f"{OURS}silero_vad:SileroVAD")
    with pytest.raises(InputError) as caught:
        init.init(request, tmp_path / "vad.yaml", None)
    assert "the shapes of x could not be found out: forward runs with sizes from" in caught.value.message
    assert "--input 'x=float32[batch,…]'" in str(caught.value.hint)
    assert not (tmp_path / "vad.yaml").exists()
    asked: list[str] = []
    draft = init.init(request, tmp_path / "vad.yaml", lambda question: asked.append(question) or "float32[batch,576]")
    assert len(asked) == 1
    assert "state: {dtype: float32, shape: [2, batch, 128]}" in draft.text


def test_weights_of_another_network_are_a_misfit_and_no_config_is_written(tmp_path: Path) -> None:
    weights = saved(tmp_path / "w.pth", lambda: nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(MisfitError, match=r"0\.weight|fc1\.weight"):
        init.init(Request(weights, f"{OURS}simplenet:SimpleNet"), tmp_path / "x.yaml", None)
    assert not (tmp_path / "x.yaml").exists()


def test_without_an_architecture_those_that_fit_are_listed(tmp_path: Path) -> None:
    weights = saved(tmp_path / "w.pth", lambda: ResNet(18, 7))
    assert init.match(weights) == {f"{OURS}resnet:ResNet": {"depth": 18, "num_classes": 7}} or init.match(weights)[
        f"{OURS}resnet:ResNet"
    ] == {"depth": 18, "num_classes": 7, "groups": 1, "width_per_group": 64}


def test_every_network_of_ours_is_among_the_shipped() -> None:
    assert f"{OURS}simplenet:SimpleNet" in init.shipped()
    assert len(init.shipped()) == 6


def test_an_untrusted_architecture_is_refused_before_anything_starts(tmp_path: Path) -> None:
    weights = saved(tmp_path / "w.pth", SimpleNet)
    with pytest.raises(UnsafeError, match="is not trusted"):
        init.init(Request(weights, "evil.module:Net"), tmp_path / "x.yaml", None)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("x=float32[batch,10]", InputSpec("x", "float32", ("batch", 10))),
        ("x=float32[]", InputSpec("x", "float32", ())),
        ("ids=int64[batch, n]:0..99", InputSpec("ids", "int64", ("batch", "n"), 0, 99, "uniform")),
        ("m=int64[batch,n]:mask", InputSpec("m", "int64", ("batch", "n"), values="mask")),
    ],
)
def test_inputs_are_read_from_the_command_line(text: str, spec: InputSpec) -> None:
    assert init.parse_input(text) == spec


@pytest.mark.parametrize(
    "text",
    ["x", "x=float32", "x=float99[2]", "x=float32[0]", "x=float32[a b c!]", "ids=int64[batch]", "x=int64[2]:a..b"],
)
def test_an_input_that_cannot_be_read_says_how_to_write_it(text: str) -> None:
    with pytest.raises(InputError, match=r"--input"):
        init.parse_input(text)
