"""Checks that datasets can be joined: the same joints in the same order, units and rate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from nac_ros.core.errors import DatasetError

RATE_TOLERANCE = 1e-4  # relative: 29.97 equals 30000/1001 Hz and differs from 30 Hz
VECTORS = {"names": "action dimensions", "state_names": "state dimensions", "units": "units"}


class Described(Protocol):
    """The compared facts of a dataset: names and units of its dimensions, and fps [Hz]."""

    @property
    def root(self) -> Path: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def state_names(self) -> tuple[str, ...]: ...
    @property
    def units(self) -> tuple[str, ...]: ...
    @property
    def fps(self) -> float: ...


def check_compatible(datasets: Sequence[Described], rate_hz: float = 0.0) -> None:
    """Raises DatasetError unless the datasets can be joined frame by frame.

    Action dimensions, state dimensions and units must be the same in the same order, and the
    rates within `RATE_TOLERANCE`. Dimensions without names match other dimensions without names.
    rate_hz: rate that replaces the datasets' own [Hz]; 0 compares their own rates
    """
    for other in datasets[1:]:
        for key in VECTORS:
            _check_vector(datasets[0], other, key)
        if not rate_hz:
            _check_rate(datasets[0], other)


def same_rate(first: float, other: float) -> bool:
    """Whether two rates [Hz] are equal up to the rounding of their fractions."""
    return abs(first - other) <= RATE_TOLERANCE * max(abs(first), abs(other))


def is_numbered(names: Sequence[str]) -> bool:
    """Whether the names are the numbered ones that a reader gives to unnamed dimensions."""
    return all(str(name).rpartition(".")[2] == str(k) for k, name in enumerate(names))


def _check_vector(first: Described, other: Described, key: str) -> None:
    ours, theirs = tuple(getattr(first, key)), tuple(getattr(other, key))
    if ours == theirs or (len(ours) == len(theirs) and is_numbered(ours) and is_numbered(theirs)):
        return
    raise DatasetError(
        f"{other.root} has {VECTORS[key]} {_listed(theirs)}, {first.root} has {_listed(ours)}; "
        f"they cannot be joined: {_advice(key, ours, theirs)}"
    )


def _advice(key: str, ours: Sequence[str], theirs: Sequence[str]) -> str:
    if sorted(ours) == sorted(theirs):
        return "bring the columns into one order"
    if key == "units":
        return "convert one of them, or write the units that they have into meta/info.json"
    if len(ours) == len(theirs) and is_numbered(ours) != is_numbered(theirs):
        return "write the names of the dimensions into the one that has none"
    return "choose the columns with --action-key and --state-key, or take one of them alone"


def _check_rate(first: Described, other: Described) -> None:
    if not same_rate(first.fps, other.fps):
        raise DatasetError(
            f"{other.root} has {_rate(other.fps)}, {first.root} has {_rate(first.fps)}; they "
            "cannot be joined: resample one of them, or take one of them alone"
        )


def _rate(fps: float) -> str:
    return f"a rate of {fps:.10g} Hz" if fps else "no known rate"


def _listed(values: Sequence[Any]) -> str:
    return "(" + ", ".join(str(value) or "unknown" for value in values) + ")"
