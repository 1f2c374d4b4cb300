"""The set-point that the controllers report before the guard sends its first trajectory.

A JointTrajectoryController holds the position at which it was activated, or the last point of its
last trajectory from any sender. Gravity or contact keeps the arm some distance from that point.
"""

import numpy as np

from nac_ros.control.checks import Rejection
from nac_ros.control.chunk_interpolator import quintic_s
from nac_ros.robot.spec import RobotSpec

MAX_AGE_S = 0.2  # ros2_control publishes controller_state at 20 to 100 Hz
SAME = 1e-6  # [rad or m] a set-point that changes by at most this is at rest


class ControllerReference:
    """The newest set-point `[D]` of all controllers together, and whether it is at rest."""

    STATE_FIELDS = ("_positions", "_reported_at", "_moved_at")

    def __init__(self, spec: RobotSpec):
        self._spec = spec
        self._positions: np.ndarray | None = None
        self._reported_at = self._moved_at = -np.inf

    def update(self, now: float, positions: np.ndarray) -> Rejection | None:
        """Stores a set-point `[D]` received at `now` [s]. One that is not finite or of another
        shape is rejected, and the set-point is unknown."""
        positions = np.array(positions, np.float64)
        before, self._positions = self._positions, None
        if positions.shape != (self._spec.action_dim,) or not np.isfinite(positions).all():
            text = f"a controller reports the set-point {positions.tolist()}; check the controller"
            return Rejection("reference_not_finite", text)
        if before is not None and np.abs(positions - before).max() > SAME:
            self._moved_at = now
        self._positions, self._reported_at = positions, now
        return None

    def current(self, now: float) -> np.ndarray | None:
        """The set-point `[D]` at `now` [s], None if the last one is older than MAX_AGE_S."""
        return self._positions if 0 <= now - self._reported_at <= MAX_AGE_S else None

    def is_moving(self, now: float) -> bool:
        """Whether the set-point changed in the last MAX_AGE_S / 2."""
        return 0 <= now - self._moved_at <= MAX_AGE_S / 2


def settling_time_s(
    spec: RobotSpec, start: np.ndarray, measured: np.ndarray, last_sent: np.ndarray | None
) -> float:
    """Time [s] that a controller needs from an unknown set-point at rest to `start` `[D]` within
    the limits of `spec`.

    The set-point is at most max_offset from `measured` `[D]`, or is `last_sent` `[D]`, the last
    one that the guard sent. If it has sent none, a gripper's set-point may be anywhere in its
    range, because an object may block the gripper.
    """
    distance = spec.max_offset + np.abs(measured - start)
    if last_sent is not None:
        distance = np.maximum(distance, np.abs(last_sent - start))
    else:
        anywhere = np.maximum(start - spec.position_low, spec.position_high - start)
        distance = np.where(spec.relative_mask, distance, np.maximum(distance, anywhere))
    return quintic_s(distance, spec.velocity_limit, spec.acceleration_limit, spec.jerk_limit)
