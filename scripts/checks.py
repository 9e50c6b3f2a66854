"""What programs that check a machine share: weighbridge's own commands, and a table of what they showed."""

import json
import subprocess
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was tried: whether it held (None: could not be tried), and the figures or the reason."""

    name: str
    held: bool | None
    told: str


def weighbridge(*words, timeout_s=600, **variables):
    """Run a command line with --json in a process of its own; return its exit code, its answer (None: no JSON), its messages."""
    import os

    command = [sys.executable, "-m", "pipeline.commands", *map(str, words), "--json"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout_s, env=os.environ | variables
        )
    except subprocess.TimeoutExpired:
        return 124, None, f"took more than {timeout_s:.0f} s"
    try:
        answer = json.loads(done.stdout)
    except json.JSONDecodeError:
        answer = None
    return done.returncode, answer, done.stderr


def last_line(text):
    """Return the error among messages, or else the last of them, or that there was none."""
    lines = text.strip().splitlines()
    return next((each for each in lines if each.startswith("error:")), lines[-1] if lines else "no message")


def said(backend):
    """Return a backend's row of parity in words: its worst factor, where its nodes ran, or why it failed."""
    from pipeline.backends.placement import in_words

    worst, facts = backend["worst"], backend["facts"]
    parts = [backend["reason"]] if backend["reason"] else []
    if worst:
        factor = worst["factor"]
        parts.append(
            f"{factor if isinstance(factor, str) else format(factor, '.3g')} × the noise floor ({worst['output']})"
        )
    if placed := facts.get("placement"):
        parts.append(in_words(placed))
    return "; ".join(parts)


def show(checks):
    """Print the table; return 1 if something did not hold, else 0."""
    width = max(len(each.name) for each in checks)
    for each in checks:
        verdict = {True: "pass", False: "FAIL", None: "not tried"}[each.held]
        print(f"{each.name:<{width}}  {verdict:<9}  {each.told}", flush=True)
    counted = [sum(each.held is value for each in checks) for value in (True, False, None)]
    print("{} passed, {} failed, {} not tried".format(*counted))
    return int(counted[1] > 0)
