"""The network itself, compiled by torch.compile: a contestant that leaves no file behind."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipeline.backends import inputs, pytorch
from pipeline.backends.backend import Backend, Options, Session, Source
from pipeline.errors import InputError, UnavailableError, WeighbridgeError, WorkerError
from pipeline.formats import inductor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pipeline.interface import Arrays

_MOST_RECOMPILES = 64
"""Of one network: each dimension may turn out to vary by itself, and sizes of 1 are compiled apart. torch's own limit is 8."""


class CpuOptions(Options):
    """Options of torch.compile on the CPU."""

    threads: int | None = Field(None, ge=1, description="threads of one operator; default: the run's")
    compiler: Literal["inductor", "aot_eager", "eager"] = Field(
        "inductor",
        description="inductor compiles; aot_eager and eager only capture, and run what was captured with PyTorch's own operators",
    )
    mode: Literal["default", "max-autotune"] = Field(
        "default", description="max-autotune also times several ways to multiply matrices; that takes longer"
    )
    freezing: bool = Field(
        default=False, description="compile the weights in, so that they can be laid out anew; needs more memory"
    )
    dynamic: bool = Field(
        default=False,
        description="time the code that serves all sizes; without it each size that is timed gets code of its own",
    )


def _open(source: Source, options: Options) -> Session:
    from pipeline.rebuild import calling, model

    assert isinstance(options, CpuOptions)  # noqa: S101 - the table pairs them
    if source.network is None:
        raise InputError(
            "torch-compile compiles the network itself, and a release holds only what was exported from it",
            hint="leave --backend out: the fastest proven one is taken",
        )
    facts = pytorch.prepare("cpu", options)
    folder = inductor.prepare()
    loaded = model.load(source.network, device="cpu")
    binding = calling.bind(loaded.module, source.interface)
    compiled = _Compiled(calling.method_of(loaded.module, binding), options, facts, folder)

    def session_of(called: Callable[..., Any]) -> Session:
        return pytorch.session(called, binding.arguments, source.interface, "cpu", facts)

    general = session_of(compiled.general)

    def run(arrays: Arrays) -> dict[str, Any]:
        inputs.check_inputs(source.interface, arrays)
        return general.run(arrays)

    def bind(arrays: Arrays) -> Callable[[], object]:
        inputs.check_inputs(source.interface, arrays)
        return session_of(compiled.for_sizes({name: array.shape for name, array in arrays.items()})).bind(arrays)

    return replace(general, run=run, bind=bind)


class _Compiled:
    """What was compiled of one network: code for all sizes, and code for each combination of sizes that is timed.

    Whatever is compiled is so at its first call, as by hand, and `facts` say afterwards what that came to.
    """

    def __init__(self, called: Callable[..., Any], options: CpuOptions, facts: dict[str, Any], folder: Path) -> None:
        self._called = called
        self._options = options
        self._facts = facts
        self._sizes: dict[tuple[tuple[str, tuple[int, ...]], ...], Callable[..., Any]] = {}
        # Without `dynamic` torch makes code of the first sizes, and code for all when others come: both are proven.
        self.general = self._checked(True if options.dynamic else None)
        self._facts |= {
            "mode": options.mode,
            "compiler": options.compiler,
            "cache_folder": str(folder),
            "compile_s": 0.0,
        }

    def for_sizes(self, sizes: Mapping[str, tuple[int, ...]]) -> Callable[..., Any]:
        """Return the code that is timed at some sizes: of their own, unless one is to serve all."""
        if self._options.dynamic:
            return self.general
        key = tuple(sorted(sizes.items()))
        if key not in self._sizes:
            self._sizes[key] = self._checked(dynamic=False)
        return self._sizes[key]

    def _checked(self, dynamic: bool | None) -> Callable[..., Any]:  # noqa: FBT001 - torch's own argument
        """Return the compiled network; each call in which something is compiled is looked at, and what fails is one line."""
        import torch
        from torch._dynamo.utils import counters

        called, is_inductor = self._called, self._options.compiler == "inductor"

        def network(*positional: Any, **keywords: Any) -> Any:
            return called(*positional, **keywords)

        compiled = torch.compile(  # type: ignore[call-overload]  # torch 2.13's overloads lack the last two
            network,
            dynamic=dynamic,
            backend=self._options.compiler,
            options=self._inductor_options() if is_inductor else None,
            recompile_limit=_MOST_RECOMPILES,
            isolate_recompiles=True,
        )
        frames = counters["frames"]

        def call(*positional: Any, **keywords: Any) -> Any:
            before, began = frames["total"], time.perf_counter()
            try:
                result = compiled(*positional, **keywords)
            except WeighbridgeError:
                raise
            except Exception as error:
                raise WorkerError(
                    f"torch.compile: {inductor.first_line(error)}", hint="leave torch-compile out of `backends`"
                ) from error
            if frames["total"] != before or not self._facts.get("graphs"):
                self._tell(time.perf_counter() - began)
            return result

        return call

    def _inductor_options(self) -> dict[str, Any]:
        from torch._inductor import list_mode_options

        chosen: dict[str, Any] = dict(list_mode_options(self._options.mode))
        return chosen | {"freezing": self._options.freezing}

    def _tell(self, seconds: float) -> None:
        """Write down what was compiled in a call, and what that took with the call itself.

        Raises:
            UnavailableError: nothing was, so that this would be the network run eagerly.
        """
        from torch._dynamo.utils import counters

        graphs = counters["stats"]["unique_graphs"]
        if not graphs:
            raise UnavailableError(
                "torch.compile compiled nothing of this network, which then runs eagerly",
                hint="unset TORCH_COMPILE_DISABLE and TORCHDYNAMO_DISABLE; or leave torch-compile out of `backends`",
            )
        breaks = {str(why).splitlines()[0][:120]: count for why, count in counters["graph_break"].items()}
        self._facts["compile_s"] += seconds
        self._facts |= {
            "graphs": graphs,
            "graphs_from_cache": counters["inductor"]["fxgraph_cache_hit"],
            "graph_breaks": sum(breaks.values()),
            "graph_break_reasons": list(breaks),
            "frames_run_eagerly": counters["frames"]["total"] - counters["frames"]["ok"],
        }


TORCH_COMPILE = Backend(
    name="torch-compile",
    summary="the network itself, compiled by torch's Inductor for this processor",
    format=None,
    device="cpu",
    install=inductor.INSTALL,
    options=CpuOptions,
    probe=lambda: inductor.probe(with_python=True),
    open=_open,
    modules=("torch", "torch._dynamo"),
    distributions=("torch",),
    ladder=(
        ("captured", {"compiler": "eager"}),
        ("captured as operators", {"compiler": "aot_eager"}),
        ("compiled", {"compiler": "inductor"}),
    ),
    device_facts=lambda: inductor.compiler()[0],
)
