"""Jobs done in this very process, for tests and debuggers: the same messages, and nothing that limits or survives them."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pipeline.errors import WeighbridgeError, WorkerError
from pipeline.worker import job, wire

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from pipeline.worker.job import Request

A = TypeVar("A")
_ONE_AT_A_TIME = threading.RLock()  # exporters change what all threads see


@dataclass(frozen=True, slots=True)
class InProcessRunner:
    """Starts workers that are this process: threads, environment and time limits are not what was asked for."""

    packages: tuple[str, ...] = ()

    def start(
        self,
        label: str,
        *,
        threads: int,
        environment: Mapping[str, str] | None = None,
        modules: Sequence[str] = (),
        fresh: bool = False,
    ) -> InProcessWorker:
        """Return a worker that needs no start."""
        del threads, environment, modules, fresh
        return InProcessWorker(label, self.packages)

    def expect(self, modules: Sequence[str]) -> None:
        """Import nothing before it is needed."""


class InProcessWorker:
    """A context of its own in this process; what a job raises keeps its traceback."""

    def __init__(self, label: str, packages: tuple[str, ...]) -> None:
        self.label = label
        self._packages = packages
        self.peak_bytes = None
        self._context: job.Context | None = job.Context()

    @property
    def alive(self) -> bool:
        """Whether it can still be called."""
        return self._context is not None

    def call(self, request: Request[A], *, timeout_s: float) -> A:
        """Do a job here, however long it takes; its request and answer go through the wire all the same."""
        del timeout_s
        if self._context is None:
            raise WorkerError(f"{self.label} was ended")
        sent = job.request_from(_carried(job.message_of(request)), self._packages)
        try:
            with _ONE_AT_A_TIME:
                answer = job.answer_of(sent, sent.run(self._context))
        except WeighbridgeError:
            raise
        except Exception as error:
            raise job.raised(job.failure_of(error), self.label) from error
        return job.answer_from(request, _carried(answer)).answer

    def end(self) -> None:
        """Forget what its jobs left."""
        self._context = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end()


def _carried(document: object) -> object:
    """Return a document as it is behind the wire."""
    file = io.BytesIO()
    wire.dump(file, document)
    file.seek(0)
    return wire.load(file)
