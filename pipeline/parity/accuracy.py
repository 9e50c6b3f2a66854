"""Is what a file gives good enough? Claims about all inputs, judged on some of them, with numpy and scipy alone.

Each claim has one of three verdicts. It passes where its contrary is rejected at the wanted confidence, fails where it is rejected
itself, and is undecided in between: then the number of further samples is worked out that would decide.

- A share of inputs (how many have at least so many dB, how many agree): exact binomial bounds, Clopper & Pearson, "The use of
  confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26 (1934).
- A mean of bounded differences: by betting against its contrary, Waudby-Smith & Ramdas, "Estimating means of bounded random
  variables by betting", JRSS B 86 (2024), with capital spread over constant bets (diversified Kelly). It supposes no distribution. A t
  interval would: where few pairs differ their variance is nearly 0, and it is sure of what nobody has seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.interface import Array

Floats = NDArray[np.float64]
Verdict = Literal["pass", "fail", "undecided"]

POWER = 0.9
"""How likely the advised number of samples decides."""
MOST = 10**8
"""Advice beyond so many samples is none."""

_QUANTILE = 1.2816  # of the standard normal distribution at POWER
# A bet is a share of what can be staked without debts. Where hardly any pair differs all of it wins most, where many do little does.
_BETS = 2.0 ** (-np.arange(21) / 2)
_CAPITAL = np.where(_BETS == 1, 0.3, 0.7 / (len(_BETS) - 1))
_UNSEEN = 1.0  # pairs as far apart as can be that are supposed among those to come, beside what was seen
_STEPS = 60
_POINTS = 400


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a claim: a value, its one-sided bounds each at the confidence, and the limit that it is held against.

    Beside the `samples` that were seen, `fewest` would decide if all of them are as good as can be, `more` in nine of ten cases; None
    where it is decided, or none would do.
    """

    verdict: Verdict
    value: float
    lower: float
    upper: float
    limit: float
    samples: int
    fewest: int | None = None
    more: int | None = None


# One sample


def sqnr_db(reference: Array, got: Array) -> float:
    """Return the signal-to-quantisation-noise ratio of an output in dB: 10 log10(Σ reference² ÷ Σ (reference − got)²).

    Infinite where both are the same, minus infinity where the reference is 0 or not finite and the other is not the same there, or the
    shapes differ.
    """
    if reference.shape != got.shape:
        return -math.inf
    known = np.asarray(reference, np.result_type(reference, np.float64))
    given = np.asarray(got, known.dtype)
    finite = np.isfinite(known)
    same = (known == given) | (np.isnan(known) & np.isnan(given))
    if not same[~finite].all() or not np.isfinite(given[finite]).all():
        return -math.inf
    signal, error = np.abs(known[finite]), np.abs(known[finite] - given[finite])
    unit = max(signal.max(initial=0.0), error.max(initial=0.0))  # squares neither overflow nor vanish
    if not error.any():
        return math.inf
    noise, power = float(((error / unit) ** 2).sum()), float(((signal / unit) ** 2).sum())
    return 10 * math.log10(power / noise) if power else -math.inf


def agrees(reference: Array, got: Array) -> bool:
    """Whether two outputs say the same: the largest along the last axis lies at the same place, everywhere; whole numbers are equal."""
    if reference.shape != got.shape:
        return False
    if reference.dtype.kind in "iub":
        return bool(np.array_equal(reference, got))
    if reference.size == 0:
        return True
    if np.isnan(got).any() and not np.isnan(reference).any():
        return False  # argmax takes it for the largest
    return bool(np.array_equal(np.argmax(reference, axis=-1), np.argmax(got, axis=-1)))


# A share of inputs


def judge_share(hits: int, samples: int, share: float, confidence: float) -> Judgement:
    """Judge that at least a `share` of all inputs hit, where so many of independent `samples` do.

    At a true share just below the limit it passes in at most 1 − confidence of all files of samples.
    """
    from scipy.stats import beta

    alpha = 1 - confidence
    passes_from, fails_to = _thresholds(samples, share, alpha)
    lower = float(beta.ppf(alpha, hits, samples - hits + 1)) if hits else 0.0
    upper = float(beta.isf(alpha, hits + 1, samples - hits)) if hits < samples else 1.0
    verdict: Verdict = "pass" if hits >= passes_from else "fail" if hits <= fails_to else "undecided"
    fewest, more = _more_for_share(hits, samples, share, alpha) if verdict == "undecided" else (None, None)
    return Judgement(verdict, hits / max(samples, 1), lower, upper, share, samples, fewest, more)


@lru_cache(4096)
def _thresholds(samples: int, share: float, alpha: float) -> tuple[int, int]:
    """Return from how many hits on the claim passes, and up to how many it fails, by the exact tails."""
    from scipy.stats import binom

    if samples == 0:
        return 1, -1
    return int(binom.ppf(1 - alpha, samples, share)) + 1, int(binom.ppf(alpha, samples, share)) - 1


