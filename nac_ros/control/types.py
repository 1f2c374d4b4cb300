"""What a guard is told and what it says: its configuration, and one set-point."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from nac_ros.core.config import bounded, check_bounds

Mode = Literal["hold", "policy", "teleop"]
Source = Literal["policy", "teleop"]
# Commanded by nobody, at rest; ready to follow; following; coming to rest; at rest until reset.
GuardState = Literal["idle", "armed", "running", "stopping", "fault"]
AT_REST: tuple[GuardState, ...] = ("idle", "armed", "fault")


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Times in seconds.

    speed_scale: share of the velocity limits that is allowed; chunks are played so much slower
    max_chunk_age_s: a chunk whose observation is older on arrival is refused
    max_play_s: a chunk is played until its observation is this old, unless it ends before
    max_heartbeat_age_s: a policy silent for longer is taken for dead; 0 expects no heartbeat
    max_silence_s: teleoperation silent for longer is taken for dead
    max_gap_s: after a pause between ticks longer than this the guard holds
    blend_s: how long a seam between chunks is faded
    lead_s: how long before they are due set-points are final
    lookahead_s: how much of the committed motion each trajectory carries before it stops
    """

    speed_scale: float = bounded(1.0, 0.01, 1.0)
    max_chunk_age_s: float = bounded(0.5, 0.01, 10.0)
    max_play_s: float = bounded(1.0, 0.01, 60.0)
    max_heartbeat_age_s: float = bounded(0.0, 0.0, 10.0)
    max_silence_s: float = bounded(0.1, 0.02, 1.0)
    max_gap_s: float = bounded(0.2, 0.02, 1.0)
    blend_s: float = bounded(0.1, 0.01, 2.0)
    lead_s: float = bounded(0.05, 0.04, 0.2)
    lookahead_s: float = bounded(0.1, 0.02, 1.0)

    def __post_init__(self) -> None:
        check_bounds(self)


class Setpoint(NamedTuple):
    """The set-point due at `stamp` [s]: positions and velocities `[D]`; why it holds, or ''."""

    stamp: float
    positions: np.ndarray
    velocities: np.ndarray
    state: GuardState
    hold: str
