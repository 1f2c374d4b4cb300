"""Following what is wanted: a jerk for each joint that closes in on a moving target."""

import numpy as np

from nac_ros.control.jerk_limiter import JerkLimiter, MotionSegment
from nac_ros.control.stopping import MotionState
from nac_ros.robot.spec import RobotSpec

CLOSING = 30.0  # [1/s] small errors die out like exp(-CLOSING t), each of their three derivatives
CAUTION = 0.5  # share of the acceleration that large distances are closed with


class TrackingController:
    """Steps of one period towards a moving target, never outside the limits.

    Position, velocity and acceleration errors are closed in a cascade (three poles at `CLOSING`)
    on top of the wanted jerk; where an error is large, a square root in place of the straight
    line keeps the closing speed to what can be braked.
    """

    def __init__(self, spec: RobotSpec, limiter: JerkLimiter):
        self._limiter = limiter
        self._velocity = spec.velocity_limit
        self._acceleration, self._jerk = spec.acceleration_limit, spec.jerk_limit
        self._period = 1 / spec.guard_rate_hz

    def step(
        self, state: MotionState, now: MotionState, ahead: MotionState, speed: float = 1.0
    ) -> MotionSegment:
        """One period from `state`, where `now` is wanted and after the period `ahead`.

        speed: share of the velocity limits that is allowed, in (0, 1]
        """
        limit = self._velocity * speed
        closing = _root(now.positions - state.positions, CLOSING / 3, CAUTION * self._acceleration)
        velocity = np.clip(now.velocities + closing, -limit, limit)
        closing = _root(velocity - state.velocities, CLOSING, self._jerk)
        acceleration = now.accelerations + closing
        acceleration = np.clip(acceleration, -self._acceleration, self._acceleration)
        change = (ahead.accelerations - now.accelerations) / self._period
        jerk = change + 3 * CLOSING * (acceleration - state.accelerations)
        return self._limiter.step(state, jerk, speed)


def _root(error: np.ndarray, gain: float, limit: np.ndarray) -> np.ndarray:
    """Gain times a small error; of a large one what `limit` on the rate of change can undo."""
    linear = limit / gain**2  # up to here
    size = np.abs(error)
    far = np.sqrt(2 * limit * np.maximum(size - linear / 2, 0))
    return np.sign(error) * np.where(size <= linear, gain * size, far)
