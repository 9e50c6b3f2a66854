"""A distribution with a backend and a format that commit faults: with its folder in PYTHONPATH, runs find its entry points."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Literal

from pipeline.backends.backend import Backend, Session
from pipeline.backends.backend import Options as BackendOptions
from pipeline.backends.onnxruntime import ONNXRUNTIME_CPU
from pipeline.formats.format import Format
from pipeline.formats.format import Options as FormatOptions

if TYPE_CHECKING:
    from pipeline.backends.backend import Source


def _fork_and_hang():
    os.fork()
    time.sleep(3600)


def _fork_and_crash():
    if os.fork() == 0:
        time.sleep(3600)  # it holds the channel and the output of its parent open
    ctypes.string_at(0)


def _exhaust_memory():
    held = []
    while True:
        held.append(bytearray(os.urandom(1 << 20)) * 16)


def _flood():
    while True:
        os.write(1, b"x" * (1 << 16))


def _answer_garbage():
    os.write(_channel(), b"\x08" + bytes(7) + b"garbage!")
    time.sleep(3600)


def _close_channel():
    os.close(_channel())
    time.sleep(3600)


def _channel():
    return int(sys.argv[1])


FAULTS = {
    "SIGSEGV": lambda: ctypes.string_at(0),
    "SIGFPE": lambda: os.kill(os.getpid(), signal.SIGFPE),
    "SIGABRT": os.abort,
    "_exit": lambda: os._exit(7),
    "hang": lambda: time.sleep(3600),
    "fork and hang": _fork_and_hang,
    "fork and crash": _fork_and_crash,
    "memory": _exhaust_memory,
    "flood": _flood,
    "garbage": _answer_garbage,
    "closed channel": _close_channel,
}


class Faults(BackendOptions):
    fault: str
    during: Literal["open", "run", "benchmark"]


class ExportFaults(FormatOptions):
    fault: str


def _open(source: Source, options: BackendOptions) -> Session:
    """Open what onnxruntime opens, and commit the fault when its time has come."""
    assert isinstance(options, Faults)
    if options.during == "open":
        FAULTS[options.fault]()
    session = ONNXRUNTIME_CPU.open(source, ONNXRUNTIME_CPU.options())

    def run(inputs):
        if options.during == "run":
            FAULTS[options.fault]()
        return session.run(inputs)

    def bind(inputs):
        call = session.bind(inputs)
        return FAULTS[options.fault] if options.during == "benchmark" else call

    return Session(run, bind, session.facts)


def _export(_job, options):
    FAULTS[options.fault]()


FAULTY = Backend(
    name="faulty",
    summary="onnxruntime until a fault is committed",
    format="onnx",
    device="cpu",
    install="nothing",
    options=Faults,
    probe=lambda: None,
    open=_open,
)
UNREACHED = Backend(
    name="unreached",
    summary="what would run the file that the faulty format never writes",
    format="faulty",
    device="cpu",
    install="nothing",
    options=BackendOptions,
    probe=lambda: None,
    open=_open,
)
FORMAT = Format("faulty", "commits a fault", ExportFaults, "model.faulty", export=_export)
