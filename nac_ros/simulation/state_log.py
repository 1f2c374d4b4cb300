"""What the twin remembers of a trial, so that its video can be rendered afterwards."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nac_ros.core.errors import DatasetError
from nac_ros.simulation.twin import TwinState


class Recording(NamedTuple):
    """One trial; all stamps [s] on the wall clock.

    facts: what `~/outcome` said
    stamps `[N]`, commanded and measured `[N, D]`; state_stamps `[S]`, states one per stamp
    """

    facts: dict[str, Any]
    stamps: np.ndarray
    commanded: np.ndarray
    measured: np.ndarray
    state_stamps: np.ndarray
    states: list[TwinState]


@dataclass
class Recorder:
    """Collects one trial and writes it as one .npz without pickles."""

    stamps: list[float] = field(default_factory=list)
    commanded: list[np.ndarray] = field(default_factory=list)
    measured: list[np.ndarray] = field(default_factory=list)
    state_stamps: list[float] = field(default_factory=list)
    states: list[TwinState] = field(default_factory=list)

    def sample(self, stamp: float, commanded: np.ndarray, measured: np.ndarray) -> None:
        """Joint positions `[D]` as commanded and as measured at `stamp` [s]."""
        self.stamps.append(stamp)
        self.commanded.append(commanded)
        self.measured.append(measured)

    def snapshot(self, stamp: float, state: TwinState) -> None:
        """The whole scene at `stamp` [s]."""
        self.state_stamps.append(stamp)
        self.states.append(state)

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """Complete or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(
            partial,
            facts=json.dumps(facts),
            stamps=np.array(self.stamps),
            commanded=np.array(self.commanded),
            measured=np.array(self.measured),
            state_stamps=np.array(self.state_stamps),
            physics=np.array([state.physics for state in self.states]),
            looks=np.array([state.look for state in self.states]),
        )
        partial.replace(path)


def load_recording(path: Path | str) -> Recording:
    """The inverse of `Recorder.save`; raises DatasetError."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            states = [TwinState(p, c) for p, c in zip(stored["physics"], stored["looks"])]
            names = ("stamps", "commanded", "measured", "state_stamps")
            arrays = {name: stored[name] for name in names}
            return Recording(facts=json.loads(str(stored["facts"])), states=states, **arrays)
    except (OSError, KeyError, ValueError) as error:
        raise DatasetError(f"{path} is no recording of a trial: {error}") from error
