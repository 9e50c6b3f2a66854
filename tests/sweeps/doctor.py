"""How often the doctor explains a misfit that nobody chose, and whether it ever presents a wrong change as right.

    python -m tests.sweeps.doctor [SEED [COUNT]]

Misfits are drawn over the shipped networks, a third with two causes. An explanation counts only if it took no more
processor time than a user's search may take on the clock: a busy machine decides nothing here. The printed change is then applied as a config would: it must load strictly, each tensor where it belongs.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from itertools import zip_longest

import torch

from pipeline.checkpoint import fit
from pipeline.checkpoint.search import SEARCH_SECONDS
from pipeline.errors import MisfitError
from tests.checkpoint.drawn import draw, draw_unfit
from tests.checkpoint.misfits import AMPLE, Misfit, explained, loads_strictly

BAR = 0.9
SEED, COUNT = 1, 120


def judged(case: Misfit) -> tuple[str, str]:
    """Return "right", "none" or "wrong", and the explanation's first line."""
    with torch.device("meta"):
        network = case.make(**case.configured)
    tensors, notes = fit.align(case.file(), network.state_dict())
    found = explained(case, tensors, seconds=AMPLE)
    if found is None:
        return ("right" if _loads_as_it_is(network, case, tensors) else "wrong"), "; ".join(notes)
    first = found.message(lambda key: key).splitlines()[0]
    if found.changes is None:
        return "none", first
    try:
        return ("right" if loads_strictly(case, found) else "wrong"), first
    except (RuntimeError, MisfitError) as error:
        return "wrong", f"{first} ({error})"


def _loads_as_it_is(network: torch.nn.Module, case: Misfit, tensors: dict[str, torch.Tensor]) -> bool:
    network.load_state_dict(tensors, strict=True, assign=True)
    home = {id(tensor): case.belongs(name) for name, tensor in case.file().items()}
    return all(home.get(id(tensor), name) == name for name, tensor in tensors.items())


def presented(case: Misfit, tensors: dict[str, torch.Tensor]) -> str | None:
    """Return what is presented as the fix of a file that has none."""
    with torch.device("meta"):
        expected = case.make(**case.configured).state_dict()
    found = explained(case, fit.align(tensors, expected)[0], seconds=SEARCH_SECONDS)
    if found is None:
        return "it is said to fit"
    return None if found.changes is None else found.message(lambda key: key).splitlines()[0]


def main() -> int:
    """Print a line for each failure and the share that was right; return 1 below the bar or for a wrong one."""
    seed, count = (int(given or usual) for given, usual in zip_longest(sys.argv[1:3], (SEED, COUNT)))
    verdicts: Counter[tuple[str, str]] = Counter()
    longest = 0.0
    for case in draw(seed, count):
        start = time.process_time()
        verdict, told = judged(case)
        seconds = time.process_time() - start
        longest = max(longest, seconds)
        if seconds > 2 * SEARCH_SECONDS and verdict == "right":
            verdict = "none"
        verdicts[("two causes" if case.causes > 1 else "one cause", verdict)] += 1
        if verdict != "right":
            print(f"{verdict}: {case.name} configured {dict(case.configured)}\n    {told[:300]}")
    unfit = draw_unfit(seed, count // 3)
    fixes = [(what, case, told) for what, case, tensors in unfit if (told := presented(case, tensors))]
    for what, case, told in fixes:
        print(f"wrong: {what}: {case.name} configured {dict(case.configured)}\n    {told[:300]}")
    for causes in ("one cause", "two causes"):
        print(f"{causes}: " + ", ".join(f"{verdicts[(causes, each)]} {each}" for each in ("right", "none", "wrong")))
    right, wrong = (
        sum(verdicts[(causes, each)] for causes in ("one cause", "two causes")) for each in ("right", "wrong")
    )
    print(
        f"seed {seed}: {right} of {count} right ({right / count:.0%}), {wrong} wrong; the longest took {longest:.1f} s of processor time"
    )
    print(f"{len(unfit)} files that no change makes fit: one was presented for {len(fixes)}")
    return int(right < BAR * count or wrong > 0 or bool(fixes))


if __name__ == "__main__":
    sys.exit(main())
