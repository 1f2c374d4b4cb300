"""State log of one trial of the twin: joint samples and scene snapshots, for later rendering."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nac_ros.core.errors import DatasetError
from nac_ros.simulation.twin import TwinState

_LISTS = ("stamps", "commanded", "measured", "state_stamps")


@dataclass
class StateLog:
    """One trial; all stamps [s] on the wall clock. Arrays after `load`, lists while it grows.

    trial: the fields of the TrialState that ended it, also published on `~/outcome`
    stamps: N times; commanded, measured: joint positions `[N, D]` at these times
    state_stamps: S times; states: one snapshot of the scene at each
    """

    trial: dict[str, Any] = field(default_factory=dict)
    stamps: Any = field(default_factory=list)
    commanded: Any = field(default_factory=list)
    measured: Any = field(default_factory=list)
    state_stamps: Any = field(default_factory=list)
    states: list[TwinState] = field(default_factory=list)

    def add_sample(self, stamp: float, commanded: np.ndarray, measured: np.ndarray) -> None:
        """Adds commanded and measured joint positions `[D]` at `stamp` [s]."""
        self.stamps.append(stamp)
        self.commanded.append(commanded)
        self.measured.append(measured)

    def add_state(self, stamp: float, state: TwinState) -> None:
        """Adds a snapshot of the scene at `stamp` [s]."""
        self.state_stamps.append(stamp)
        self.states.append(state)

    def save(self, path: Path) -> None:
        """Writes one .npz file without pickles; a reader sees the complete file or none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(
            partial,
            trial=np.array(json.dumps(self.trial)),
            physics=np.array([state.physics for state in self.states]),
            appearance=np.array([state.appearance for state in self.states]),
            **{name: np.array(getattr(self, name)) for name in _LISTS},
        )
        partial.replace(path)

    @classmethod
    def load(cls, path: Path | str) -> "StateLog":
        """Reads a file that `save` wrote; raises DatasetError for any other."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                pairs = zip(stored["physics"], stored["appearance"])
                return cls(
                    trial=json.loads(str(stored["trial"])),
                    states=[TwinState(physics, appearance) for physics, appearance in pairs],
                    **{name: stored[name] for name in _LISTS},
                )
        except (OSError, KeyError, ValueError) as error:
            raise DatasetError(f"{path} is no state log of a trial: {error}") from error
