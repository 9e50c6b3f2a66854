"""A config written for a weights file: what is found out, what is asked for, and that `check` accepts it."""

from __future__ import annotations

import json
import random
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.architectures.bert import BertEncoder
from pipeline.architectures.resnet import ResNet
from pipeline.architectures.silero_vad import SileroVAD
from pipeline.architectures.simplenet import SimpleNet
from pipeline.config.loading import load
from pipeline.errors import ArchitectureError, InputError, MisfitError, UnsafeError
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import infer, infer_inputs, trust
from pipeline.run import init, plan
from pipeline.run.check import check
from pipeline.run.init import Request
from pipeline.run.jobs import Inferred
from pipeline.run.plan import Settings
from tests import told
from tests.weights import inert_corpus

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
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


SAID = {"inputs": 12, "width": 32, "classes": 5, "temperature": 2.5, "residual": True, "activation": "tanh"}
WIDTHS = {name: SAID[name] for name in ("inputs", "width", "classes")}
REST = {name: SAID[name] for name in ("temperature", "residual", "activation")}
UNTOLD = "the default of Net; neither the shapes nor net.pth tell"


def told_by(around: Callable[[dict[str, Any]], Any], path: Path, target: str, made: nn.Module, **more: Any) -> Any:
    torch.save(around(made.state_dict()), path)
    return infer.arguments(trust.locate(f"tests.told:{target}", ("tests.told",)), path, {}, max_bytes=None, **more)


@pytest.mark.parametrize(
    ("around", "values", "sources", "checks"),
    [
        (lambda s: {"state_dict": s, "hyper_parameters": SAID}, SAID, {"net.pth: hyper_parameters": tuple(SAID)}, {}),
        (
            lambda s: {"state_dict": s, "hparams": {**REST, "lr": 0.1, "Width": 3}},
            SAID,
            {"net.pth: hparams": tuple(REST)},
            {},
        ),
        (
            lambda s: {"model": s, "config": {"model": SAID, "data": {"classes": 10}, "optimizer": {"temperature": 9.0}}},
            SAID,
            {"net.pth: config.model": tuple(SAID)},
            {},
        ),
        (
            lambda s: {"model": s, "hyper_parameters": {"temperature": 2.5, "net": {**WIDTHS, "residual": True}}},
            {**WIDTHS, "temperature": 2.5, "residual": True},
            {
                "net.pth: hyper_parameters.net": (*WIDTHS, "residual"),
                "net.pth: hyper_parameters": ("temperature",),
            },
            {"activation": f"'relu' is {UNTOLD}"},
        ),
        (
            lambda s: {"model": s, "student": {**SAID, "width": 16}, "teacher": {**SAID, "temperature": 1.5}},
            {**SAID, "temperature": 1.5},
            {"net.pth: teacher": tuple(SAID)},
            {"temperature": "1.5 is used; net.pth: teacher says 1.5, net.pth: student says 2.5"},
        ),
        (
            lambda s: {"model": s, "args": {**SAID, "width": 64}},
            SAID,
            {"net.pth: args": tuple(name for name in SAID if name != "width")},
            {
                "width": "32 is used; net.pth: args says 64, with which the weights do not fit",
                **{
                    name: f"{value!r} is used; net.pth: args says {value!r}, and more with which the weights do not fit"
                    for name, value in REST.items()
                },
            },
        ),
        (
            lambda s: {"model": s, "args": {**WIDTHS, "residual": True, "activation": "gelu_new"}},
            {**WIDTHS, "residual": True},
            {"net.pth: args": (*WIDTHS, "residual")},
            {
                "temperature": f"1.0 is {UNTOLD}",
                "activation": "'relu' is used; net.pth: args says 'gelu_new', with which it cannot be built",
            },
        ),
        (
            lambda s: {"model": s, "args": {**SAID, "temperature": np.float32(0.1), "residual": torch.tensor(1)}},
            {**WIDTHS, "temperature": 0.1, "activation": "tanh"},
            {"net.pth: args": (*WIDTHS, "temperature", "activation")},
            {"residual": "False is the default of Net; net.pth: args holds a tensor for it, which is not read"},
        ),
        (
            lambda s: {"model_state": s, **WIDTHS, "temperature": 2.5, "tags": ["a"], "epoch": 3},
            {**WIDTHS, "temperature": 2.5},
            {"net.pth: top level": (*WIDTHS, "temperature")},
            {"residual": f"False is {UNTOLD}", "activation": f"'relu' is {UNTOLD}"},
        ),
        (
            lambda s: {"model": s, "config": {"net": WIDTHS, "loader": {"residual": True}}},
            {**WIDTHS, "residual": True},
            {"net.pth: config.net": tuple(WIDTHS), "net.pth: config.loader": ("residual",)},
            {
                "temperature": f"1.0 is {UNTOLD}",
                "residual": "True is used; net.pth: config.loader says True, which may mean something else",
                "activation": f"'relu' is {UNTOLD}",
            },
        ),
        (
            lambda s: s,
            WIDTHS,
            {},
            {name: f"{value!r} is {UNTOLD}" for name, value in zip(REST, (1.0, False, "relu"), strict=True)},
        ),
    ],
    ids=["lightning", "hparams", "nested", "outer", "two networks", "shapes contradict", "refused", "numpy and tensors",
         "top level", "another section", "nothing"],
)  # fmt: skip
def test_arguments_come_from_what_the_checkpoint_says_and_the_rest_is_marked(
    around: Any, values: Any, sources: Any, checks: Any, tmp_path: Path
) -> None:
    found = told_by(around, tmp_path / "net.pth", "Net", told.Net(**SAID))
    assert found.values == values
    assert found.sources == sources
    assert found.checks == checks


