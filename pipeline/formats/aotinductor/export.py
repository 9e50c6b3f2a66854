"""An AOTInductor package: the network as torch.export captures it, compiled to a shared library for this processor."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import warnings
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipeline.errors import ExportError
from pipeline.formats import capture, forward, inductor, zipped
from pipeline.formats.aotinductor import package
from pipeline.formats.aotinductor.options import AotInductorOptions
from pipeline.formats.artifact import Written
from pipeline.formats.deep import with_room
from pipeline.interface import complete_sizes, free_dimensions
from pipeline.rebuild import calling
from pipeline.rebuild.cases import allowed, make

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from pipeline.formats.format import FromNetwork, Options
    from pipeline.formats.forward import Forward
    from pipeline.interface import Arrays, Interface

_SHOWN_SIZE = 18
"""With a batch of 2, torch takes for granted in what it compiles of a convolution that it stays below 16 (pytorch issue 118289)."""
_NAME = "weighbridge"
_PRIVATE = "WEIGHBRIDGE_COMPILED_IN"
_ROOT = "model"
_LEAVE_OUT = "leave `aotinductor` out of `exports`"
# What a compiled model checks of its inputs, as Inductor writes it.
_CHECKED = re.compile(r"if \(\w+_size\[(\d+)\] > (\d+)\)|if \((\d+)L? != \w+_size\[(\d+)\]\)")
_CHECK = re.compile(r"static void check_input_(\d+)\(")


def export(origin: FromNetwork, options: Options) -> Written:
    """Write a package.

    Raises:
        ExportError: torch.export or Inductor refuses the network, or narrows the sizes that are declared.
    """
    assert isinstance(options, AotInductorOptions)  # noqa: S101 - the table pairs them
    return with_room(origin.module, lambda: _written(origin, options))


def _written(origin: FromNetwork, options: AotInductorOptions) -> Written:
    prepared = forward.prepare(origin.module.to(options.device), origin.interface, origin.examples)
    # Not beside the target: Inductor can use no folder with a space in its path.
    with TemporaryDirectory(prefix="export-", dir=inductor.prepare()) as folder:
        raw = _first_compiled(origin, prepared, options, Path(folder))
        facts = _finish(raw, origin.target, origin.interface, prepared.names)
    return Written((origin.target,), {**facts, "inputs": list(prepared.names), "device": options.device})


def _first_compiled(origin: FromNetwork, prepared: Forward, options: AotInductorOptions, folder: Path) -> Path:
    """Return what was compiled of the first capture with which that works, the last one's error where none does."""
    wide, declared = widened(origin.interface), origin.interface
    first: ExportError | None = None
    for index, (interface, captured) in enumerate(
        ((wide, capture.named), (declared, capture.named), (declared, capture.wide))
    ):
        shown = _shown(prepared, interface, examples_for(origin, interface), options.device)
        if index == 0 and (wide == declared or not _takes(shown)):
            continue
        inside = folder / str(index)
        inside.mkdir()
        try:
            return _compiled(captured(shown, interface), shown, options, inside, origin)
        except ExportError as error:
            first = first or error
            last = error
    raise ExportError(last.message, hint=last.hint) from first


def _shown(prepared: Forward, interface: Interface, examples: Arrays, device: str) -> Forward:
    """Return the network with other examples, on its device."""
    tensors = calling.tensors_from({spec.name: examples[spec.name] for spec in interface.inputs}, device=device)
    return forward.Forward(prepared.module, prepared.names, tuple(tensors[name] for name in prepared.names))


def _takes(shown: Forward) -> bool:
    """Tell whether the network takes sizes beyond those that are declared; many have a table of positions, or the like."""
    import torch

    try:
        with torch.inference_mode():
            shown.module(*(each.clone() for each in shown.tensors))
    except Exception:  # noqa: BLE001 - whatever it raises, it does not take them
        return False
    return True


