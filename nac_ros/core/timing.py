"""Bounded statistics of periods and durations; the caller passes the time."""

from collections import deque
from collections.abc import Sequence
from typing import TypedDict

import numpy as np


class Percentiles(TypedDict):
    """Milliseconds; None without samples."""

    p50: float | None
    p99: float | None
    max: float | None


def percentiles_ms(seconds: Sequence[float] | np.ndarray) -> Percentiles:
    """Median, 99th percentile and maximum of durations [s], in ms."""
    if not len(seconds):
        return {"p50": None, "p99": None, "max": None}
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"p50": 1e3 * float(p50), "p99": 1e3 * float(p99), "max": 1e3 * float(np.max(seconds))}


class Intervals:
    """Deviations of the times between successive marks from `period` [s], the newest `keep`."""

    def __init__(self, period: float, keep: int = 1000):
        self._period = period
        self._last: float | None = None
        self._errors: deque[float] = deque(maxlen=keep)

    def mark(self, now: float) -> None:
        """Adds a mark at `now` [s]."""
        if self._last is not None:
            self._errors.append(abs(now - self._last - self._period))
        self._last = now

    def restart(self) -> None:
        """Leaves out the time until the next mark, after a pause."""
        self._last = None

    def errors_ms(self) -> Percentiles:
        """Percentiles of the absolute deviations."""
        return percentiles_ms(self._errors)


class Durations:
    """The newest `keep` durations [s], beginning with an estimate `first`."""

    def __init__(self, first: float, keep: int = 20):
        self._values: deque[float] = deque([first], maxlen=keep)

    def add(self, seconds: float) -> None:
        """Adds a duration."""
        self._values.append(seconds)

    @property
    def p90(self) -> float:
        """The 90th percentile [s]."""
        return float(np.percentile(self._values, 90))


def without_digits(text: str) -> str:
    """A status text without its digits, to detect changes other than of an age or a count."""
    return "".join(c for c in text if not c.isdigit())
