"""Networks that are called in every way that people call theirs, each with the call by hand that is right."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import torch
from torch import nn

from pipeline.interface import Dimension, InputSpec, Interface

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH, LENGTH = Dimension("batch", 1, 8), Dimension("length", 1, 9)


def floats(name: str, *shape: int | str) -> InputSpec:
    return InputSpec(name, "float32", shape)


def tokens(name: str) -> InputSpec:
    return InputSpec(name, "int64", ("batch", "length"), 0, 20)


@dataclass(frozen=True)
class Way:
    """A network, the config's side of a call, and the same call by hand: tensors by input name to outputs by name."""

    kind: str
    make: Callable[[], nn.Module]
    interface: Interface
    by_hand: Callable[[Any, dict[str, torch.Tensor]], dict[str, torch.Tensor]]
    exports: tuple[str, ...] = ("torchscript",)
    method: str = field(default="auto")


# Parameters in between have defaults


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word, self.kind, self.out = nn.Embedding(20, 8), nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        kinds = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weight = mask.unsqueeze(-1).float()
        return self.out(((self.word(input_ids) + self.kind(kinds)) * weight).sum(1) / (weight.sum(1) + 1))


class Switched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, trigger: bool = True, y: Optional[torch.Tensor] = None, bias: float = 0.1):  # noqa: UP045 - TorchScript reads it
        out = self.fc(x)
        if trigger and y is not None:
            out = out + y * bias
        return out


class ThreeOptional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x, a=None, b=None, c=None):
        out = self.fc(x)
        for each, factor in ((a, 2), (b, 3), (c, 5)):
            out = out if each is None else out + factor * each
        return out


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x, y, gain: float = 2.0, z=None):
        return self.fc(x) - y * gain + (0 if z is None else z)


# Keywords only, **kwargs, positions only


class KeywordOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x, *, constant=None, **_):
        return self.fc(x) if constant is None else self.fc(x) * constant


class AllKeywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, *, right, left):
        return self.fc(left) - right


class ThroughKwargs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, **batch):
        return self.fc(batch["x"]) - 2 * batch["y"]


class PositionOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x, y=None, z=None, /):
        return self.fc(x) + (0 if y is None else 2 * y) - (0 if z is None else z)


# Another method, constants


class TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, y):
        return self.left(x) + self.right(y)

    def encode(self, x, normalised: bool = False):
        out = self.right(x)
        return out / out.norm(dim=-1, keepdim=True) if normalised else out


class Modes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x, mode: str = "plain", power: int = 1, use_cache: Optional[bool] = None):  # noqa: UP045
        out = self.fc(x)
        out = out.relu() if mode == "relu" else out
        return out**power if use_cache is False else (out, {"cache": [out]})


# Nested inputs


class Step(NamedTuple):
    key: torch.Tensor
    value: torch.Tensor


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x, past: list[dict[str, torch.Tensor]]):
        for layer in past:
            x = self.fc(x) * layer["key"] - layer["value"]
        return x, [{"key": x * 2, "value": layer["value"] + 1} for layer in past]


class Tuples(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]):
        assert isinstance(state, tuple)
        return self.fc(x) + state[0] - 2 * state[1]


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, step: Step, x):
        return self.fc(x) * step.key + step.value


@dataclass
class Batch:
    x: torch.Tensor
    y: Optional[torch.Tensor] = None  # noqa: UP045


class TakesDataclass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, batch: Batch):
        return self.fc(batch.x) - batch.y


class Many(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, feats: list[torch.Tensor], y: torch.Tensor):
        for each in feats:
            y = y + each
        return self.fc(y)


# What is returned


@dataclass
class Out:
    logits: torch.Tensor
    hidden: torch.Tensor
    attentions: torch.Tensor | None = None


class Pair(NamedTuple):
    mean: torch.Tensor
    spread: torch.Tensor


class Returns(nn.Module):
    """Returns what `form` makes of three tensors."""

    def __init__(self, form: Callable[..., Any]) -> None:
        super().__init__()
        self.fc, self.form = nn.Linear(4, 4), form

    def forward(self, x):
        out = self.fc(x)
        return self.form(out, out * 2, out.argmax(-1))


class NamedOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        out = self.fc(x)
        return {"out": out, "aux": out * 2}


