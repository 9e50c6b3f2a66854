"""Jobs that fail in every way, and a few that do not."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

import numpy as np
from pydantic import JsonValue

from pipeline.errors import InputError
from pipeline.interface import Array, Case
from pipeline.worker.job import Context, Model, Request


class Ping(Request[str]):
    def run(self, _: Context) -> str:
        return "pong"


class Echo(Request[dict[str, Array]]):
    values: dict[str, Array]

    def run(self, _: Context) -> dict[str, Array]:
        return self.values


class Grown(Model):
    case: Case
    number: int
    words: tuple[str, ...] = ()


class Grow(Request[Grown]):
    given: Grown

    def run(self, _: Context) -> Grown:
        return Grown(case=self.given.case, number=self.given.number + 1, words=(*self.given.words, "more"))


class Describe(Request[dict[str, JsonValue]]):
    given: dict[str, JsonValue]

    def run(self, _: Context) -> dict[str, JsonValue]:
        return {**self.given, "pair": (1, {"inner": ()}), "number": np.float64(0.5)}


class Remember(Request[None]):
    word: str
    is_lasting = True

    def run(self, context: Context) -> None:
        context.leave(Grown(case=Case("", {}, {}), number=0, words=(self.word,)))


class Recall(Request[str]):
    def run(self, context: Context) -> str:
        return context.find(Grown).words[0]


class Forget(Request[str]):
    def run(self, context: Context) -> str:
        return context.take(Grown).words[0]


class Refuse(Request[None]):
    def run(self, _: Context) -> None:
        raise InputError("this is wrong", hint="do that")


class Divide(Request[float]):
    def run(self, _: Context) -> float:
        return 1 / 0


class BreakPromise(Request[int]):
    def run(self, _: Context) -> int:
        return "a word"


class Kill(Request[None]):
    number: int

    def run(self, _: Context) -> None:
        os.kill(os.getpid(), self.number)


class Leave(Request[None]):
    status: int = 7

    def run(self, _: Context) -> None:
        os._exit(self.status)


class SayLastWords(Request[None]):
    def run(self, _: Context) -> None:
        print("the disk is on fire", file=sys.stderr)
        os._exit(3)


class Fault(Request[None]):
    def run(self, _: Context) -> None:
        ctypes.string_at(0)


class Fork(Request[int]):
    def run(self, _: Context) -> int:
        return os.fork() or time.sleep(300)


class ForkAndHang(Request[None]):
    def run(self, _: Context) -> None:
        os.fork()
        time.sleep(300)


class ForkAndCrash(Request[None]):
    def run(self, _: Context) -> None:
        if os.fork() == 0:
            time.sleep(300)  # it holds the channel open
        os.kill(os.getpid(), signal.SIGSEGV)


class ExhaustMemory(Request[None]):
    def run(self, _: Context) -> None:
        held = []
        while True:
            held.append(bytearray(os.urandom(1 << 20)) * 16)


class Sleep(Request[None]):
    def run(self, _: Context) -> None:
        time.sleep(300)


class Flood(Request[str]):
    def run(self, _: Context) -> str:
        for _each in range(2000):
            os.write(1, b"x" * 4096)
        return "done"


class AnswerGarbage(Request[None]):
    """Answers bytes that are no message, or with `text` a message that is no answer."""

    text: str = ""

    def run(self, _: Context) -> None:
        header = self.text.encode() or b"garbage!"
        os.write(int(sys.argv[1]), len(header).to_bytes(8, "little") + header)
        time.sleep(30)


class CloseChannel(Request[None]):
    def run(self, _: Context) -> None:
        os.close(int(sys.argv[1]))
        time.sleep(300)


class Surroundings(Model):
    loaded: bool
    parent: int
    threads: int
    capability: str
    random: float
    hashed: int
    environment: dict[str, str]
    directory: str
    path: tuple[str, ...]
    arguments: tuple[str, ...]
    open_files: int


class Tell(Request[tuple[int, bool]]):
    """Which process this one is a child of, and whether a module is there already."""

    module: str = "torch"

    def run(self, _: Context) -> tuple[int, bool]:
        return os.getppid(), self.module in sys.modules


class LookAround(Request[Surroundings]):
    def run(self, _: Context) -> Surroundings:
        loaded = "torch" in sys.modules
        import torch

        return Surroundings(
            loaded=loaded,
            parent=os.getppid(),
            threads=torch.get_num_threads(),
            capability=torch.backends.cpu.get_cpu_capability(),
            random=float(np.random.random_sample()),  # noqa: NPY002 - the state that everybody shares
            hashed=hash("weighbridge"),
            environment=dict(os.environ),
            directory=os.getcwd(),  # noqa: PTH109
            path=tuple(sys.path),
            arguments=tuple(sys.argv[3:]),
            open_files=len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        )


class Compute(Request[dict[str, Array]]):
    """Arithmetic whose last bits depend on the instructions that a library chose."""

    def run(self, _: Context) -> dict[str, Array]:
        import torch

        torch.manual_seed(0)
        x, images = torch.randn(64, 333), torch.randn(2, 7, 19, 19)
        return {
            "product": (x @ x.T).numpy(),
            "convolved": torch.nn.functional.conv2d(images, torch.randn(5, 7, 3, 3)).numpy(),
            "summed": x.exp().sum(1).numpy(),
        }
