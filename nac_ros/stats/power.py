"""How many trials it takes: the exact power of Barnard's test, for planning."""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy.stats import binom

from nac_ros.core.errors import ConfigError

MOST = 200  # trials of each method; nobody resets a scene more often
GRID = 100  # values of the common rate from 0 to 1/2 under which errors are counted
RATES = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
POWERS = (0.5, 0.8, 0.9)


def power(first: float, second: float, trials: int, alpha: float = 0.05) -> float:
    """Chance that Barnard's two-sided test at `alpha` tells rates `first` and `second` apart with
    so many trials of each method."""
    _check(first, second, alpha)
    if trials < 1:
        raise ConfigError(f"trials must be at least 1, got {trials}")
    counts = np.arange(trials + 1)
    chances = np.outer(binom.pmf(counts, trials, first), binom.pmf(counts, trials, second))
    return float(chances[rejected(trials, alpha)].sum())


def trials_needed(
    first: float, second: float, wanted: float = 0.8, alpha: float = 0.05
) -> int | None:
    """The fewest trials of each method with that power; None where it is more than MOST."""
    _check(first, second, alpha)
    if not 0 < wanted < 1:
        raise ConfigError(f"power must lie between 0 and 1, got {wanted}")
    if first == second:
        raise ConfigError(f"both rates are {first}: no number of trials tells equals apart")
    normal, mean = NormalDist().inv_cdf, (first + second) / 2
    guess = (normal(1 - alpha / 2) + normal(wanted)) ** 2 * 2 * mean * (1 - mean)
    if guess > 2 * MOST * (first - second) ** 2:  # also of rates whose square is 0 to a float
        return None
    start = max(1, ceil(0.5 * guess / (first - second) ** 2))  # the exact number lies above
    candidates = range(start, MOST + 1)  # a saw-tooth, so every number is tried
    return next((n for n in candidates if power(first, second, n, alpha) >= wanted), None)


def power_table(rates: Sequence[float] = RATES, alpha: float = 0.05) -> list[dict[str, Any]]:
    """For each two of `rates`: trials of each method for the powers of POWERS."""
    pairs = [(a, b) for i, a in enumerate(rates) for b in rates[i + 1 :] if a != b]
    return [
        {"p1": a, "p2": b, **{f"n{round(100 * w)}": trials_needed(a, b, w, alpha) for w in POWERS}}
        for a, b in pairs
    ]


@lru_cache(maxsize=MOST)
def rejected(trials: int, alpha: float) -> np.ndarray:
    """Which results bool `[n + 1, n + 1]` (successes of the first, of the second) Barnard's test
    rejects: its p is the largest, over common rates, of the chance of a result as extreme."""
    n, counts = trials, np.arange(trials + 1)
    more, fewer = (side.ravel() for side in np.meshgrid(counts, counts, indexing="ij"))
    more, fewer = more[more > fewer], fewer[more > fewer]  # the other half is its mirror image
    pooled = (more + fewer) / (2 * n)
    wald = np.round((more - fewer) / np.sqrt(pooled * (1 - pooled)), 9)
    order = np.argsort(-wald, kind="stable")
    more, fewer, wald = more[order], fewer[order], wald[order]
    ends = np.searchsorted(-wald, -wald, side="right") - 1  # of results that are as extreme
    p = np.zeros(len(wald))
    for rate in np.linspace(0.0, 0.5, GRID + 1)[1:]:  # success and failure mirror each other
        chances = binom.pmf(counts, n, rate)
        p = np.maximum(p, 2 * (chances[more] * chances[fewer]).cumsum()[ends])
    result = np.zeros((n + 1, n + 1), bool)
    result[more, fewer] = result[fewer, more] = p <= alpha
    return result


def _check(first: float, second: float, alpha: float) -> None:
    for name, value in (("p1", first), ("p2", second)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} is a success rate from 0 to 1, got {value}")
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha must lie between 0 and 1, got {alpha}")