@lru_cache(4096)
def _more_for_share(hits: int, samples: int, share: float, alpha: float) -> tuple[int | None, int | None]:
    """Return how many more samples decide if all hit, and how many at POWER, the true share being as likely as what was seen makes it.

    By the beta distribution of the true share with Jeffreys' prior, at points of equal probability: what was seen may be luck.
    """
    from scipy.special import bdtr, bdtrc, betaincinv

    likely = betaincinv(hits + 0.5, samples - hits + 0.5, (np.arange(_POINTS) + 0.5) / _POINTS)

    def decides(more: int) -> bool:
        passes_from, fails_to = _thresholds(samples + more, share, alpha)
        least, most = passes_from - hits, fails_to - hits  # of those to come
        passing = (
            np.ones(_POINTS) if least <= 0 else bdtrc(least - 1, more, likely) if least <= more else np.zeros(_POINTS)
        )
        failing = bdtr(most, more, likely) if most >= 0 else np.zeros(_POINTS)
        return bool((passing + failing).mean() >= POWER)

    fewest = _smallest(lambda more: hits + more >= _thresholds(samples + more, share, alpha)[0], share=MOST)
    return fewest, _smallest(decides)


def _smallest(decides: Callable[[int], bool], share: int = 100) -> int | None:
    """Return the smallest number that decides, to within a `share`-th of it; None where there is none up to MOST."""
    high = 1
    while not decides(high):
        high *= 2
        if high > MOST:
            return None
    low = high // 2
    while high - low > max(1, high // share):
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


# A mean of differences


def judge_mean(differences: Floats, margin: float, width: float, confidence: float) -> Judgement:
    """Judge that the mean of all differences is above −margin, where each lies within [−width, width] and some were seen.

    Whatever their distribution is, with a true mean of −margin it passes in at most 1 − confidence of all files of samples, and so
    it does however often more samples are added and judged again.
    """
    seen = np.asarray(differences, np.float64)
    needed = -math.log(1 - confidence)
    verdict = mean_verdict(seen, margin, width, confidence)
    fewest, more = more_for_mean(seen, margin, width, confidence) if verdict == "undecided" else (None, None)
    lower, upper = _lower_bound(seen, width, needed), -_lower_bound(-seen, width, needed)
    return Judgement(verdict, float(seen.mean()), lower, upper, -margin, len(seen), fewest, more)


def mean_verdict(seen: Floats, margin: float, width: float, confidence: float) -> Verdict:
    """Return the verdict of `judge_mean` alone."""
    needed = -math.log(1 - confidence)
    passes = _capital(seen, -margin, width) >= needed
    return "pass" if passes else "fail" if _capital(-seen, margin, width) >= needed else "undecided"


def _capital(differences: Floats, mean: float, width: float) -> float:
    """Return the logarithm of what a capital of 1 has become that was bet against "the mean is at most this"."""
    return _total(np.log(_CAPITAL) + _logs(differences, mean, width).sum(axis=0))


def _total(logs: Floats) -> float:
    most = logs.max()
    return float(most + np.log(np.exp(logs - most).sum())) if np.isfinite(most) else float(most)


def _logs(differences: Floats, mean: float, width: float) -> Floats:
    """Return by what each difference multiplies what is bet, as a logarithm, a column a bet."""
    ratio = (differences + width) / (mean + width) if mean > -width else np.full(len(differences), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log1p(_BETS * (ratio[:, None] - 1)))


def _lower_bound(differences: Floats, width: float, needed: float) -> float:
    """Return the largest mean that is rejected: capital falls as the mean that is bet against rises."""
    low, high = -width, width
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _capital(differences, middle, width) >= needed else (low, middle)
    return low


def more_for_mean(seen: Floats, margin: float, width: float, confidence: float) -> tuple[int | None, int | None]:
    """Return with how many more samples capital reaches what is needed: if none of them differs, and at POWER if there is no true drop.

    For each bet: its logarithm grows by g a sample and spreads by s, and n g − 1.2816 √n s is what n samples add in nine of ten cases.
    To come are differences as those that were seen, as often up as down, and one as far each way as can be, which may just not have
    been seen yet.
    """
    needed = -math.log(1 - confidence)
    ahead = np.concatenate([seen, -seen, [width, -width]])
    weights = np.concatenate([np.ones(2 * len(seen)), [_UNSEEN, _UNSEEN]])
    weights /= weights.sum()
    have = np.log(_CAPITAL) + _logs(seen, -margin, width).sum(axis=0)
    unchanged = _logs(np.zeros(1), -margin, width)[0]
    fewest = _smallest(lambda more: _total(have + more * unchanged) >= needed, share=MOST)
    steps = _logs(ahead, -margin, width)
    usable = np.isfinite(have) & np.isfinite(steps).all(axis=0)
    steps, missing = steps[:, usable], needed - have[usable]
    growth = weights @ steps
    spread = np.sqrt(np.maximum(weights @ steps**2 - growth**2, 0))
    useful = growth > 0
    if not useful.any():
        return fewest, None
    growth, spread, missing = growth[useful], spread[useful], missing[useful]
    roots = (_QUANTILE * spread + np.sqrt((_QUANTILE * spread) ** 2 + 4 * growth * np.maximum(missing, 0))) / (
        2 * growth
    )
    more = math.ceil(float((roots**2).min()))
    return fewest, more if more <= MOST else None
