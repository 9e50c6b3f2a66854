"""Harmless checkpoints with objects beside their tensors, of classes that nobody has who reads them.

Python's own classes are themselves. Those of OmegaConf, lightning and a user's project are defined while a file is written, as much of
them as shows in a pickle, and are gone afterwards.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import sys
import types
import typing
import uuid
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOREIGN = ("omegaconf", "lightning", "my_project")
"""Packages whose classes are in the files, and that must never be imported."""


def _in(module: str) -> Any:
    def named(kind: type) -> type:
        kind.__module__, kind.__qualname__ = module, kind.__name__
        _CLASSES.append(kind)
        return kind

    return named


_CLASSES: list[type] = []


@_in("my_project.config")
@dataclasses.dataclass
class Optimizer:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)


@_in("my_project.config")
@dataclasses.dataclass
class NetConfig:
    width: int = 32
    depth: int = 3
    optimizer: Any = dataclasses.field(default_factory=Optimizer)


@_in("my_project.config")
@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    width: int = 32
    name: str = "a"


@_in("my_project.kinds")
class Phase(enum.Enum):
    TRAIN = "train"
    TEST = "test"


@_in("my_project.kinds")
class Precision(enum.IntFlag):
    HALF = 1
    MIXED = 2


@_in("my_project.kinds")
class Activation(str, enum.Enum):  # noqa: UP042 - as scripts have it
    GELU = "gelu"


@_in("my_project.tracking")
class Meter:
    def __init__(self) -> None:
        self.history, self.best = [0.1, 0.2], None


@_in("my_project.tracking")
class Slotted:
    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.count, self.total = 3, 0.5


@_in("my_project.tracking")
class Vocabulary(list):
    pass


@_in("lightning.fabric.utilities.data")
class AttributeDict(dict):
    pass


Sizes = _in("my_project.config")(collections.namedtuple("Sizes", "inner outer"))


@_in("omegaconf.base")
class ContainerMetadata:
    pass


@_in("omegaconf.base")
class Metadata:
    pass


@_in("omegaconf.dictconfig")
class DictConfig:
    pass


@_in("omegaconf.listconfig")
class ListConfig:
    pass


@_in("omegaconf.nodes")
class AnyNode:
    pass


@_in("omegaconf.nodes")
class IntegerNode:
    pass


@_in("my_project.layers")
class Smoothing(torch.nn.CrossEntropyLoss):
    pass


def omegaconf(value: Any, parent: Any = None, key: Any = None) -> Any:
    """Return a config of OmegaConf's, with the attributes that it is pickled with."""
    kinds = {dict: DictConfig, list: ListConfig, int: IntegerNode}
    node = kinds.get(type(value), AnyNode)()
    is_container = isinstance(value, dict | list)
    metadata = (ContainerMetadata if is_container else Metadata)()
    metadata.__dict__ |= {
        "ref_type": typing.Any, "object_type": type(value) if is_container else None, "optional": True, "key": key,
        "flags": {}, "flags_root": False, "resolver_cache": collections.defaultdict(dict),
        **({"key_type": typing.Any, "element_type": int} if is_container else {}),
    }  # fmt: skip
    node.__dict__ |= {"_metadata": metadata, "_parent": parent}
    if isinstance(value, dict):
        node.__dict__["_content"] = {name: omegaconf(item, node, name) for name, item in value.items()}
    elif isinstance(value, list):
        node.__dict__["_content"] = [omegaconf(item, node, index) for index, item in enumerate(value)]
    else:
        node.__dict__["_val"] = value
    return node


@contextmanager
def defined() -> Iterator[None]:
    """Have the classes of others, for as long as a file is written."""
    names = {
        ".".join(kind.__module__.split(".")[: end + 1])
        for kind in _CLASSES
        for end in range(kind.__module__.count(".") + 1)
    }
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in FOREIGN}
    for name in before:
        del sys.modules[name]
    sys.modules |= {name: types.ModuleType(name) for name in names}
    for kind in _CLASSES:
        setattr(sys.modules[kind.__module__], kind.__name__, kind)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules |= before


