"""How regular a periodic act is and how long things take: bounded memory, no clock of its own."""

from collections import deque
from collections.abc import Sequence
from typing import TypedDict

import numpy as np


class Spread(TypedDict):
    """Milliseconds; None without samples."""

    p50: float | None
    p99: float | None
    max: float | None


def percentiles_ms(seconds: Sequence[float] | np.ndarray) -> Spread:
    """Median, 99th percentile and maximum of durations [s], in ms."""
    if not len(seconds):
        return {"p50": None, "p99": None, "max": None}
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"p50": 1e3 * float(p50), "p99": 1e3 * float(p99), "max": 1e3 * float(np.max(seconds))}


class Intervals:
    """Times between successive marks against a wanted period [s]; the newest `keep` count."""

    def __init__(self, period: float, keep: int = 1000):
        self._period = period
        self._last: float | None = None
        self._errors: deque[float] = deque(maxlen=keep)

    def mark(self, now: float) -> None:
        """It happened at `now` [s]."""
        if self._last is not None:
            self._errors.append(abs(now - self._last - self._period))
        self._last = now

    def restart(self) -> None:
        """The next mark follows a pause."""
        self._last = None

    def errors_ms(self) -> Spread:
        """How far the intervals are off."""
        return percentiles_ms(self._errors)


class Durations:
    """The newest `keep` durations [s] and a value that most of them stay under."""

    def __init__(self, first: float, keep: int = 20):
        self._values: deque[float] = deque([first], maxlen=keep)

    def add(self, seconds: float) -> None:
        """One more."""
        self._values.append(seconds)

    @property
    def usual(self) -> float:
        """The 90th percentile [s]."""
        return float(np.percentile(self._values, 90))


def without_digits(text: str) -> str:
    """A status text without its numbers, which change all the time, to detect real changes."""
    return "".join(letter for letter in text if not letter.isdigit())
