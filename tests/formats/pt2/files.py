"""Exported programs to do harm to: one of ours, with entries put in place of others, and what an attacker would put there."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import torch

from pipeline.formats.format import FromNetwork
from pipeline.formats.pt2 import archive
from pipeline.formats.table import formats
from pipeline.rebuild import cases
from tests.formats import networks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WEIGHTS, _ = archive.CONFIGS


def exported(network: torch.nn.Module, interface: Any, folder: Path) -> Any:
    """Export a network as it would be for a release; return what was written."""
    folder.mkdir(exist_ok=True)
    chosen = formats()["pt2"]
    examples = cases.make(interface, cases.example_sizes(interface), seed=0, name="exporter").inputs
    origin = FromNetwork(networks.made(network), interface, examples, folder / "model.pt2", {"name": "test"})
    return chosen.export(origin, chosen.options())


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Write an archive again with its entries (by name below the root) changed."""
    with zipfile.ZipFile(source) as held:
        entries = {name.partition("/")[2]: held.read(name) for name in held.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w") as made:
        for name, content in entries.items():
            made.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return target


def edited(change: Callable[[Any], None], name: str = archive.MODEL) -> Callable[[dict[str, bytes]], None]:
    """Return a change of one entry's JSON."""

    def apply(entries: dict[str, bytes]) -> None:
        value = json.loads(entries[name])
        change(value)
        entries[name] = json.dumps(value).encode()

    return apply


class Bomb:
    """A pickle that writes a marker when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def _saved(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    torch.save((bomb, {}), buffer)
    return buffer.getvalue()


def _put(**entries: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda held: held.update(entries)


def hostile(marker: Path) -> dict[str, Callable[[dict[str, bytes]], None]]:
    """Return changes that make torch.export.load, or a call of what it loads, do something else than compute, by what they do."""
    bomb, write = Bomb(marker), f"__import__('pathlib').Path({str(marker)!r}).touch()"

    def pickled_weight(entries: dict[str, bytes]) -> None:
        config = json.loads(entries[WEIGHTS])
        first = next(iter(config["config"].values()))
        first["use_pickle"] = True
        entries[WEIGHTS] = json.dumps(config).encode()
        entries[f"data/weights/{first['path_name']}"] = _saved(bomb)

    def opaque_constant(entries: dict[str, bytes]) -> None:
        stated = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        entries[archive.CONFIGS[1]] = json.dumps({"config": {"constant": stated}}).encode()
        entries["data/constants/opaque_obj_0"] = pickle.dumps(bomb)

    def operator(program: Any) -> None:
        program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.hub.os.system"

    def size(program: Any) -> None:
        for each in program["graph_module"]["graph"]["tensor_values"].values():
            for axis in each["sizes"]:
                if "as_expr" in axis:
                    axis["as_expr"]["expr_str"] = write

    def enum(program: Any) -> None:
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        context = json.dumps([{"__enum__": True, "fqn": "antigravity:Never", "name": "A"}])
        signature["in_spec"] = json.dumps([1, {"type": "builtins.dict", "context": context, "children_spec": []}])

    return {
        "example inputs": lambda held: held.update({archive.EXAMPLES: _saved(bomb)}),
        "a weight": pickled_weight,
        "a constant": opaque_constant,
        "an operator": edited(operator),
        "a size": edited(size),
        "a guard": edited(lambda program: program["guards_code"].append(f"{write} is None")),
        "a class among the inputs": edited(enum),
        "weights of before": lambda held: held.update({"data/weights/model.pt": _saved(bomb)}),
    }


def damaged() -> dict[str, Callable[[dict[str, bytes]], None]]:
    """Return changes after which a file is no program any more."""

    def bomb(config: Any) -> None:
        meta = next(iter(config["config"].values()))["tensor_meta"]
        meta["sizes"] = [{"as_int": 2**40}]

    return {
        "without its program": lambda held: held.pop(archive.MODEL) and None,
        "no JSON": lambda held: held.update({archive.MODEL: b"{"}),
        "another form": lambda held: held.update({archive.MODEL: b"[1, 2]"}),
        "a weight larger than what is held": edited(bomb, WEIGHTS),
        "an unknown entry": lambda held: held.update({"data/aotinductor/model/a.so": b"\x7fELF"}),
        "a name to look up": edited(lambda each: each.update(verifiers=["os.system"])),
        "a node that tells more": edited(
            lambda each: each["graph_module"]["graph"]["nodes"][0]["metadata"].update(from_node="[]")
        ),
        "a power": edited(lambda each: each["guards_code"].append("9 ** 9 ** 9 > 1")),
    }
