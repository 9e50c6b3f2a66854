"""Who builds a result that several machines want: one of them, by a claim that nobody else can make, and that its beat keeps alive.

At a place of objects: `claims/<key>/<n>` is made once, by whoever builds; `claims/<key>/<n>.beat` is rewritten while that goes
on, and says at last whether it is done. Whoever finds a claim made waits for the result. Where the beat has not changed for some
time by its own clock (no two clocks are compared), the builder is taken for dead and claim n + 1 is made.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from pipeline.errors import STOPPING, InterruptedRunError, WeighbridgeError
from pipeline.storage.objects import insisting
from pipeline.storage.store import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from pipeline.storage.objects import Objects

_MOST_BYTES = 4096
_BEAT = ".beat"
_State = Literal["building", "done", "given up"]


@dataclass(frozen=True, slots=True)
class Patience:
    """In seconds: between two beats, after how much silence a builder is dead, how late what is done may be seen, between two looks."""

    beat_s: float = 5.0
    silent_s: float = 30.0
    late_s: float = 10.0
    poll_s: float = 1.0


class Claims:
    """The claims at a place; one object for a process, whose threads may all use it.

    `writer`: whose result will be what is claimed here; `trusted`: whose claims are waited for.
    """

    def __init__(self, objects: Objects, patience: Patience, writer: str, trusted: Collection[str]) -> None:
        self._objects, self._patience = objects, patience
        self._writer, self._trusted = writer, trusted
        self._held: dict[str, _Claim] = {}
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, key: str, about: str, look: Callable[[], bool], notice: Callable[[str], None]) -> Iterator[bool]:
        """Yield False when it is on this process to make a result, True once `look` has found that somebody else did.

        What was made and put where others find it is told with `done`; without it others are told that it was given up.

        Raises:
            UnavailableError: the place cannot be used.
            InterruptedRunError: the run is stopped while it waits.
        """
        claim = self._claim(key, about, look, notice)
        if claim is None:
            yield True
            return
        with self._lock:
            self._held[key] = claim
        claim.begin()
        try:
            yield False
        finally:
            with self._lock:
                self._held.pop(key, None)
            claim.end("given up")

    def is_held(self, key: str) -> bool:
        """Whether this process has the claim."""
        with self._lock:
            return key in self._held

    def done(self, key: str) -> None:
        """Tell the others that a result is where they find it."""
        with self._lock:
            claim = self._held.get(key)
        if claim is not None:
            claim.end("done")

    def forget(self, key: str) -> None:
        """Remove the claims that ended, so that what was done may be done again."""
        for number in self._numbers(key):
            if _state(self._beat(key, number)) != "building":
                for name in (f"{_name(key, number)}{_BEAT}", _name(key, number)):
                    insisting(self._objects.url, partial(self._objects.remove, name))

    def _claim(self, key: str, about: str, look: Callable[[], bool], notice: Callable[[str], None]) -> _Claim | None:
        """Return the claim once it is made here; None where `look` has found the result."""
        mark = canonical_json({"owner": secrets.token_hex(16), "writer": self._writer})
        number, told = max(self._numbers(key), default=0), False

        def tell() -> None:
            nonlocal told
            if not told:
                notice(f"waiting for another machine that makes {about or key[:12]}")
            told = True

        while True:
            if self._made(key, number, mark):
                return _Claim(self._objects, key, number, self._patience)
            became = self._waited(key, number, mark, look, tell)
            if became == "ours":
                return _Claim(self._objects, key, number, self._patience)
            if became == "found":
                return None
            number += 1

    def _waited(
        self, key: str, number: int, mark: bytes, look: Callable[[], bool], tell: Callable[[], None]
    ) -> Literal["ours", "found", "over"]:
        """Return what became of a claim that is there already, after waiting as long as something may still come of it."""
        watch = _Watch(self._patience)
        while True:
            claim = self._read(_name(key, number))
            if claim == mark:  # the answer to that was lost
                return "ours"
            if look():
                return "found"
            if not self._counts(claim):
                return "over"
            tell()
            if watch.is_over(self._beat(key, number)):
                return "over"
            if STOPPING.wait(self._patience.poll_s):
                raise InterruptedRunError

    def _counts(self, claim: bytes | None) -> bool:
        """Whether a claim is worth waiting for: not if it says that its result will be signed by somebody else's key."""
        with suppress(ValueError, TypeError, KeyError):
            return claim is None or json.loads(claim)["writer"] in self._trusted
        return True

    def _made(self, key: str, number: int, mark: bytes) -> bool:
        return insisting(self._objects.url, lambda: self._objects.create(_name(key, number), mark))

    def _numbers(self, key: str) -> list[int]:
        names = insisting(self._objects.url, lambda: self._objects.names(f"claims/{key}"))
        return [int(each) for each in names if each.isdecimal()]

    def _beat(self, key: str, number: int) -> bytes | None:
        return self._read(f"{_name(key, number)}{_BEAT}")

    def _read(self, name: str) -> bytes | None:
        return insisting(self._objects.url, lambda: self._objects.read(name, 0, _MOST_BYTES))


class _Watch:
    """How long a claim's beat has been what it is."""

    def __init__(self, patience: Patience) -> None:
        self._patience, self._seen, self._since_s = patience, b"", time.monotonic()

    def is_over(self, beat: bytes | None) -> bool:
        """Whether nothing more comes of the claim, now that its beat is this."""
        if beat is not None and beat != self._seen:  # one that is not there any more has not beaten
            self._seen, self._since_s = beat, time.monotonic()
        state, still_s = _state(self._seen), time.monotonic() - self._since_s
        if state == "done":
            return still_s > self._patience.late_s
        return state == "given up" or still_s > self._patience.silent_s


class _Claim:
    """A claim that was made here: it beats from `begin` to `end`."""

    def __init__(self, objects: Objects, key: str, number: int, patience: Patience) -> None:
        self._objects, self._name, self._patience = objects, f"{_name(key, number)}{_BEAT}", patience
        self._count = 0
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def begin(self) -> None:
        threading.Thread(target=self._go_on, daemon=True, name="claim").start()

    def end(self, state: _State) -> None:
        """Say how it ended, the first time."""
        with self._lock:
            if self._ended.is_set():
                return
            self._ended.set()
            with suppress(WeighbridgeError):  # others then wait for as long as for a dead builder
                insisting(self._objects.url, lambda: self._write(state))

    def _go_on(self) -> None:
        while True:
            with self._lock:
                if self._ended.is_set():
                    return
                with suppress(Exception):  # a beat that is lost is followed by others
                    self._write("building")
            if self._ended.wait(self._patience.beat_s):
                return

    def _write(self, state: _State) -> None:
        self._count += 1
        self._objects.replace(self._name, canonical_json({"beat": self._count, "state": state}))


def _name(key: str, number: int) -> str:
    return f"claims/{key}/{number}"


def _state(beat: bytes | None) -> str:
    with suppress(ValueError, TypeError, KeyError):
        return str(json.loads(beat or b"{}")["state"])
    return "building"