def widened(interface: Interface) -> Interface:
    """Return the interface with sizes that vary up to 36 at least.

    Torch's convolutions ask whether a batch is 16 or more, and what is compiled then holds for one side of that alone. An example above it is
    right for small batches too, which parity proves; but of a batch of 1 to 16 only 16 itself would be left, as a constant.
    """
    dimensions = tuple(
        replace(each, max=-(-2 * _SHOWN_SIZE // each.multiple_of) * each.multiple_of)
        if each.formula is None and len(allowed(each)) > 1 and each.max < 2 * _SHOWN_SIZE
        else each
        for each in interface.dimensions
    )
    return replace(interface, dimensions=dimensions)


def examples_for(origin: FromNetwork, interface: Interface) -> Arrays:
    """Return the examples to compile with: the given ones, unless a size of theirs is small.

    Sizes are all different, and different from every fixed size: torch.export takes equal ones for one dimension.
    """
    small = {
        spec.name
        for spec in interface.inputs
        if any(
            isinstance(name, str) and size < _SHOWN_SIZE
            for name, size in zip(spec.shape, origin.examples[spec.name].shape, strict=True)
        )
    }
    if not small:
        return origin.examples
    taken = {size for spec in interface.inputs for size in spec.shape if isinstance(size, int)}
    sizes: dict[str, int] = {}
    for dimension in free_dimensions(interface.dimensions):
        every = allowed(dimension)
        large = (size for size in every if size >= _SHOWN_SIZE and size not in taken)
        sizes[dimension.name] = next(large, every[-1])
        taken.add(sizes[dimension.name])
    return make(interface, complete_sizes(interface.dimensions, sizes), seed=0, name="compiled").inputs


def _compiled(
    program: torch.export.ExportedProgram,
    prepared: Forward,
    options: AotInductorOptions,
    folder: Path,
    origin: FromNetwork,
) -> Path:
    """Compile into a folder, and return the package as torch writes it.

    Raises:
        ExportError: Inductor or the C++ compiler fails, in their own first line; or it takes less than is declared.
    """
    import torch
    from torch._inductor import aoti_compile_and_package

    kept = inductor.prepare()
    settings: dict[str, Any] = {
        "aot_inductor.enable_line_tables": False,  # they hold the paths of this machine
        "aot_inductor.model_name_for_generated_files": _NAME,
        # Inductor takes every size that varies for at least 2, and holds calls to that; what comes of 1 is for parity to say.
        "aot_inductor.check_lowerbound": False,
        "aot_inductor.metadata": {
            package.CAPABILITIES: " ".join(package.capabilities()),
            package.INPUTS: json.dumps(list(prepared.names)),
            **{f"WEIGHBRIDGE_{name.upper()}": value for name, value in sorted(origin.identity.items())},
        },
        "max_autotune": options.max_autotune,
        "freezing": options.freezing,
        "cpp.cxx": (None, str(_compiler_without_paths(kept))),
    }
    try:
        with torch.no_grad(), warnings.catch_warnings(), _private_cache(kept, folder):
            warnings.simplefilter("ignore")
            raw = Path(
                aoti_compile_and_package(program, package_path=str(folder / "raw.pt2"), inductor_configs=settings)
            )
    except Exception as error:
        raise ExportError(f"Inductor: {inductor.first_line(error)}", hint=_LEAVE_OUT) from error
    if problems := capture.narrowed(program, origin.interface, prepared.names):
        raise ExportError(
            f"Inductor: it compiled less than the config declares: {'; '.join(problems)}",
            hint="declare that range, or " + _LEAVE_OUT,
        )
    return raw


@contextmanager
def _private_cache(kept: Path, folder: Path) -> Iterator[None]:
    """Let Inductor compile in a folder of this export alone: the files of a model always have the same names."""
    private = folder / "cache"
    os.environ |= {inductor.FOLDER_VARIABLE: str(private), _PRIVATE: str(private)}
    logger = logging.getLogger("torch._inductor")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        os.environ[inductor.FOLDER_VARIABLE] = str(kept)
        del os.environ[_PRIVATE]


def _compiler_without_paths(kept: Path) -> Path:
    """Return a compiler to call that leaves this machine's paths out of what it makes: the C++ compiler, with names for them.

    It is called as the compiler itself is, since Inductor reads from that which one it is.
    """
    import torch

    command = inductor.command()
    places = {Path(torch.__file__).parents[1]: "torch", kept: _NAME}
    maps = shlex.join([command, *(f"-ffile-prefix-map={place}={name}" for place, name in places.items())])
    script = f'#!/bin/sh\nexec {maps} "-ffile-prefix-map=${_PRIVATE}={_NAME}" "$@"\n'
    target = kept / "compilers" / sha256(script.encode()).hexdigest()[:16] / Path(command).name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        temporary.write_text(script, encoding="utf-8")
        temporary.chmod(0o700)
        temporary.replace(target)
    return target


def _finish(raw: Path, target: Path, interface: Interface, names: Sequence[str]) -> dict[str, Any]:
    """Write the package without what is of no use to a runtime and names this machine: its sources; return facts of it.

    Raises:
        ExportError: the compiled code takes less than is declared.
    """
    with zipfile.ZipFile(raw) as archive:
        entries = zipped.below_root(archive) or {}
        sources = {name: entry for name, entry in entries.items() if name.endswith((".cpp", ".h", ".txt"))}
        wrapper = next(name for name in sources if name.endswith(".wrapper.cpp"))
        if problems := narrower(archive.read(sources[wrapper]).decode(errors="replace"), interface, names):
            raise ExportError(
                f"Inductor: it compiled less than the config declares: {'; '.join(problems)}",
                hint="declare that range, or " + _LEAVE_OUT,
            )
        dropped = {*sources, zipped.RANDOM}
        zipped.write(target, _ROOT, archive, {name: each for name, each in entries.items() if name not in dropped})
    found = package.read(target)
    return {
        "instructions": found.instructions,
        "machine": found.metadata.get("AOTI_MACHINE", ""),
        "compiler": inductor.compiler()[0],
    }


def narrower(source: str, interface: Interface, names: Sequence[str]) -> list[str]:
    """Return, for each size that compiled code refuses although it is declared, both ranges in words; `source` is the code."""
    largest = {each.name: allowed(each)[-1] for each in free_dimensions(interface.dimensions)}
    smallest = {each.name: allowed(each)[0] for each in free_dimensions(interface.dimensions)}
    shapes = {spec.name: spec.shape for spec in interface.inputs}
    parts = _CHECK.split(source)
    problems: dict[str, str] = {}
    for index, body in zip(parts[1::2], parts[2::2], strict=True):
        if int(index) >= len(names):
            continue
        shape = shapes[names[int(index)]]
        for found in _CHECKED.finditer(body.partition("\n}\n")[0]):
            axis = int(found[1] or found[4])
            name = shape[axis] if axis < len(shape) else None
            if name not in largest:
                continue
            declared = f"{name}: declared {smallest[name]} to {largest[name]}"
            if found[3]:
                if smallest[name] != largest[name]:
                    problems[name] = f"{declared}, compiled for {found[3]} only"
            elif int(found[2]) < largest[name]:
                problems[name] = f"{declared}, compiled for up to {found[2]}"
    return list(problems.values())