DEFAULTS = {"inputs": 8, "width": 16, "classes": 2, "temperature": 1.0, "residual": False, "activation": "relu"}
CHOICES = {**{name: (value, 3 * value) for name, value in DEFAULTS.items() if type(value) is int},
           "temperature": (1.0, 2.5, 0.5), "residual": (False, True), "activation": ("relu", "tanh")}  # fmt: skip


@pytest.mark.parametrize(
    "seed", range(30)
)  # each draws another checkpoint: what it says, where, and what else is there
def test_no_argument_of_a_drawn_checkpoint_is_wrong_in_silence(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    right, decoy = ({name: rng.choice(values) for name, values in CHOICES.items()} for _ in range(2))
    table: dict[str, Any] = {name: value for name, value in right.items() if rng.random() < 0.7}
    for key in rng.choices(["hparams", "config", "args", "x"], k=rng.randint(1, 3)):
        table = {key: table, **({"lr": 1e-3, "epochs": 9} if rng.random() < 0.5 else {})}
    others = (
        {"other": {name: value for name, value in decoy.items() if rng.random() < 0.5}} if rng.random() < 0.5 else {}
    )
    optimizer = {"optimizer": {"temperature": 9.0, "residual": True, "param_groups": []}}
    made = told.Net(**right)
    found = told_by(lambda s: {"state_dict": s, **table, **others, **optimizer}, tmp_path / "net.pth", "Net", made)
    used = {**DEFAULTS, **found.values}
    assert {name for name in right if used[name] != right[name]} <= set(found.checks)


def test_lists_none_and_choices_come_from_the_checkpoint_too(tmp_path: Path) -> None:
    said = {
        "widths": (3, 8, 4),
        "strides": (1, 2),
        "clip": None,
        "head": 6,
        "norm": "batch",
        "extra": {"a": [1]},
        "act": "GELU",
    }
    made = told.Many([3, 8, 4], head=6, norm="batch")
    found = told_by(lambda s: {"s": s, "cfg": said}, tmp_path / "net.pth", "Many", made)
    assert found.values == {name: list(v) if isinstance(v, tuple) else v for name, v in said.items() if name != "act"}
    assert found.unsure == ("act", "pool", "padding")
    assert found.checks["act"].endswith("says 'GELU', which does not tell what that is in the code")


def test_factors_that_the_shapes_leave_open_are_both_marked_unless_one_is_told(tmp_path: Path) -> None:
    made = told.Attention(32, 16, 32)
    assert told_by(lambda s: s, tmp_path / "net.pth", "Attention", made).unsure == ("heads", "dim_head")
    found = told_by(lambda s: {"s": s, "hparams": {"heads": 16}}, tmp_path / "net.pth", "Attention", made)
    assert found.values == {"dim": 32, "heads": 16, "dim_head": 32}
    assert found.unsure == ()


@pytest.mark.parametrize(
    ("target", "said", "values"),
    [
        ("build", {"width": 32, "temperature": 3.0}, {"width": 32, "temperature": 3.0}),
        ("decorated", {"temperature": 3.0}, {"width": 32, "temperature": 3.0}),
        ("from_dict", {"config": {"width": 32}}, {"config": {"width": 32}}),
    ],
)
def test_a_function_is_told_its_arguments_too(target: str, said: Any, values: Any, tmp_path: Path) -> None:
    found = told_by(lambda s: {"model": s, **said}, tmp_path / "net.pth", target, told.Net(width=32))
    assert found.values == values
    assert found.unsure == ()


def test_the_state_dict_that_was_picked_is_what_the_arguments_must_fit(tmp_path: Path) -> None:
    other = told.Net(width=16).state_dict()
    saved = {"config": {"d": {**SAID, "width": 16}, "g": SAID}}
    found = told_by(lambda s: {"d": other, "g": s, **saved}, tmp_path / "net.pth", "Net", told.Net(**SAID), key="g")
    assert found.values == SAID
    assert set(found.sources) == {"net.pth: config.g"}


def test_safetensors_are_told_by_their_metadata_and_by_the_config_beside_them(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    located_net = trust.locate("tests.told:Net", ("tests.told",))
    save_file(told.Net(**SAID).state_dict(), path, metadata={"temperature": "2.5", "residual": "True", "format": "pt"})
    found = infer.arguments(located_net, path, {}, max_bytes=None)
    assert found.values == {**WIDTHS, "temperature": 2.5, "residual": True}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "net", **SAID}))
    found = infer.arguments(located_net, path, {}, max_bytes=None)
    assert found.values == SAID
    assert found.sources == {"config.json": tuple(SAID)}


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
    taken = infer_inputs.inputs(target, found.values, {}, ())
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
    notes = check(own / "w.yaml", settings)["plan"]["weights"]
    assert "head.weight is embed.weight, which was loaded" in str(notes)


