"""LeRobot's statistics of a feature, exact however many episodes they are of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
MAX_IMAGES = 20  # frames sampled per episode for an image's statistics
LEVELS, CHANNELS = 256, 3
STILL = 1e-6  # share of its largest value that a dimension may vary by and still be constant
FAR = 20.0  # times the span of 98 % of the values: what lies further out is seldom and extreme
Stats = dict[str, np.ndarray]


class Pool:
    """All values of a feature, `[D, N]`, kept sorted: quantiles of merged episodes are exact."""

    def __init__(self) -> None:
        self._sorted: np.ndarray | None = None

    def add(self, values: np.ndarray) -> "Pool":
        """Takes in values `[T]` or `[T, D]`; returns itself."""
        rows = np.asarray(values).reshape(len(values), -1).T
        known = rows[:, :0] if self._sorted is None else self._sorted
        self._sorted = np.concatenate([known, rows], axis=1)
        self._sorted.sort(axis=1, kind="stable")  # merges the runs that are sorted already
        return self

    @property
    def filled(self) -> bool:
        """Whether there is any value."""
        return self._sorted is not None

    def stats(self) -> Stats:
        """Each statistic float64 `[D]`, count `[1]`."""
        if self._sorted is None:
            raise ValueError("no value was added, so there is nothing to describe")
        values = self._sorted
        n = values.shape[1]
        stats = {
            "min": values[:, 0].astype(np.float64),
            "max": values[:, -1].astype(np.float64),
            "mean": values.mean(1, dtype=np.float64),
            "std": values.std(1, dtype=np.float64),
            "count": np.array([n]),
        }
        for name, share in QUANTILES.items():
            below, part = divmod(share * (n - 1), 1)
            pair = values[:, [int(below), min(int(below) + 1, n - 1)]].astype(np.float64)
            stats[name] = pair[:, 0] + part * (pair[:, 1] - pair[:, 0])
        return stats


@dataclass(frozen=True)
class Levels:
    """How often each of a channel's levels was seen, int64 `[3, 256]`, in `frames` images."""

    counts: np.ndarray
    frames: int

    def __add__(self, other: "Levels") -> "Levels":
        return Levels(self.counts + other.counts, self.frames + other.frames)

    def stats(self) -> Stats:
        """Each statistic float64 `[3, 1, 1]` in [0, 1], count `[1]`: how many images."""
        n = int(self.counts[0].sum())
        level = np.arange(LEVELS) / (LEVELS - 1)
        mean = self.counts @ level / n
        square = ((level - mean[:, None]) ** 2 * self.counts).sum(1) / n
        stats = {
            "min": self._ranked(0),
            "max": self._ranked(n - 1),
            "mean": mean,
            "std": np.sqrt(square),
        }
        for name, share in QUANTILES.items():
            below, part = divmod(share * (n - 1), 1)
            low, high = self._ranked(int(below)), self._ranked(min(int(below) + 1, n - 1))
            stats[name] = low + part * (high - low)
        shaped = {name: np.asarray(value).reshape(3, 1, 1) for name, value in stats.items()}
        return {**shaped, "count": np.array([self.frames])}

    def _ranked(self, rank: int) -> np.ndarray:
        """float64 `[3]`: the value at a place among all sorted ones."""
        upto = self.counts.cumsum(1)
        return np.array([np.searchsorted(row, rank, side="right") for row in upto]) / (LEVELS - 1)


def of_values(values: np.ndarray) -> Stats:
    """Values `[T]` or `[T, D]` -> each statistic float64 `[D]`, count `[1]`."""
    return Pool().add(values).stats()


def levels(images: np.ndarray) -> Levels:
    """uint8 `[T, H, W, 3]` -> levels of a sample of T."""
    chosen = np.unique(np.linspace(0, len(images) - 1, MAX_IMAGES).round().astype(int))
    pixels = images[chosen].reshape(-1, 3)
    counts = np.stack([np.bincount(channel, minlength=LEVELS) for channel in pixels.T])
    return Levels(counts, len(chosen))


def odd_dimensions(stats: Stats, names: Sequence[str]) -> list[str]:
    """What would be divided by nearly nothing, a sentence each: dimensions that never change,
    and those that mostly keep still and at times go far."""
    sentences = []
    for i, name in enumerate(names):
        low, high = stats["min"][i], stats["max"][i]
        usual = stats["q99"][i] - stats["q01"][i]
        if high - low <= STILL * max(abs(low), abs(high)):
            sentences.append(f"{name} never changes, it is {low:.4g} in all frames")
        elif high - low > FAR * usual:
            sentences.append(
                f"{name} is nearly constant: 98 % of its values span {usual:.3g}, all of them "
                f"{high - low:.3g}; normalise it by min and max, not by quantiles"
            )
    return sentences


def to_plain(stats: Mapping[str, Stats]) -> dict[str, dict[str, Any]]:
    """For stats.json."""
    return {key: {name: v.tolist() for name, v in one.items()} for key, one in stats.items()}


def flatten(stats: Mapping[str, Stats]) -> dict[str, Any]:
    """For a row of meta/episodes: `stats/<feature>/<statistic>`."""
    return {
        f"stats/{feature}/{name}": value.tolist()
        for feature, one in stats.items()
        for name, value in one.items()
    }
