"""The record of one trial in memory and as a file: joints, chunks, holds, interventions."""

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


class TimeSpan(NamedTuple):
    """From start to end [s]; reason: the guard's reason code or mode, or `intervention`."""

    start: float
    end: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class TrialTrace:
    """One trial; all times [s] on one clock.

    outcome: success, failure or aborted; reason: the success detector's sentence
    names, units: of the D joints
    times: `[T]`; commanded, measured: `[T, D]` joint positions at those times
    chunk_stamps, chunk_latency_s: `[C]`, the observation's stamp, and the time to its chunk
    chunk_actions: `[C, H, D]` as planned, due at stamp + (i + 1) / rate_hz; optional
    command_interval_s: `[M]` time between consecutive commands; optional
    holds: spans in which the guard held; interventions: spans in which the operator drove

    Raises DatasetError if commanded or measured has another shape.
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
    chunk_stamps: np.ndarray = field(default_factory=lambda: np.zeros(0))
    chunk_latency_s: np.ndarray = field(default_factory=lambda: np.zeros(0))
    chunk_actions: np.ndarray = field(default_factory=lambda: np.zeros(0))
    command_interval_s: np.ndarray = field(default_factory=lambda: np.zeros(0))
    rate_hz: float = 30.0
    holds: tuple[TimeSpan, ...] = ()
    interventions: tuple[TimeSpan, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.times), len(self.names))
        for name in ("commanded", "measured"):
            got = np.shape(getattr(self, name))
            if got != shape:
                raise DatasetError(f"trial {self.trial}: {name} must be {shape}, got {got}")

    @property
    def duration_s(self) -> float:
        """Time from the first to the last sample."""
        return float(self.times[-1] - self.times[0]) if len(self.times) else 0.0

    def save(self, path: Path | str) -> None:
        """Writes one .npz file without pickles."""
        values = {key: value for key, value in asdict(self).items() if key not in ARRAYS}
        stored: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in ARRAYS}
        np.savez_compressed(path, values=np.array(json.dumps(values)), **stored)

    @classmethod
    def load(cls, path: Path | str) -> "TrialTrace":
        """Reads a file that `save` wrote; raises DatasetError for any other."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                values = json.loads(str(stored["values"]))
                arrays = {name: stored[name] for name in ARRAYS}
        except (OSError, KeyError, ValueError) as error:
            raise DatasetError(f"{path} is no trial trace: {error}") from error
        for key in ("holds", "interventions"):
            values[key] = tuple(TimeSpan(*span) for span in values.get(key, ()))
        values["names"], values["units"] = tuple(values["names"]), tuple(values["units"])
        return cls(**values, **arrays)