def test_twins_that_nothing_tells_are_a_misfit_and_no_config_is_written(own: Path) -> None:
    torch.save(nn.ModuleDict({"x": nn.Linear(6, 6), "y": nn.Linear(6, 6)}).state_dict(), own / "w.pth")
    target = trust.locate("nets_of_init:Plain", ("nets_of_init",))
    with pytest.raises(MisfitError, match="nothing decides which of these is which") as caught:
        infer.arguments(target, own / "w.pth", {"bias": True}, max_bytes=None)
    assert "write model.rename for these by hand" in str(caught.value.hint)


@pytest.mark.usefixtures("own")
def test_a_sequence_has_a_dynamic_length() -> None:
    taken = infer_inputs.inputs(trust.locate("nets_of_init:Sequence", ("nets_of_init",)), {"width": 6}, {}, ())
    assert taken.interface is not None
    assert taken.interface.inputs[0].shape == ("batch", "length", 6)
    assert [each.name for each in taken.interface.dimensions] == ["batch", "length"]
    assert "length" in taken.comments


def test_the_inputs_of_a_transformer_have_their_tables_ranges_and_a_mask() -> None:
    values = {"vocab_size": 99, "hidden_size": 48, "layers": 1, "heads": 4, "max_positions": 40, "type_vocab_size": 3}
    taken = infer_inputs.inputs(located("bert:BertEncoder"), values, {}, ())
    assert taken.interface is not None
    by_name = {spec.name: spec for spec in taken.interface.inputs}
    assert (by_name["input_ids"].low, by_name["input_ids"].high) == (0, 99)
    assert by_name["token_type_ids"].high == 3
    assert by_name["attention_mask"].values == "mask"
    assert next(each for each in taken.interface.dimensions if each.name == "length").max == 40


def test_what_was_not_found_out_is_missing_and_not_guessed() -> None:
    taken = infer_inputs.inputs(located("silero_vad:SileroVAD"), {}, {}, ())
    assert taken.interface is None
    assert taken.missing == ("x",)
    assert taken.reason.startswith("forward runs with sizes from 192 to 703")
    given = {"x": InputSpec("x", "float32", ("batch", 576))}
    taken = infer_inputs.inputs(located("silero_vad:SileroVAD"), {}, given, ())
    assert taken.interface is not None
    assert taken.interface.inputs[1] == InputSpec("state", "float32", (2, "batch", 128))


def test_an_input_that_forward_does_not_take_is_an_error() -> None:
    given = {"y": InputSpec("y", "float32", ("batch", 10))}
    with pytest.raises(ArchitectureError, match="has no argument 'y'"):
        infer_inputs.inputs(located("simplenet:SimpleNet"), {}, given, ())


