"""What one trial left behind, in memory and on disk, for the report and for later questions."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nac_ros.core.errors import DatasetError

ARRAYS = (
    "times",
    "commanded",
    "measured",
    "chunk_stamps",
    "chunk_latency_s",
    "chunk_actions",
    "command_interval_s",
)


class Hold(NamedTuple):
    """The policy's chunks did not count: from, to [s] and the guard's reason code, or its mode."""

    start: float
    end: float
    reason: str


def _none() -> np.ndarray:
    return np.zeros(0)


@dataclass(frozen=True, kw_only=True)
class TrialTrace:
    """One trial; all times [s] on one clock.

    outcome: success, failure or aborted, as judged; reason: the judge's sentence
    names, units: of the D joints
    times: `[T]`; commanded, measured: `[T, D]` joint positions at those times
    chunk_stamps, chunk_latency_s: `[C]`, the observation's stamp and how long the chunk took
    chunk_actions: `[C, H, D]` as planned, due at stamp + (i + 1) / rate_hz; may be left out
    command_interval_s: `[M]` time between consecutive commands; may be left out
    holds, interventions: when the guard stopped, and when a hand took over
    """

    task: str
    trial: int
    outcome: str
    reason: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    times: np.ndarray
    commanded: np.ndarray
    measured: np.ndarray
    chunk_stamps: np.ndarray = field(default_factory=_none)
    chunk_latency_s: np.ndarray = field(default_factory=_none)
    chunk_actions: np.ndarray = field(default_factory=_none)
    command_interval_s: np.ndarray = field(default_factory=_none)
    rate_hz: float = 30.0
    holds: tuple[Hold, ...] = ()
    interventions: tuple[Hold, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.times), len(self.names))
        for what in ("commanded", "measured"):
            if np.shape(getattr(self, what)) != shape:
                got = np.shape(getattr(self, what))
                raise DatasetError(f"trial {self.trial}: {what} must be {shape}, got {got}")

    @property
    def duration_s(self) -> float:
        """From the first to the last sample."""
        return float(self.times[-1] - self.times[0]) if len(self.times) else 0.0

    def save(self, path: Path | str) -> None:
        """One .npz without pickles."""
        facts = {k: v for k, v in asdict(self).items() if k not in ARRAYS}
        stored: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in ARRAYS}
        np.savez_compressed(path, facts=json.dumps(facts), **stored)

    @classmethod
    def load(cls, path: Path | str) -> "TrialTrace":
        """The inverse of `save`."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                facts = json.loads(str(stored["facts"]))
                arrays = {name: stored[name] for name in ARRAYS}
        except (OSError, KeyError, ValueError) as error:
            raise DatasetError(f"{path} is no trial trace: {error}") from error
        for spans in ("holds", "interventions"):
            facts[spans] = tuple(Hold(*span) for span in facts.get(spans, ()))
        facts["names"], facts["units"] = tuple(facts["names"]), tuple(facts["units"])
        return cls(**facts, **arrays)
