"""Harmless files of ten kinds with commands put into them by fickling, as an attacker would who has that tool."""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from tests.weights import assembler as asm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STATE = {"fc.weight": torch.arange(6.0).reshape(3, 2), "fc.bias": torch.ones(3)}
PLAIN = pickle.dumps({"epoch": 3, "names": ["a", "b"]}, 4)
HEADER = 128  # bytes of a short array's, in numpy's format


def _saved(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def _in_zip(whole: bytes, inject: Callable[[bytes], bytes]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(whole)) as read:
        entries = {info.filename: read.read(info) for info in read.infolist()}
    return asm.zip_of({name: inject(made) if name.endswith(".pkl") else made for name, made in entries.items()})


def _in_array(inject: Callable[[bytes], bytes]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(["a", {"b": [1, None]}], object))
    whole = stream.getvalue()
    return whole[:HEADER] + inject(whole[HEADER:])


def _in_legacy(inject: Callable[[bytes], bytes]) -> bytes:
    value = asm.pickle(asm.dict_of({"epoch": asm.number(3)}))
    begin = b"".join(asm.pickle(each) for each in (asm.number(asm.MAGIC), asm.number(1001), asm.EMPTY_DICT))
    return begin + inject(value) + asm.pickle(b"]")


HARMLESS: dict[str, Callable[[Callable[[bytes], bytes]], bytes]] = {
    "state dict": lambda inject: _in_zip(_saved(STATE), inject),
    "training checkpoint": lambda inject: _in_zip(_saved({"state_dict": STATE, "epoch": 1, "lr": 0.1}), inject),
    "state dict with numpy arrays": lambda inject: _in_zip(_saved({**STATE, "mean": np.ones(3)}), inject),
    "whole model": lambda inject: _in_zip(_saved(nn.Sequential(nn.Linear(2, 2), nn.ReLU())), inject),
    "legacy checkpoint": _in_legacy,
    "plain pickle": lambda inject: inject(PLAIN),
    "pickled arrays": lambda inject: inject(pickle.dumps({"w": np.ones((2, 3)), "b": np.float32(1)}, 4)),
    "array of objects": _in_array,
    "arrays in an npz": lambda inject: asm.zip_of({"w.npy": _in_array(inject)}),
    "pickle in a tar in gzip": lambda inject: gzip.compress(asm.tar_of({"run/w.pkl": inject(PLAIN)})),
}


def injections(marker: Path) -> dict[str, Callable[[bytes], bytes]]:
    """Return what fickling can put into a pickle; all would create the marker."""
    from fickling.fickle import Pickled

    touch = f"open({str(marker)!r}, 'w').close()"
    function = f"def run(value):\n    {touch}\n    return value\n"

    def by(act: Callable[[Any], object]) -> Callable[[bytes], bytes]:
        def inject(made: bytes) -> bytes:
            loaded = Pickled.load(made)
            act(loaded)
            return loaded.dumps()

        return inject

    return {
        "exec first": by(lambda made: made.insert_python_exec(touch)),
        "exec last": by(lambda made: made.insert_python_exec(touch, run_first=False)),
        "exec in place of the value": by(
            lambda made: made.insert_python_exec(touch, use_output_as_unpickle_result=True)
        ),
        "eval first": by(lambda made: made.insert_python_eval(touch)),
        "a command behind": by(
            lambda made: made.append_python(f"touch {marker}", module="os", attr="system", pop_result=True)
        ),
        "a function called with the value": by(lambda made: made.insert_function_call_on_unpickled_object(function)),
        "a compiled function called with the value": by(
            lambda made: made.insert_function_call_on_unpickled_object(function, compile_code=True)
        ),
        "a number to find it by": by(lambda made: (made.insert_magic_int(7), made.insert_python_exec(touch))),
        "a function nobody listed": by(lambda made: made.insert_python(1, 2, 3, module="colorsys", attr="rgb_to_hsv")),
    }


def files(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Yield what it is, and the bytes of each kind of file with each injection."""
    for name, inject in injections(marker).items():
        for kind, write in HARMLESS.items():
            yield f"{kind} with {name}", write(inject)


def models(folder: Path, marker: Path) -> Iterator[tuple[str, Path]]:
    """Yield whole models that fickling's wrapper for PyTorch took over."""
    from fickling.pytorch import PyTorchModelWrapper

    good = folder / "good.pth"
    torch.save(nn.Linear(2, 2), good)
    for method in ("insertion", "combination"):
        path = folder / f"{method}.pth"
        PyTorchModelWrapper(good, force=True).inject_payload(f"open({str(marker)!r}, 'w')", path, injection=method)
        yield f"a model taken over by {method}", path
