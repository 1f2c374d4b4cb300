"""Intervals of a success rate from few trials, and percentiles of what was measured."""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import beta

from nac_ros.core.errors import ConfigError


class Interval(NamedTuple):
    """Bounds of a rate, both in [0, 1]."""

    low: float
    high: float


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval: good coverage on average, for tables and plots."""
    _check(successes, trials, confidence)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, weight = successes / trials, z * z / trials
    centre = (rate + weight / 2) / (1 + weight)
    half = z / (1 + weight) * sqrt(rate * (1 - rate) / trials + weight / (4 * trials))
    # exact at the ends, where rounding would leave 1e-17
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Interval(low, high)


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """The exact interval: coverage is never below `confidence`, so it is wider."""
    _check(successes, trials, confidence)
    tail = (1 - confidence) / 2
    failures = trials - successes
    low = beta.ppf(tail, successes, failures + 1) if successes else 0.0
    high = beta.ppf(1 - tail, successes + 1, failures) if failures else 1.0
    return Interval(float(low), float(high))


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], confidence: float = 0.95
) -> Interval:
    """How much higher `first`'s rate is than `second`'s, trial by trial on the same scenes: the
    score interval of Tango (1998, Statistics in Medicine 17), good also for few discordant pairs.
    """
    if len(first) != len(second) or not len(first):
        raise ConfigError(f"{len(first)} and {len(second)} trials are no pairs")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, got {confidence}")
    n, z = len(first), NormalDist().inv_cdf((1 + confidence) / 2)
    gained = sum(a and not b for a, b in zip(first, second))
    lost = sum(b and not a for a, b in zip(first, second))

    def score(delta: float) -> float:
        linear = (2 * n - gained + lost) * delta - gained - lost
        root = sqrt(max(linear**2 + 8 * n * lost * delta * (1 - delta), 0.0))
        rare = (root - linear) / (4 * n)  # of pairs that only `second` wins, given delta
        spread = max(n * (2 * rare + delta * (1 - delta)), 1e-12)
        return (gained - lost - n * delta) / sqrt(spread)

    observed, edge = (gained - lost) / n, 1 - 1e-9
    low = brentq(lambda d: score(d) - z, -edge, observed) if observed > -1 else -1.0
    high = brentq(lambda d: score(d) + z, observed, edge) if observed < 1 else 1.0
    return Interval(float(low), float(high))


def bootstrap_mean(
    values: Sequence[float], confidence: float = 0.95, draws: int = 10_000
) -> Interval:
    """Percentile bootstrap of a mean, for scores that are no counts; the same values give the
    same bounds."""
    if not values:
        raise ConfigError("no values have no mean; give at least one")
    random, known = np.random.default_rng(0), np.asarray(values, float)
    means = known[random.integers(len(known), size=(draws, len(known)))].mean(1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(low), float(high))


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """p50 and p99; None where nothing was measured."""
    if not values:
        return {"p50": None, "p99": None}
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": float(p50), "p99": float(p99)}


def _check(successes: int, trials: int, confidence: float) -> None:
    if trials < 1 or not 0 <= successes <= trials:
        raise ConfigError(f"{successes} successes of {trials} trials is no result")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, got {confidence}")
