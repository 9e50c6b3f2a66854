"""An exported program, run by PyTorch without the network's code."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.backends import inputs, probe, pytorch
from pipeline.backends.backend import Backend, Options, Session, Source
from pipeline.backends.eager import CpuOptions
from pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


def _open(source: Source, options: Options) -> Session:
    import torch

    from pipeline.formats.zipped import IDENTITY_FILE

    if source.file is None:
        raise InputError("torch-export runs an exported file, and none was exported", hint="add `pt2` to `exports`")
    facts = pytorch.prepare("cpu", options)
    stated = {IDENTITY_FILE: ""}
    program = torch.export.load(source.file, extra_files=stated)
    order = _order(program, stated[IDENTITY_FILE], [spec.name for spec in source.interface.inputs])

    def arguments(tensors: Mapping[str, torch.Tensor]) -> tuple[list[Any], dict[str, Any]]:
        return [tensors[name] for name in order], {}

    session = pytorch.session(program.module(), arguments, replace(source.interface, paths={}), "cpu", facts)
    # The program holds sizes against its range itself; another dtype it would take, and compute with.
    return inputs.checked(session, source.interface)


def _order(program: Any, stated: str, names: list[str]) -> list[str]:
    """Return the inputs in the program's order: as a file of ours states it, else by its arguments' names, else the config's."""
    import json

    from pipeline.rebuild.calling import identifier

    told = json.loads(stated).get("inputs", []) if stated else []
    if set(told) == set(names):
        return list(told)
    known = {identifier(name): name for name in names}
    order = [known[each] for each in program.graph_signature.user_inputs if each in known]
    return order if len(order) == len(names) else names


TORCH_EXPORT = Backend(
    name="torch-export",
    summary="a program of torch.export, run by PyTorch on the CPU",
    format="pt2",
    device="cpu",
    install="weighbridge[cpu]",
    options=CpuOptions,
    probe=lambda: probe.package("torch"),
    open=_open,
    modules=("torch",),
    distributions=("torch",),
    threads_option="threads",
)
