"""Hold many cases against one claim, print what fails as it fails, and count."""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def tally(claim: str, cases: Iterable[Any], check: Callable[[Any], Any]) -> int:
    """Check every case, which raises AssertionError where the claim fails; return the number of those that did."""
    began_s, count, failures = time.monotonic(), 0, 0
    for case in cases:
        count += 1
        try:
            check(case)
        except AssertionError as error:
            failures += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"FAILED {claim}: {case}: {where.name}: {where.line}: {error}", flush=True)
        if count % 50 == 0:
            print(f"  {claim}: {count} done, {failures} failed", flush=True)
    print(f"{claim}: {count} cases, {failures} failed ({time.monotonic() - began_s:.0f} s)", flush=True)
    return failures
