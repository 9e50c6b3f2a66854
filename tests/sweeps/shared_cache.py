"""Many processes want one result at once, over an S3 server that fails, answers late and cuts answers short; some are killed between requests.

    python -m tests.sweeps.shared_cache [--processes COUNT] [--rounds COUNT] [--rate SHARE] [--late SECONDS] [--only ROUND]

A round is one key. Every process that lives gets the right bytes. The result is made once, and once more at most for each process
that was killed while it made it; nobody begins once one has finished.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from pipeline.storage.claims import Patience
from pipeline.storage.store import key
from tests import s3
from tests.sweeps.tally import tally

PATIENCE = Patience(beat_s=0.5, silent_s=8.0, late_s=4.0, poll_s=0.2)
BUILD_S = 0.5
VICTIMS = 5
MOST_REQUESTS, MOST_OF_BUILDER = 24, 6
"""A process that makes the result makes about as many, and once it has made it; one that waits makes more."""
LIMIT_S = 300
SEEN: Counter[str] = Counter()


class Mortal:
    """A place whose user is killed before, or right after, its nth request (of 0: never)."""

    def __init__(self, place, at, *, after):
        self._place, self._left, self._after = place, at, after
        self.url = place.url

    def arm(self, at):
        """Count anew."""
        self._left = at

    def __getattr__(self, name):
        ask = getattr(self._place, name)

        def asked(*given):
            self._left -= 1
            if self._left == 0 and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return ask(*given)
            finally:
                if self._left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        return asked


@dataclass(frozen=True)
class Kill:
    """Before, or after, which request a process is killed; `builder`: before which request of whoever begins to make the result first."""

    at: int = 0
    builder: int = 0
    after: bool = False


def want(url: str, folder: Path, name: str, log: Path, kill: Kill) -> None:
    """Get the result as a machine of its own, and write down what happens, a line each, in the order in which it happens."""
    from tests.storage.places import machine, signer

    def say(*words: object) -> None:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
        os.close(descriptor)

    def fill(where: Path) -> None:
        say("begins", name)
        if kill.builder and log.read_text().startswith(f"begins {name}\n"):
            mortal[0].arm(kill.builder)
        time.sleep(BUILD_S)
        (where / "model.bin").write_bytes(content(url))

    def through(place):
        mortal.append(Mortal(place, kill.at, after=kill.after))
        return mortal[0]

    mortal: list[Mortal] = []
    made = machine(url, folder / name, signer(folder.parent, "ours"), patience=PATIENCE, through=through)
    one = key(url)
    found = made.cache.get(one)
    if found is None:
        found = made.cache.put(one, fill, "a result")
    say("ends", name, "right" if (found / "model.bin").read_bytes() == content(url) else "WRONG")


def content(url: str) -> bytes:
    """Return what the result of a round is."""
    return random.Random(url).randbytes(50_000)


def one_round(case: tuple[int, Path, int]) -> None:
    """Let the processes of a round go, and hold what they wrote down against what is promised."""
    index, root, count = case
    folder, log = root / str(index), root / f"{index}.log"
    draw = random.Random(index)
    victims, kills = [], dict.fromkeys(range(count), Kill())
    if index % 3 == 1:
        victims = draw.sample(range(count), VICTIMS)
        kills |= {each: Kill(at=draw.randint(1, MOST_REQUESTS), after=draw.random() < 0.5) for each in victims}
    if index % 3 == 2:
        victims = list(range(count))
        kills = dict.fromkeys(victims, Kill(builder=draw.randint(1, MOST_OF_BUILDER), after=draw.random() < 0.5))
    url = f"s3://{s3.BUCKET}/round-{index}"
    processes = [
        multiprocessing.get_context("fork").Process(target=want, args=(url, folder, str(each), log, kills[each]))
        for each in range(count)
    ]
    for each in processes:
        each.start()
    for each in processes:
        each.join(LIMIT_S)
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    killed = {str(number) for number, each in enumerate(processes) if each.exitcode == -signal.SIGKILL}
    assert {each.exitcode for each in processes} <= {0, -signal.SIGKILL}, [each.exitcode for each in processes]
    assert killed <= {str(each) for each in victims}, f"killed: {killed}, meant: {victims}"
    begun = [line[1] for line in lines if line[0] == "begins"]
    ended = [line for line in lines if line[0] == "ends"]
    assert all(line[2] == "right" for line in ended), lines
    assert len(ended) >= count - len(killed), lines
    assert len([each for each in begun if each not in killed]) <= 1, f"made more than once: {lines}"
    assert len(begun) <= 1 + len(killed & set(begun)), lines
    first_end = next((number for number, line in enumerate(lines) if line[0] == "ends"), len(lines))
    assert all(line[0] != "begins" for line in lines[first_end:]), f"begun again after it was finished: {lines}"
    SEEN.update(processes=count, killed=len(killed), builders_killed=len(killed & set(begun)), builds=len(begun))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--rate", type=float, default=0.08)
    parser.add_argument("--late", type=float, default=0.5)
    parser.add_argument("--only", type=int)
    chosen = parser.parse_args()
    # Imported before any process is forked, and nothing of it used: each has connections of its own.
    import s3fs  # noqa: F401

    import tests.storage.places

    with tempfile.TemporaryDirectory() as name, s3.serving(7, chosen.rate, chosen.late) as environment:
        os.environ.update(environment)
        root = Path(name).resolve()
        tests.storage.places.signer(root, "ours")
        rounds = range(chosen.rounds) if chosen.only is None else [chosen.only]
        claim = f"{chosen.processes} processes × {len(rounds)} rounds"
        failures = tally(claim, [(each, root, chosen.processes) for each in rounds], one_round)
        with urlopen(f"{environment['AWS_ENDPOINT_URL']}/counts") as answer:  # noqa: S310 - ours
            print("the server:", answer.read().decode())
    print(f"the processes: {dict(SEEN)}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
