"""Confidence intervals for few trials, and percentiles."""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest

from nac_ros.core.errors import ConfigError


class Interval(NamedTuple):
    """Bounds of a rate or of a difference of rates."""

    low: float
    high: float


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a success rate: close to nominal coverage on average."""
    return _proportion(successes, trials, confidence, "wilson")


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Exact interval of a success rate: coverage of at least `confidence`, hence wider."""
    return _proportion(successes, trials, confidence, "exact")


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], confidence: float = 0.95
) -> Interval:
    """Interval of the success rate of `first` less that of `second` on the same scenes.

    Score interval of Tango (1998, Statistics in Medicine 17), accurate for few discordant pairs.
    """
    if len(first) != len(second) or not len(first):
        raise ConfigError(f"{len(first)} and {len(second)} trials are no pairs")
    _check_confidence(confidence)
    n, z = len(first), NormalDist().inv_cdf((1 + confidence) / 2)
    only_first = sum(a and not b for a, b in zip(first, second))
    only_second = sum(b and not a for a, b in zip(first, second))

    # The interval holds the differences delta whose score statistic lies within +-z. Its variance
    # uses the maximum-likelihood probability, given delta, of a pair that only `second` wins: the
    # root of a quadratic. The statistic falls with delta, so each bound is one root.
    def score(delta: float) -> float:
        linear = (2 * n - only_first + only_second) * delta - only_first - only_second
        root = sqrt(max(linear**2 + 8 * n * only_second * delta * (1 - delta), 0.0))
        p_only_second = (root - linear) / (4 * n)
        variance = max(n * (2 * p_only_second + delta * (1 - delta)), 1e-12)
        return (only_first - only_second - n * delta) / sqrt(variance)

    observed, edge = (only_first - only_second) / n, 1 - 1e-9
    low = brentq(lambda d: score(d) - z, -edge, observed) if observed > -1 else -1.0
    high = brentq(lambda d: score(d) + z, observed, edge) if observed < 1 else 1.0
    return Interval(float(low), float(high))


def bootstrap_mean(
    values: Sequence[float], confidence: float = 0.95, draws: int = 10_000
) -> Interval:
    """Percentile bootstrap interval of a mean, with a fixed seed."""
    if not values:
        raise ConfigError("no values have no mean; give at least one")
    random, data = np.random.default_rng(0), np.asarray(values, float)
    means = data[random.integers(len(data), size=(draws, len(data)))].mean(1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(low), float(high))


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """p50 and p99; None without values."""
    if not values:
        return {"p50": None, "p99": None}
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": float(p50), "p99": float(p99)}


def check_counts(successes: int, trials: int) -> None:
    """Raises ConfigError unless 0 <= `successes` <= `trials` and `trials` >= 1."""
    if trials < 1 or not 0 <= successes <= trials:
        raise ConfigError(f"{successes} successes of {trials} trials is no result")


def _proportion(
    successes: int, trials: int, confidence: float, method: Literal["wilson", "exact"]
) -> Interval:
    check_counts(successes, trials)
    _check_confidence(confidence)
    interval = binomtest(successes, trials).proportion_ci(confidence, method)
    return Interval(float(interval.low), float(interval.high))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, got {confidence}")