def test_a_written_config_passes_check(tmp_path: Path) -> None:
    weights = saved(tmp_path / "My Weights.pth", lambda: SimpleNet(7, 33, 5))
    target = tmp_path / "deep" / "net.yaml"
    target.parent.mkdir()
    draft = init.init(Request(weights, f"{OURS}simplenet:SimpleNet"), target, None)
    assert draft.unsure == ()
    assert "arguments: {input_size: 7, hidden_size: 33, output_size: 5}" in draft.text
    assert "../My Weights.pth" in draft.text
    plan = check(target, Settings(out=tmp_path / "out"))["plan"]
    assert plan["inputs"] == ["x: float32 ['batch', 7]"]
    with pytest.raises(InputError, match="is there already"):
        init.init(Request(weights, f"{OURS}simplenet:SimpleNet"), target, None)


def test_a_config_of_omegaconfs_beside_the_weights_is_told_and_check_says_what_was_left_out(
    weighbridge: Any, tmp_path: Path
) -> None:
    hyper = inert_corpus.omegaconf({"lr": 0.1, "net": {"input_size": 7, "hidden_size": 33, "output_size": 5}})
    state = {f"model.{name}": tensor for name, tensor in SimpleNet(7, 33, 5).state_dict().items()}
    weights = inert_corpus.save({"state_dict": state, "hyper_parameters": hyper}, tmp_path / "net.ckpt")
    target = tmp_path / "net.yaml"
    draft = init.init(Request(weights, f"{OURS}simplenet:SimpleNet"), target, None)
    assert "# from net.ckpt: hyper_parameters.net (input_size, hidden_size, output_size)" in draft.text
    done = weighbridge("check", target)
    assert done.code == 0
    assert "never made: hyper_parameters (omegaconf.dictconfig.DictConfig)" in done.out


def test_what_a_checkpoint_says_is_in_the_config_with_its_source_and_check_asks_for_the_rest(
    tmp_path: Path, weighbridge: Callable[..., Any]
) -> None:
    saved_, name = {**WIDTHS, "temperature": 2.5, "residual": True}, tmp_path / "gan.ckpt"
    state, other = told.Net(**saved_).state_dict(), told.Net().state_dict()
    torch.save({"d": other, "g": state, "hyper_parameters": saved_}, name)
    command = ("--architecture", "tests.told:Net", "--trust", "tests.told", "--output", tmp_path / "net.yaml")
    done = weighbridge("init", name, *command)
    assert done.failed_with(2, "gan.ckpt holds 2 state dicts", "another network", "gan.ckpt#d")
    assert not (tmp_path / "net.yaml").exists()
    done = weighbridge("init", f"{name}#g", *command)
    assert done.code == 0, done.err
    assert "(look at the lines marked CHECK: activation)" in done.err
    assert f"next: weighbridge check {tmp_path / 'net.yaml'} --trust tests.told\n" in done.err
    lines = [
        "  # from gan.ckpt: hyper_parameters (inputs, width, classes, temperature, residual)",
        "  arguments: {inputs: 12, width: 32, classes: 5, temperature: 2.5, residual: true}",
        "  # CHECK activation: 'relu' is the default of Net; neither the shapes nor gan.ckpt tell.",
        '  weights: "gan.ckpt"',
        "  key: g",
    ]
    assert "\n".join(lines) in (tmp_path / "net.yaml").read_text()
    check = ("check", tmp_path / "net.yaml", "--trust", "tests.told")
    asked = "not decided   activation='relu' (default of Net): neither the shapes nor gan.ckpt tell; write it under model.arg"
    assert asked in weighbridge(*check).out
    done = weighbridge(*check, "--set", "model.arguments.activation=relu", "--set", "model.arguments.temperature=1.0")
    assert "not decided" not in done.out
    again = " --trust tests.told --set model.arguments.activation=relu --set model.arguments.temperature=1.0\n"
    assert f"next: weighbridge export {tmp_path / 'net.yaml'}{again}" in done.out
    assert "contradicted  gan.ckpt: hyper_parameters says temperature=2.5, and --set model.arg" in done.out
    text = (tmp_path / "net.yaml").read_text().replace(", temperature: 2.5", "")
    (tmp_path / "net.yaml").write_text(text)
    done = weighbridge("export", *check[1:], "--out", tmp_path / "out", "--no-benchmark")
    assert done.failed_with(2, "says temperature=2.5", "default temperature=1.0", "set model.arguments.temperature")