def take(result: Any, parts: dict[str, Callable[[Any], torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: part(result) for name, part in parts.items()}


def face(
    inputs: list[InputSpec], outputs: str = "result", *, dims: tuple[Dimension, ...] = (BATCH,), **more: Any
) -> Interface:
    return Interface(tuple(inputs), dims, tuple(outputs.split()), **more)


X, Y, Z = floats("x", "batch", 4), floats("y", "batch", 4), floats("z", "batch", 4)
BOTH = ("torchscript", "onnx")

WAYS = [
    Way(
        "skips one in between",
        Encoder,
        face([tokens("input_ids"), tokens("attention_mask")], dims=(BATCH, LENGTH)),
        lambda m, t: {"result": m(t["input_ids"], attention_mask=t["attention_mask"])},
        BOTH,
    ),
    Way("skips a switch, scripted", Switched, face([X, Y]), lambda m, t: {"result": m(t["x"], y=t["y"])}, BOTH, "script"),
    Way("gives the last alone", ThreeOptional, face([X, floats("c", "batch", 4)]), lambda m, t: {"result": m(t["x"], c=t["c"])}),
    Way(
        "in another order",
        ThreeOptional,
        face([floats("b", "batch", 4), floats("a", "batch", 4), X]),
        lambda m, t: {"result": m(t["x"], t["a"], t["b"])},
    ),
    Way("a number in between", Scaled, face([X, Y, Z]), lambda m, t: {"result": m(t["x"], t["y"], z=t["z"])}, BOTH),
    Way("keyword only", KeywordOnly, face([X, floats("constant", "batch", 1)]), lambda m, t: {"result": m(t["x"], constant=t["constant"])}, BOTH),
    Way("all keywords", AllKeywords, face([floats("left", "batch", 4), floats("right", "batch", 4)]), lambda m, t: {"result": m(left=t["left"], right=t["right"])}),
    Way("through **kwargs", ThroughKwargs, face([X, Y]), lambda m, t: {"result": m(x=t["x"], y=t["y"])}),
    Way("by position only, one skipped", PositionOnly, face([X, Z]), lambda m, t: {"result": m(t["x"], None, t["z"])}),
    Way("names of its own", ThreeOptional, face([floats("image", "batch", 4), floats("prior", "batch", 4)]), lambda m, t: {"result": m(t["image"], t["prior"])}),
    Way("another method", TwoTowers, face([X], method="encode"), lambda m, t: {"result": m.encode(t["x"])}, BOTH),
    Way(
        "another method, with a constant",
        TwoTowers,
        face([X], method="encode", constants={"normalised": True}),
        lambda m, t: {"result": m.encode(t["x"], normalised=True)},
    ),
    Way(
        "constants of several kinds",
        Modes,
        face([X], constants={"mode": "relu", "power": 3, "use_cache": False}),
        lambda m, t: {"result": m(t["x"], "relu", 3, False)},
        BOTH,
    ),
    Way(
        "a list of dicts, in and out",
        Cached,
        face(
            [X, *(floats(f"past.{index}.{name}", "batch", 4) for index in (0, 1) for name in ("key", "value"))],
            "y new.0.key new.1.value",
            paths={"y": "0", "new.0.key": "1.0.key", "new.1.value": "1.1.value"},
        ),
        lambda m, t: take(
            m(t["x"], [{name: t[f"past.{index}.{name}"] for name in ("key", "value")} for index in (0, 1)]),
            {"y": lambda out: out[0], "new.0.key": lambda out: out[1][0]["key"], "new.1.value": lambda out: out[1][1]["value"]},
        ),
        BOTH,
    ),
    Way(
        "a tuple",
        Tuples,
        face([X, floats("state.0", "batch", 4), floats("state.1", "batch", 4)]),
        lambda m, t: {"result": m(t["x"], (t["state.0"], t["state.1"]))},
    ),
    Way(
        "a named tuple, not the first",
        Steps,
        face([X, floats("step.key", "batch", 4), floats("step.value", "batch", 4)]),
        lambda m, t: {"result": m(Step(t["step.key"], t["step.value"]), t["x"])},
    ),
    Way(
        "a dataclass",
        TakesDataclass,
        face([floats("batch.x", "batch", 4), floats("batch.y", "batch", 4)]),
        lambda m, t: {"result": m(Batch(t["batch.x"], t["batch.y"]))},
        BOTH,
    ),
    Way(
        "a list, scripted",
        Many,
        face([floats("feats.0", "batch", 4), floats("feats.1", "batch", 4), Y]),
        lambda m, t: {"result": m([t["feats.0"], t["feats.1"]], t["y"])},
        BOTH,
        "script",
    ),
    Way(
        "a dict under other names, scripted",
        NamedOut,
        face([X], "logits logits_aux"),
        lambda m, t: take(m(t["x"]), {"logits": lambda out: out["out"], "logits_aux": lambda out: out["aux"]}),
        BOTH,
        "script",
    ),
    Way("a dict, another order", NamedOut, face([X], "aux out"), lambda m, t: m(t["x"])),
    Way("one of a dict", NamedOut, face([X], "aux"), lambda m, t: {"aux": m(t["x"])["aux"]}),
    Way(
        "a dataclass, None left out",
        lambda: Returns(lambda a, b, _: Out(a, b)),
        face([X], "logits hidden"),
        lambda m, t: take(m(t["x"]), {"logits": lambda out: out.logits, "hidden": lambda out: out.hidden}),
        BOTH,
    ),
    Way(
        "a dataclass, by its fields, some",
        lambda: Returns(Out),
        face([X], "attentions logits"),
        lambda m, t: take(m(t["x"]), {"attentions": lambda out: out.attentions, "logits": lambda out: out.logits}),
    ),
    Way(
        "a named tuple",
        lambda: Returns(lambda a, b, _: Pair(a, b)),
        face([X], "spread mean"),
        lambda m, t: m(t["x"])._asdict(),
    ),
    Way(
        "a tuple with None and more tuples",
        lambda: Returns(lambda a, b, c: (a, None, (b, [c]))),
        face([X], "first second best"),
        lambda m, t: take(m(t["x"]), {"first": lambda out: out[0], "second": lambda out: out[2][0], "best": lambda out: out[2][1][0]}),
    ),
    Way(
        "numbers among tensors",
        lambda: Returns(lambda a, b, _: (a, a.shape[-1], "text", b)),
        face([X], "y mean", paths={"y": "0", "mean": "3"}),
        lambda m, t: take(m(t["x"]), {"y": lambda out: out[0], "mean": lambda out: out[3]}),
        BOTH,
    ),
    Way(
        "an ordered dict, as ModelOutput",
        lambda: Returns(lambda a, b, c: OrderedDict(logits=a, hidden_states=(b, c))),
        face([X], "logits hidden_states.1"),
        lambda m, t: take(m(t["x"]), {"logits": lambda out: out["logits"], "hidden_states.1": lambda out: out["hidden_states"][1]}),
    ),
    Way(
        "names that Python keeps for itself",
        lambda: Returns(lambda a, b, _: {"class": a, "lambda": b}),
        face([X], "class lambda"),
        lambda m, t: m(t["x"]),
    ),
]  # fmt: skip
