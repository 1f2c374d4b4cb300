"""Checks that datasets can be joined: the same joints in the same order, units and rate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from nac_ros.core.errors import DatasetError

RATE_TOLERANCE = 1e-4  # relative: 29.97 equals 30000/1001 Hz and differs from 30 Hz
VECTORS = {"names": "action dimensions", "state_names": "state dimensions", "units": "units"}


class DatasetDescription(Protocol):
    """The compared properties of a dataset: names and units of its dimensions, and fps [Hz]."""

    root: Path
    names: tuple[str, ...]
    state_names: tuple[str, ...]
    units: tuple[str, ...]
    fps: float


def check_compatible(datasets: Sequence[DatasetDescription], rate_hz: float = 0.0) -> None:
    """Raises DatasetError unless the datasets can be joined frame by frame.

    Action dimensions, state dimensions and units must be the same in the same order, and the
    rates within `RATE_TOLERANCE`. Dimensions without names match other dimensions without names.
    rate_hz: rate that replaces the datasets' own [Hz]; 0 compares their own rates
    """
    for other in datasets[1:]:
        for key in VECTORS:
            _check_vector(datasets[0], other, key)
        if not rate_hz and not same_rate(datasets[0].fps, other.fps):
            raise DatasetError(
                f"{other.root} has {_rate(other.fps)}, {datasets[0].root} has "
                f"{_rate(datasets[0].fps)}; they cannot be joined: resample one of them, or take "
                "one of them alone"
            )


def same_rate(first: float, other: float) -> bool:
    """Whether two rates [Hz] are equal up to the rounding of their fractions."""
    return abs(first - other) <= RATE_TOLERANCE * max(abs(first), abs(other))


def numbered_names(key: str, count: int) -> tuple[str, ...]:
    """Names for `count` unnamed dimensions of the column `key`."""
    return tuple(f"{key}.{i}" for i in range(count))


def is_numbered(names: Sequence[str]) -> bool:
    """Whether the names are those that `numbered_names` gives, or bare numbers."""
    return all(str(name).rpartition(".")[2] == str(k) for k, name in enumerate(names))


def _check_vector(first: DatasetDescription, other: DatasetDescription, key: str) -> None:
    ours, theirs = tuple(getattr(first, key)), tuple(getattr(other, key))
    if ours == theirs or (len(ours) == len(theirs) and is_numbered(ours) and is_numbered(theirs)):
        return
    raise DatasetError(
        f"{other.root} has {VECTORS[key]} {_listed(theirs)}, {first.root} has {_listed(ours)}; "
        f"they cannot be joined: {_remedy(key, ours, theirs)}"
    )


def _remedy(key: str, ours: Sequence[str], theirs: Sequence[str]) -> str:
    if sorted(ours) == sorted(theirs):
        return "bring the columns into one order"
    if key == "units":
        return "convert one of them, or write its true units into meta/info.json"
    if len(ours) == len(theirs) and is_numbered(ours) != is_numbered(theirs):
        return "add the names of the dimensions to the one without names"
    return "choose the columns with --action-key and --state-key, or take one of them alone"


def _rate(fps: float) -> str:
    return f"a rate of {fps:.10g} Hz" if fps else "no known rate"


def _listed(values: Sequence[Any]) -> str:
    return "(" + ", ".join(str(value) or "unknown" for value in values) + ")"
