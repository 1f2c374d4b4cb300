"""Exact power of Barnard's test, to plan the number of trials."""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy.stats import binom

from nac_ros.core.errors import ConfigError

MAX_TRIALS = 200  # of each method; more are rarely run in practice
N_NUISANCE_RATES = 100  # grid of the unknown common rate from 0 to 1/2
RATES = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
POWERS = (0.5, 0.8, 0.9)


def power(first: float, second: float, trials: int, alpha: float = 0.05) -> float:
    """Probability that Barnard's two-sided test at `alpha` rejects with `trials` of each method
    whose success rates are `first` and `second`."""
    _check(first, second, alpha)
    if trials < 1:
        raise ConfigError(f"trials must be at least 1, got {trials}")
    counts = np.arange(trials + 1)
    chances = np.outer(binom.pmf(counts, trials, first), binom.pmf(counts, trials, second))
    return float(chances[rejection_region(trials, alpha)].sum())


def trials_needed(
    first: float, second: float, wanted: float = 0.8, alpha: float = 0.05
) -> int | None:
    """Smallest number of trials of each method with power `wanted`; None above MAX_TRIALS."""
    _check(first, second, alpha)
    if not 0 < wanted < 1:
        raise ConfigError(f"power must lie between 0 and 1, got {wanted}")
    if first == second:
        raise ConfigError(f"both rates are {first}: no number of trials tells equals apart")
    # The normal approximation, estimate / difference^2, gives a lower bound to start from. It is
    # compared before the division: the square of a tiny difference is 0 in floating point.
    normal, mean = NormalDist().inv_cdf, (first + second) / 2
    estimate = (normal(1 - alpha / 2) + normal(wanted)) ** 2 * 2 * mean * (1 - mean)
    if estimate > 2 * MAX_TRIALS * (first - second) ** 2:
        return None
    start = max(1, ceil(0.5 * estimate / (first - second) ** 2))
    candidates = range(start, MAX_TRIALS + 1)  # exact power is not monotonic in the trials
    return next((n for n in candidates if power(first, second, n, alpha) >= wanted), None)


def power_table(rates: Sequence[float] = RATES, alpha: float = 0.05) -> list[dict[str, Any]]:
    """Trials of each method for the powers of POWERS, for each pair of `rates`."""
    pairs = [(a, b) for i, a in enumerate(rates) for b in rates[i + 1 :] if a != b]
    return [
        {"p1": a, "p2": b, **{f"n{round(100 * w)}": trials_needed(a, b, w, alpha) for w in POWERS}}
        for a, b in pairs
    ]


@lru_cache(maxsize=MAX_TRIALS)
def rejection_region(trials: int, alpha: float) -> np.ndarray:
    """Results that Barnard's test rejects, bool `[n + 1, n + 1]` (successes of each method)."""
    # scipy's barnard_exact tests one result; all results together share the enumeration. p of a
    # result is the maximum over common rates of the probability of all results whose Wald
    # statistic is as large. The statistic is antisymmetric in the methods, so only results with
    # first > second are enumerated, and their probability is doubled.
    n, counts = trials, np.arange(trials + 1)
    first, second = (side.ravel() for side in np.meshgrid(counts, counts, indexing="ij"))
    first, second = first[first > second], second[first > second]
    pooled = (first + second) / (2 * n)
    wald = np.round((first - second) / np.sqrt(pooled * (1 - pooled)), 9)
    order = np.argsort(-wald, kind="stable")
    first, second, wald = first[order], second[order], wald[order]
    last_tie = np.searchsorted(-wald, -wald, side="right") - 1  # last result as extreme
    p = np.zeros(len(wald))
    for rate in np.linspace(0.0, 0.5, N_NUISANCE_RATES + 1)[1:]:  # rates above 1/2 are mirrored
        chances = binom.pmf(counts, n, rate)
        p = np.maximum(p, 2 * (chances[first] * chances[second]).cumsum()[last_tie])
    region = np.zeros((n + 1, n + 1), bool)
    region[first, second] = region[second, first] = p <= alpha
    return region


def _check(first: float, second: float, alpha: float) -> None:
    for name, value in (("p1", first), ("p2", second)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} is a success rate from 0 to 1, got {value}")
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha must lie between 0 and 1, got {alpha}")
