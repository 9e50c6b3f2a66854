"""What a backend is: a frozen record of functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - read when requests are validated
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from pipeline.interface import Interface  # noqa: TC001 - as above
from pipeline.rebuild.network import Network  # noqa: TC001 - as above

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.backends.placement import Placement
    from pipeline.interface import Arrays


class Options(BaseModel):
    """Options common to all backends."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Source:
    """What a backend opens: the network itself, or a file an exporter wrote.

    `profile` is a folder of the caller's to record in where each node runs, None for a session that is not watched.
    `custom_ops` is a library of operators that the file needs, as somebody named it on the command line.
    """

    interface: Interface
    file: Path | None = None
    network: Network | None = None
    profile: Path | None = None
    custom_ops: Path | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """An opened model.

    `run` takes and returns numpy arrays by name and never aliases what it returned before. `bind` fixes the inputs and
    returns the call that is timed: host arrays in, host arrays out, complete when it returns. `placement` ends the recording
    of a watched session and says where its calls ran (see `pipeline.backends.placement.summary`); None if it cannot.
    `facts` may grow with the calls: they are read when it was opened, and once more at the end.
    `bind_on_device` fixes the inputs in the device's own memory and returns a function that makes so many calls and returns
    how long each took there, in ns, without copies to or from the host; None for what runs in the host's memory anyway.
    """

    run: Callable[[Arrays], dict[str, Any]]
    bind: Callable[[Arrays], Callable[[], object]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    placement: Callable[[], Placement] | None = None
    bind_on_device: Callable[[Arrays], Callable[[int], list[int]]] | None = None


@dataclass(frozen=True, slots=True)
class Backend:
    """A way to run a model.

    `format` is the format it opens, None for the network itself. `probe` returns None if it can run here and
    otherwise the reason; `install` says what to install then. `open` raises `UnavailableError` rather than running
    anywhere but on `device`. `modules` are the packages it needs, which are imported first so that their time is known (a "module:function" is called);
    `distributions` those whose versions its results depend on. `ladder` names, from the plainest on, ways in which it runs a
    file, each with its options: the first that breaks says where an error comes in; without it there is one way.
    `device_facts` says which device it would run on, with its driver, beside the processor: results hold for that one only.
    `judges_products`: what its format's `judge_products` runs is computed as it computes a whole file.
    `provider` returns, for options, the execution provider of onnxruntime that runs the file, with the options that onnxruntime
    takes for it, all of them text; None where those do not say all of it, and None itself for what is not onnxruntime.
    `tunable` are options that change how it computes and not what, each with the values that are worth trying; `threads_option` is
    the one that says how many threads it has, "" where there is none. `weighbridge tune` tries these, each proven before it may win,
    and no recommendation can set any other. `session` returns, for options, what onnxruntime's SessionOptions are set to by their
    names there, as others who open the file have to; None for what is not onnxruntime.
    """

    name: str
    summary: str
    format: str | None
    device: str
    install: str
    options: type[Options]
    probe: Callable[[], str | None]
    open: Callable[[Source, Options], Session]
    modules: tuple[str, ...] = ()
    distributions: tuple[str, ...] = ()
    ladder: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    device_facts: Callable[[], str] = lambda: ""
    provider: Callable[[Options], tuple[str, Mapping[str, str]] | None] | None = None
    judges_products: bool = False
    tunable: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    threads_option: str = ""
    session: Callable[[Options], Mapping[str, int]] | None = None
