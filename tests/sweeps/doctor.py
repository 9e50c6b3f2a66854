"""How often the doctor explains a misfit that nobody chose, and whether it ever presents a wrong change as right.

    python -m tests.sweeps.doctor [SEED [COUNT]]

Four kinds are drawn, over the shipped networks and a dozen small ones, most files in the order of their names:

- misfits of one or two causes: arguments, modules under neutral words, prefixes, left-overs, copies,
- the names of other libraries, in all layers of a stack,
- twins: modules that hold the same, under neutral names; whatever is proposed for these is wrong, even if it is right by luck,
- files that no change of a config makes fit.

A printed change is applied as a config would: it must load strictly, with each tensor where it belongs. What counts is whether
names or structure tell each place: `drawn.is_told` decides that for the first kind, from the case alone, and the schemes say it
for the second. Where nothing tells, saying nothing is right. An explanation counts only if it took no more processor time
than a user's search may take on the clock: a busy machine decides nothing here.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from itertools import zip_longest
from typing import TYPE_CHECKING

from pipeline.errors import MisfitError
from pipeline.rebuild.doctor.prefixes import align
from pipeline.rebuild.doctor.search import SEARCH_SECONDS
from pipeline.rebuild.shapes import shapes_only
from tests.rebuild.doctor.drawn import draw, draw_named, draw_twins, draw_unfit, is_told
from tests.rebuild.doctor.misfits import AMPLE, Misfit, all_at_home, explained, layout_when, loads_strictly

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

BAR = 0.9
SEED, COUNT = 1, 120


def judged(case: Misfit) -> tuple[str, str]:
    """Return "right", "none", "late" or "wrong", and the explanation's first line."""
    with shapes_only():
        network = case.make(**case.configured)
    original = case.file()
    start = time.process_time()
    tensors, notes = align(original, network.state_dict())
    found = explained(case, tensors, seconds=AMPLE)
    is_late = time.process_time() - start > 2 * SEARCH_SECONDS
    if found is None:
        network.load_state_dict(tensors, strict=True, assign=True)
        return ("right" if all_at_home(case, original, tensors) else "wrong"), "; ".join(notes)
    first = found.message(lambda key: key).splitlines()[0]
    if found.changes is None:
        return "none", first
    try:
        is_right = loads_strictly(case, found)
    except (RuntimeError, MisfitError) as error:
        return "wrong", f"{first} ({error})"
    return ("wrong" if not is_right else "late" if is_late else "right"), first


def presented(case: Misfit, tensors: dict[str, torch.Tensor]) -> str | None:
    """Return what is presented as the fix of a file that has none."""
    with shapes_only():
        expected = case.make(**case.configured).state_dict()
    found = explained(case, align(tensors, expected)[0], seconds=SEARCH_SECONDS)
    if found is None:
        return "it is said to fit"
    return None if found.changes is None else found.message(lambda key: key).splitlines()[0]


def _cases(seed: int, count: int) -> Iterator[tuple[str, bool, Misfit]]:
    """Yield what is to be judged: its kind, whether names or structure tell each place, and the case."""
    for case in draw(seed, count):
        yield ("two causes" if case.causes > 1 else "one cause"), is_told(case), case
    for named in draw_named(seed, count // 2):
        yield "names of other libraries", named.scheme.told, named.case
    for case in draw_twins(seed, count // 2):
        yield "twins", False, case


def main() -> int:
    """Print a line for each failure and the share that was right; return 1 below the bar or for a wrong one."""
    seed, count = (int(given or usual) for given, usual in zip_longest(sys.argv[1:3], (SEED, COUNT)))
    verdicts: Counter[tuple[str, bool, str]] = Counter()
    for kind, told, case in _cases(seed, count):
        layout_when.cache_clear()  # a user's search builds all of them
        verdict, said = judged(case)
        if kind == "twins" and verdict == "right":
            verdict = "wrong"
        verdicts[kind, told, verdict] += 1
        if verdict == "wrong" or (told and verdict != "right"):
            renames = ", ".join(f"{ours} → {theirs}" for ours, theirs in itertools.islice(case.rename.items(), 6))
            print(f"{verdict}: {kind}: {case.name[:90]} configured {dict(case.configured)} {renames}\n    {said[:300]}")
    unfit = draw_unfit(seed, count // 3)
    fixes = [(what, case, said) for what, case, tensors in unfit if (said := presented(case, tensors))]
    for what, case, said in fixes:
        print(f"wrong: {what}: {case.name} configured {dict(case.configured)}\n    {said[:300]}")
    for kind, told in dict.fromkeys((kind, told) for kind, told, _ in verdicts):
        shown = ", ".join(f"{verdicts[kind, told, each]} {each}" for each in ("right", "none", "late", "wrong"))
        print(f"{kind}, {'told' if told else 'nothing tells'}: {shown}")
    told = sum(number for (_, is_told, _), number in verdicts.items() if is_told)
    right = sum(number for (_, is_told, verdict), number in verdicts.items() if is_told and verdict == "right")
    wrong = sum(number for (*_, verdict), number in verdicts.items() if verdict == "wrong") + len(fixes)
    print(
        f"seed {seed}: {right} of {told} that can be told are mended ({right / told:.1%}); {wrong} wrong changes in all"
    )
    print(f"{len(unfit)} files that no change makes fit: one was presented for {len(fixes)}")
    return int(right < BAR * told or wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
