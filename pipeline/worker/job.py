"""What a worker can be asked: a request is a frozen model that knows how to answer itself, and says what the answer is.

    class Count(Request[Counted]):
        file: Path

        def run(self, _: Context) -> Counted: ...

    counted = worker.call(Count(file=path), timeout_s=60)

Between processes goes the request's class by name with its fields, and the answer's fields back (see `pipeline.worker.wire`).
"""

from __future__ import annotations

import gc
import re
import traceback
from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict, model_validator

from pipeline import errors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_OWN_PACKAGE = "pipeline"
_PLUGIN_GROUPS = "weighbridge."

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)
Value = TypeVar("Value")


class Model(BaseModel):
    """A frozen value that goes over the wire; its fields may be arrays."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _as_json_has_them(cls, values: object) -> object:
        """Take tuples for lists, as the wire does: a JSON value may hold no other kind of sequence."""
        return _lists(values)


class Context:
    """What the jobs of one worker leave behind for later ones: of each class one value."""

    def __init__(self) -> None:
        self._left: dict[type[object], object] = {}

    def leave(self, value: object) -> None:
        """Leave a value in the place of the one of its class that was left before."""
        self._left[type(value)] = value

    def find(self, kind: type[Value]) -> Value:
        """Return what an earlier job left.

        Raises:
            DefectError: there was none that leaves a value of this class.
        """
        value = self._left.get(kind)
        if not isinstance(value, kind):
            raise errors.DefectError(f"a process was asked for what needs its {kind.__name__}, which no job has left")
        return value

    def take(self, kind: type[Value]) -> Value:
        """Return what an earlier job left, for the last time; raises as `find`."""
        value = self.find(kind)
        del self._left[kind]
        return value


class Request(Model, ABC, Generic[A_co]):
    """Something to be done in a worker; its class is `Request[ANSWER]`, of any type that pydantic validates.

    `is_lasting`: it leaves something in the context, so that a crash in a later job can only be repeated after it.
    """

    is_lasting: ClassVar[bool] = False

    @abstractmethod
    def run(self, context: Context, /) -> A_co:
        """Do it, in the worker, and return the answer."""


@contextmanager
def without_collection() -> Iterator[None]:
    """Do a job without looking for cycles.

    Exporters make millions of small objects that live until the end: looking through them takes a sixth of the time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Answer(Model, Generic[A]):
    """What comes back of a request."""

    answer: A


class Failure(Model):
    """What a job raised instead: the name of its class, and for what is no error of ours the traceback."""

    kind: str
    message: str
    hint: str | None = None
    about: str | None = None
    trace: str | None = None


class _Asked(Model):
    """A message that carries a request: its class as "module:name", and its fields."""

    job: str
    request: dict[str, object]


def title(request: Request[object]) -> str:
    """Return a request in words, as messages name it: "find culprit" for FindCulprit."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(request).__name__).lower()


def request_from(message: object, packages: Collection[str] = ()) -> Request[object]:
    """Return the request that a message carries: of weighbridge, of a distribution that extends it, or of `packages`.

    Raises:
        DefectError: there is no such job, or it is of another package.
    """
    asked = _Asked.model_validate(message)
    job = asked.job
    module, _, name = job.partition(":")
    top = module.partition(".")[0]
    if top != _OWN_PACKAGE and top not in packages and top not in _plugins():
        raise errors.DefectError(f"{job} is no job: {top} is neither {_OWN_PACKAGE} nor a plugin of it")
    found = getattr(import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, Request)):
        raise errors.DefectError(f"{job} is no job: {module} it has none of that name")
    return cast("Request[object]", found.model_validate(asked.request))


def answer_of(request: Request[A], answer: object) -> dict[str, object]:
    """Return the message that carries an answer; raises pydantic's ValidationError where it is not what was promised."""
    return _answer_type(type(request))(answer=answer).model_dump()


def answer_from(request: Request[A], message: object) -> Answer[A]:
    """Return the answer that a message carries; raises as `answer_of`."""
    return _answer_type(type(request)).model_validate(message)


def message_of(request: Request[A]) -> dict[str, object]:
    """Return the message that carries a request."""
    return {"job": f"{type(request).__module__}:{type(request).__qualname__}", "request": request.model_dump()}


def done(context: Context, message: object, packages: Collection[str]) -> dict[str, object]:
    """Do what a message asks for, in the worker, and return the message that replies to it."""
    try:
        request = request_from(message, packages)
        return answer_of(request, request.run(context))
    except Exception as error:  # noqa: BLE001 - whatever a library raised is this job's answer
        return {"failure": failure_of(error).model_dump()}


def failure_of(error: Exception) -> Failure:
    """Return what a job raised as it goes over the wire."""
    kind = type(error).__name__
    if isinstance(error, errors.WeighbridgeError):
        return Failure(kind=kind, message=error.message, hint=error.hint, about=error.about)
    trace = "".join(traceback.format_exception(error))
    return Failure(kind=kind, message=str(error).strip() or kind, trace=trace)


def raised(failure: Failure, label: str, allowance: str = "") -> errors.WeighbridgeError:
    """Return a failure as the error of ours that it was; anything that is not one is a crash of the worker `label`."""
    kind = getattr(errors, failure.kind, None)
    if isinstance(kind, type) and issubclass(kind, errors.WeighbridgeError):
        return kind(failure.message, hint=failure.hint, about=failure.about)
    error = errors.WorkerError(f"{label} failed: {failure.kind}: {failure.message}{allowance}", hint=failure.hint)
    error.add_note(failure.trace or "")
    return error


def _lists(value: object) -> object:
    if isinstance(value, dict):
        return {key: _lists(each) for key, each in value.items()}
    return [_lists(each) for each in value] if isinstance(value, list | tuple) else value


@cache
def _answer_type(request: type[Request[A]]) -> type[Answer[A]]:
    """Return the type of the message that answers a request: what its class has in brackets is the answer's."""
    generics = [each.__pydantic_generic_metadata__ for each in request.__mro__ if issubclass(each, Request)]
    (answer,) = next(each["args"] for each in generics if each["origin"] is Request)
    return cast("type[Answer[A]]", Answer[answer])  # type: ignore[valid-type]  # known when it runs


@cache
def _plugins() -> frozenset[str]:
    """Return the packages of distributions that extend weighbridge."""
    groups = [each for each in entry_points().groups if each.startswith(_PLUGIN_GROUPS)]
    return frozenset(entry.module.partition(".")[0] for each in groups for entry in entry_points(group=each))
