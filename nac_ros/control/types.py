"""Types of the guard's interface: modes, configuration and set-points."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from nac_ros.core.config import check_fields, number_field

Mode = Literal["hold", "policy", "teleop"]
Source = Literal["policy", "teleop"]
# idle: at rest in mode hold; armed: at rest, ready to follow; running: follows a source;
# stopping: comes to rest; fault: at rest until reset.
GuardState = Literal["idle", "armed", "running", "stopping", "fault"]
AT_REST: tuple[GuardState, ...] = ("idle", "armed", "fault")


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Times in seconds.

    speed_scale: share of the velocity limits that is used; chunks are stretched in time by it
    max_chunk_age_s: a chunk whose observation is older on arrival is rejected
    max_execution_s: a chunk is executed until its observation is this old, or until it ends
    max_heartbeat_age_s: the policy is lost if its last heartbeat is older; 0: no heartbeat needed
    max_teleop_age_s: teleoperation is lost if its last command is older
    max_gap_s: a longer pause between two ticks makes the guard hold
    blend_s: duration of the blend between two chunks, at least
    lead_s: set-points are final this long before they are due
    lookahead_s: duration of the tracking part that each trajectory carries before its stop
    """

    speed_scale: float = number_field(1.0, 0.01, 1.0)
    max_chunk_age_s: float = number_field(0.5, 0.01, 10.0)
    max_execution_s: float = number_field(1.0, 0.01, 60.0)
    max_heartbeat_age_s: float = number_field(0.0, 0.0, 10.0)
    max_teleop_age_s: float = number_field(0.1, 0.02, 1.0)
    max_gap_s: float = number_field(0.2, 0.02, 1.0)
    blend_s: float = number_field(0.1, 0.01, 2.0)
    lead_s: float = number_field(0.05, 0.04, 0.2)
    lookahead_s: float = number_field(0.1, 0.02, 1.0)

    def __post_init__(self) -> None:
        check_fields(self)


class Setpoint(NamedTuple):
    """Positions and velocities `[D]` commanded at `stamp` [s]; hold_reason: '' while following."""

    stamp: float
    positions: np.ndarray
    velocities: np.ndarray
    state: GuardState
    hold_reason: str
