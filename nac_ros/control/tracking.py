"""Tracking law: the jerk of each joint that closes in on a moving reference."""

import numpy as np

from nac_ros.control.jerk_limiter import JerkLimiter, MotionSegment
from nac_ros.control.stopping import MotionState
from nac_ros.robot.spec import RobotSpec

BANDWIDTH = 30.0  # [1/s] of the three equal closed-loop poles: small errors decay as exp(-30 t)
BRAKING_SHARE = 0.5  # share of the acceleration limit with which large position errors are closed


class TrackingController:
    """Tracks a reference in steps of one guard period, inside the limits of the robot."""

    # Cascade of three loops, position -> velocity -> acceleration -> jerk, each with the
    # reference's own derivative as feedforward:
    #   v = v_ref + f(p_ref - p),  a = a_ref + f(v - v_now),  j = j_ref + 3 w (a - a_now)
    # For small errors f is linear with gains w / 3 and w, so that all three closed-loop poles are
    # at -w, w = BANDWIDTH. For large errors f follows a square root, because a joint that can
    # brake with `limit` may approach a target at distance e with sqrt(2 limit e) at most.

    def __init__(self, spec: RobotSpec, limiter: JerkLimiter):
        self._limiter = limiter
        self._velocity = spec.velocity_limit
        self._acceleration, self._jerk = spec.acceleration_limit, spec.jerk_limit
        self._period = 1 / spec.guard_rate_hz

    def step(
        self,
        state: MotionState,
        reference: MotionState,
        next_reference: MotionState,
        speed_scale: float = 1.0,
    ) -> MotionSegment:
        """Motion over one period from `state`.

        reference, next_reference: the reference at the start and at the end of the period
        speed_scale: share of the velocity limits that may be used, in (0, 1]
        """
        limit = self._velocity * speed_scale
        position_error = reference.positions - state.positions
        closing = _approach_rate(position_error, BANDWIDTH / 3, BRAKING_SHARE * self._acceleration)
        velocity = np.clip(reference.velocities + closing, -limit, limit)
        closing = _approach_rate(velocity - state.velocities, BANDWIDTH, self._jerk)
        acceleration = reference.accelerations + closing
        acceleration = np.clip(acceleration, -self._acceleration, self._acceleration)
        reference_jerk = (next_reference.accelerations - reference.accelerations) / self._period
        jerk = reference_jerk + 3 * BANDWIDTH * (acceleration - state.accelerations)
        return self._limiter.step(state, jerk, speed_scale)


def _approach_rate(error: np.ndarray, gain: float, limit: np.ndarray) -> np.ndarray:
    """Rate at which `error` should shrink: `gain` times a small error; for a large one the rate
    that can still be braked with `limit`. Value and slope are continuous between the two."""
    linear = limit / gain**2  # errors up to this size are small
    size = np.abs(error)
    far = np.sqrt(2 * limit * np.maximum(size - linear / 2, 0))
    return np.sign(error) * np.where(size <= linear, gain * size, far)
