"""Where jobs are done: a runner starts workers, and a worker answers requests until it is ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from pipeline.worker.job import Request

A = TypeVar("A")


class Worker(Protocol):
    """Answers requests one at a time; use it as a context manager. `label` names it in messages."""

    @property
    def label(self) -> str:
        """What it is called in messages."""

    @property
    def alive(self) -> bool:
        """Whether it can still be called."""

    @property
    def peak_bytes(self) -> int | None:
        """The most memory it has had resident, in bytes; None where that cannot be told."""

    def call(self, request: Request[A], *, timeout_s: float) -> A:
        """Have a request answered.

        Raises:
            WeighbridgeError: what the job raised, with its own class, message and hint.
            WorkerError: it raised something else, crashed, hung past `timeout_s` or answered garbage.
        """

    def end(self) -> None:
        """Let go of it and of everything that its jobs left; it cannot be called afterwards."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...


class Runner(Protocol):
    """Starts workers: in processes of this machine, in this process, or elsewhere."""

    def start(
        self,
        label: str,
        *,
        threads: int,
        environment: Mapping[str, str] | None = None,
        modules: Sequence[str] = (),
        fresh: bool = False,
    ) -> Worker:
        """Start a worker whose libraries use up to `threads` threads, with further environment variables.

        `modules` are what its jobs will need: they may be imported once for several workers. A `fresh` one shares nothing with any
        other process, so that its imports, its memory and its timings are its own.
        """

    def expect(self, modules: Sequence[str]) -> None:
        """Say what the jobs of workers that are started soon will need, so that it can be imported meanwhile."""