def test_somebody_who_is_there_is_asked_which_state_dict_is_meant(tmp_path: Path) -> None:
    torch.save({"net": SimpleNet(7, 33, 5).state_dict(), "ema": SimpleNet(7, 33, 5).state_dict()}, tmp_path / "w.pth")
    asked: list[str] = []
    request = Request(tmp_path / "w.pth", f"{OURS}simplenet:SimpleNet")
    draft = init.init(request, tmp_path / "w.yaml", lambda question: asked.append(question) or "ema")
    assert "w.pth holds several state dicts" in asked[0]
    assert "\n  key: ema\n" in draft.text


def test_a_network_with_defaults_for_everything_that_runs_with_none_of_them_is_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parameters of its forward all have defaults, and it wants one of two: there is no name to call missing."""
    (tmp_path / "either.py").write_text(
        "import torch\n\n\nclass Either(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc = torch.nn.Linear(4, 2)\n\n"
        "    def forward(self, ids=None, embedded=None):\n"
        "        if (ids is None) == (embedded is None):\n            raise ValueError('give one of ids or embedded')\n"
        "        return self.fc(embedded)\n"
    )
    monkeypatch.chdir(tmp_path)
    torch.save(nn.ModuleDict({"fc": nn.Linear(4, 2)}).state_dict(), tmp_path / "w.pth")
    request = Request(tmp_path / "w.pth", "either:Either", trust=("either",))
    with pytest.raises(InputError) as caught:
        init.init(request, tmp_path / "w.yaml", None)
    assert "which inputs the network takes could not be found out: ValueError: give one of ids" in caught.value.message
    assert "--input 'NAME=float32[batch,…]'" in str(caught.value.hint)


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


def test_a_config_of_nested_inputs_and_sizes_that_follow_reads_back_as_what_it_was_written_from(tmp_path: Path) -> None:
    past = [
        InputSpec(f"past.{index}.{name}", "float32", ("batch", "past", 4))
        for index in (0, 1)
        for name in ("key", "value")
    ]
    ids = InputSpec("ids", "int64", ("batch", "new"), 0, 9, "uniform")
    names = [each.name for each in past]
    interface = Interface(
        (ids, InputSpec("mask", "int64", ("batch", "total"), values="mask"), *past),
        (
            Dimension("batch", 1, 2),
            Dimension("new", 1, 3),
            Dimension("past", 0, 4),
            Dimension("total", 1, 7, formula="past + new"),
        ),
        ("logits", *(f"new_{name}" for name in names)),
        paths={"logits": "logits", **{f"new_{name}": name for name in names}},
    )
    found = Inferred(arguments=infer.Arguments({}, {}, {}, ()), inputs=infer_inputs.Inputs(interface, {}))
    target = tmp_path / "net.yaml"
    request = Request(tmp_path / "net.pth", "pipeline.architectures.simplenet:SimpleNet")
    target.write_text(init.config_text(request, target, found, interface, "ab" * 32))
    assert plan.interface(load(target, overrides=(), vocabulary=plan.vocabulary())) == interface


@pytest.mark.parametrize(
    ("returned", "outputs"),
    [
        ("h, {'squared': h ** 2}", "[output_0, output_1.squared]"),
        ("[h, (h + 1, h + 2)]", "[output_0, output_1.0, output_1.1]"),
        ("{'a': h, 'b': [h + 1, h + 2]}", "[a, b.0, b.1]"),
        ("{'x': h, 'past': [h + 1]}", None),  # a name that an input has is another's
    ],
)
def test_outputs_inside_others_are_named_so_that_check_takes_them(
    returned: str, outputs: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"nested_{zlib.crc32(returned.encode())}"
    (tmp_path / f"{name}.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.proj = nn.Linear(8, 8)\n\n    def forward(self, x):\n        h = self.proj(x)\n"
        f"        return {returned}\n"
    )
    torch.save({"proj.weight": torch.randn(8, 8), "proj.bias": torch.randn(8)}, tmp_path / "net.pth")
    draft = init.init(Request(tmp_path / "net.pth", f"{name}:Net", (name,)), tmp_path / "net.yaml", None)
    if outputs:
        assert f"outputs: {outputs}" in draft.text
    check(tmp_path / "net.yaml", Settings(out=tmp_path, trust=(name,)))