def save(saved: Any, path: pathlib.Path, **options: Any) -> pathlib.Path:
    """Write a file with torch.save; return its path."""
    with defined(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Couldn't retrieve source code")  # of a class that is only here
        torch.save(saved, path, **options)
    return path


def state() -> dict[str, torch.Tensor]:
    """Return a state dict with tensors of several kinds, two of them tied."""
    shared = torch.arange(6.0).reshape(3, 2)
    return {
        "fc.weight": shared, "head.weight": shared, "fc.bias": torch.ones(3, dtype=torch.bfloat16),
        "norm.steps": torch.tensor(7), "turned": torch.arange(12, dtype=torch.int16).reshape(3, 4).t(),
        "part": torch.arange(100.0, dtype=torch.float64)[10:20], "empty": torch.zeros(0, 4), "mask": torch.tensor([True, False]),
    }  # fmt: skip


HYPER = {"width": 32, "depth": 3, "net": {"scale": 2.5, "acts": ["gelu", "relu"]}}


def objects() -> Mapping[str, Any]:
    """Return objects of each kind."""
    queue = collections.deque([1, 2], maxlen=3)
    return {
        "defaultdict": collections.defaultdict(list, {"loss": [0.1, 0.2]}),
        "defaultdict of defaultdicts": collections.defaultdict(dict, {"a": collections.defaultdict(int, {"b": 1})}),
        "OrderedDict": collections.OrderedDict(a=1, b=(1, 2)),
        "Counter": collections.Counter("abca"),
        "deque": queue,
        "set": {1, 2, "a"},
        "frozenset": frozenset({"a", "b"}),
        "Enum": Phase.TRAIN,
        "IntFlag": Precision.HALF | Precision.MIXED,
        "text and Enum": Activation.GELU,
        "keys of an Enum": {Phase.TRAIN: 1, Phase.TEST: 2, (Phase.TEST, 1): 3},
        "path": pathlib.PurePosixPath("runs/a/b.yaml"),
        "absolute path": pathlib.Path("/data/images"),
        "Windows path": pathlib.PureWindowsPath("C:/data/x"),
        "paths as keys": {pathlib.PurePosixPath("a"): 1},
        "datetime": datetime.datetime(2026, 3, 4, 5, 6, 7),  # noqa: DTZ001 - as scripts have it
        "datetime with a zone": datetime.datetime(2026, 3, 4, tzinfo=datetime.UTC),
        "date, time and duration": [datetime.date(2026, 3, 4), datetime.time(1, 2), datetime.timedelta(days=2, seconds=3)],
        "Decimal": decimal.Decimal("0.10"),
        "Fraction": fractions.Fraction(1, 3),
        "UUID": uuid.UUID(int=2**70),
        "complex": 1 + 2j,
        "range and slice": [range(3), slice(1, None)],
        "SimpleNamespace": types.SimpleNamespace(**HYPER),
        "Namespace": argparse.Namespace(**HYPER, root=pathlib.PurePosixPath("a/b")),
        "Namespace of Namespaces": argparse.Namespace(model=argparse.Namespace(width=1), phases=[Phase.TRAIN]),
        "numpy numbers": {"a": np.float32(0.5), np.int64(3): "epoch 3"},
        "numpy arrays": [np.arange(3), np.ones((2, 2), np.float16)],
        "size, dtype and device": (torch.Size([1, 2]), torch.float16, torch.device("cuda:0")),
        "OmegaConf": omegaconf({**HYPER, "same": "${width}"}),
        "OmegaConf's list": omegaconf([1, {"a": None}, ["b"]]),
        "AttributeDict": AttributeDict(HYPER),
        "dataclass": NetConfig(),
        "frozen dataclass with slots": Frozen(),
        "dataclasses as keys": {Frozen(): 1},
        "namedtuple": Sizes(1, [2]),
        "a class of one's own": Meter(),
        "a class with slots": Slotted(),
        "a list of one's own": Vocabulary(["a", "b"]),
        "named classes and functions": [Meter, torch.optim.Adam, torch.nn.functional.relu, int],
        "a loss": torch.nn.CrossEntropyLoss(weight=torch.ones(2)),
        "a loss of one's own": Smoothing(),
        "a scheduler": torch.optim.lr_scheduler.LambdaLR.__new__(torch.optim.lr_scheduler.LambdaLR),
    }  # fmt: skip


def checkpoints() -> Iterator[tuple[str, Any]]:
    """Yield what it is, and a checkpoint with each object in several places; the state dict is always `state_dict`."""
    for name, made in objects().items():
        yield f"{name} beside the weights", {"epoch": 3, "extra": made, "state_dict": state()}
        yield (
            f"{name} deep in hyper-parameters",
            {"state_dict": state(), "hyper_parameters": {"a": [{"b": (made, made)}]}},
        )
        yield f"{name} in other objects", {
            "args": argparse.Namespace(inner=NetConfig(optimizer=AttributeDict(x=made))),
            "history": collections.defaultdict(list, {"seen": [made]}), "state_dict": state(),
        }  # fmt: skip
