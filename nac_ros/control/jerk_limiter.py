"""Motion that can always stop: each step leaves room for a brake inside every limit."""

from typing import NamedTuple

import numpy as np

from nac_ros.control.stopping import MotionState, StopProfile, apart
from nac_ros.robot.spec import RobotSpec

SLACK = 1e-9  # rounding: a brake's own states must pass for safe
STEEPNESS = np.linspace(-1, 1, 17)[:, None]  # jerks to choose from, as shares of the limit


class MotionSegment(NamedTuple):
    """One step of motion: times `[N]` [s] after its start, the last at its end, and the state at
    each `[N, D]`; between them every jerk is constant."""

    times: np.ndarray
    states: MotionState


class JerkLimiter:
    """Position, velocity, acceleration and jerk limits of a robot, for steps of one period.

    A state is safe when the quickest stop from it stays inside all of them. From a safe state a
    step goes to a safe state only; where no constant jerk leads to one the joint brakes, which
    always does.
    """

    def __init__(self, spec: RobotSpec):
        self._low, self._high = spec.position_low, spec.position_high
        self._velocity = spec.velocity_limit
        self._acceleration, self._jerk = spec.acceleration_limit, spec.jerk_limit
        self._ramp = self._acceleration / (2 * self._jerk)
        self._period = 1 / spec.guard_rate_hz

    def brake(self, state: MotionState) -> StopProfile:
        """The stop from `state` `[..., D]`."""
        return StopProfile(state, self._acceleration, self._jerk)

    def step(self, state: MotionState, jerk: np.ndarray, speed: float = 1.0) -> MotionSegment:
        """One period from `state` `[D]` under the safe jerk nearest to `jerk` `[D]`.

        speed: share of the velocity limits that is allowed, in (0, 1]
        """
        jerk = np.minimum(np.maximum(jerk, -self._jerk), self._jerk)
        if self._clearly_safe(state, jerk, speed):
            return self._straight(state, jerk)
        safe = self._safe(state, jerk[None], speed)[0]
        if safe.all():
            return self._straight(state, jerk)
        coarse, possible = self._nearest(state, jerk, STEEPNESS * self._jerk, speed)
        finer = coarse + np.linspace(0, 1, 9)[:, None] * np.clip(
            jerk - coarse, -self._jerk / 8, self._jerk / 8
        )
        chosen, found = self._nearest(state, jerk, finer, speed)
        chosen = np.where(safe, jerk, np.where(found, chosen, coarse))
        if (possible | safe).all():
            return self._straight(state, chosen)
        return self._mixed(state, chosen, possible | safe)

    def _clearly_safe(self, state: MotionState, jerk: np.ndarray, speed: float) -> bool:
        """A quick test by bounds that only motion far from every limit passes."""
        after = state.after(self._period, jerk)
        steep = np.maximum(np.abs(state.accelerations), np.abs(after.accelerations))
        if (steep > self._acceleration).any():
            return False
        gain = steep * (self._period + steep / self._jerk)
        fast = np.maximum(np.abs(state.velocities), np.abs(after.velocities)) + gain
        if (fast > self._velocity * speed).any():
            return False
        # More than a stop takes: the time to end the acceleration, and both kinds of profile.
        seconds = steep / self._jerk + self._ramp + np.sqrt(fast / self._jerk)
        room = fast * (seconds + fast / (2 * self._acceleration) + self._period)
        inside = (after.positions - room > self._low) & (after.positions + room < self._high)
        return bool(inside.all())

    def _safe(self, state: MotionState, jerks: np.ndarray, speed: float) -> np.ndarray:
        """Whether a period under `jerks` `[K, D]` ends, and stays, where a stop is possible."""
        after = state.after(self._period, jerks)
        brake = self.brake(after)
        low, high = brake.reach
        turns = self._turns(state, jerks)  # [2, K, D]
        crossed = state.accelerations * after.accelerations < 0
        steep = np.where(crossed, jerks, 1)
        peak = np.where(crossed, state.velocities - state.accelerations**2 / (2 * steep), 0)
        fastest = np.maximum(brake.peak_speed, np.abs(peak))
        return (
            (np.abs(after.accelerations) <= self._acceleration + SLACK)
            & (fastest <= self._velocity * speed + SLACK)
            & (np.minimum(low, turns.min(0)) >= self._low - SLACK)
            & (np.maximum(high, turns.max(0)) <= self._high + SLACK)
        )

    def _turns(self, state: MotionState, jerks: np.ndarray) -> np.ndarray:
        """Where velocities pass zero within the period `[2, K, D]`, else some place on the way."""
        _, v, a = state
        root = np.sqrt(np.maximum(a * a - 2 * jerks * v, 0))
        q = -(a + np.copysign(root, a))
        over_jerk = q / np.where(jerks == 0, np.inf, jerks)
        over_q = 2 * v / np.where(q == 0, np.inf, q)
        times = np.clip([over_jerk, over_q], 0, self._period)
        return state.after(times, jerks).positions

    def _nearest(
        self, state: MotionState, wanted: np.ndarray, jerks: np.ndarray, speed: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of `jerks` `[K, D]` the safe one nearest to `wanted` `[D]`, and whether there is one."""
        safe = self._safe(state, jerks, speed)
        distance = np.where(safe, np.abs(jerks - wanted), np.inf)
        best = distance.argmin(0)
        return np.take_along_axis(jerks, best[None], 0)[0], np.any(safe, axis=0)

    def _straight(self, state: MotionState, jerk: np.ndarray) -> MotionSegment:
        after = state.after(self._period, jerk)
        return MotionSegment(
            np.array([self._period]), MotionState(*(part[None] for part in after))
        )

    def _mixed(self, state: MotionState, jerk: np.ndarray, steered: np.ndarray) -> MotionSegment:
        """Joints that are `steered` `[D]` move under their jerk, the others brake."""
        brake = self.brake(state)
        ends = brake.ends[:, ~steered]
        times = apart(np.append(np.unique(ends[ends < self._period]), self._period))
        steering, braking = state.after(times[:, None], jerk), brake.at(times)
        return MotionSegment(
            times, MotionState(*(np.where(steered, s, b) for s, b in zip(steering, braking)))
        )
