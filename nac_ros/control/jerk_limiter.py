"""Jerk limiter: the jerk nearest to the requested one after which every joint can still stop."""

from typing import NamedTuple

import numpy as np

from nac_ros.control.stopping import MotionState, StopProfile, distinct_times
from nac_ros.robot.spec import RobotSpec

TOLERANCE = 1e-9  # for rounding: the states of a stop itself must count as safe
COARSE_GRID = np.linspace(-1, 1, 17)[:, None]  # candidate jerks as shares of the limit
FINE_GRID = np.linspace(0, 1, 9)[:, None]  # between a coarse candidate and the requested jerk


class MotionSegment(NamedTuple):
    """Motion over one period: `times` `[N]` [s] after its start, the last one at its end, and the
    states `[N, D]` at these times. Between two times every jerk is constant."""

    times: np.ndarray
    states: MotionState


class JerkLimiter:
    """Keeps steps of one period within the position, velocity, acceleration and jerk limits."""

    # Invariant: a state is safe if the time-optimal stop from it stays inside every limit. Each
    # step leads from a safe state to a safe state:
    # 1. Clip the requested jerk to its limit. If the state after the period is safe, take it.
    # 2. Otherwise search a grid of 17 jerks, then 9 between the best of them and the request, and
    #    take the safe one nearest to the request.
    # 3. A joint without a safe constant jerk follows its time-optimal stop, whose states are safe
    #    by definition.

    def __init__(self, spec: RobotSpec):
        self._low, self._high = spec.position_low, spec.position_high
        self._velocity = spec.velocity_limit
        self._acceleration, self._jerk = spec.acceleration_limit, spec.jerk_limit
        self._ramp = self._acceleration / (2 * self._jerk)
        self._period = 1 / spec.guard_rate_hz

    def stop_profile(self, state: MotionState) -> StopProfile:
        """The time-optimal stop from `state` `[..., D]`."""
        return StopProfile(state, self._acceleration, self._jerk)

    def step(
        self, state: MotionState, jerk: np.ndarray, speed_scale: float = 1.0
    ) -> MotionSegment:
        """Motion over one period from `state` `[D]` under the safe jerk nearest to `jerk` `[D]`.

        speed_scale: share of the velocity limits that may be used, in (0, 1]
        """
        jerk = np.minimum(np.maximum(jerk, -self._jerk), self._jerk)
        if self._is_clearly_safe(state, jerk, speed_scale):
            return self._constant_jerk(state, jerk)
        safe = self._is_safe(state, jerk[None], speed_scale)[0]
        if safe.all():
            return self._constant_jerk(state, jerk)
        coarse, possible = self._nearest_safe(state, jerk, COARSE_GRID * self._jerk, speed_scale)
        step = np.clip(jerk - coarse, -self._jerk / 8, self._jerk / 8)
        fine, found = self._nearest_safe(state, jerk, coarse + FINE_GRID * step, speed_scale)
        chosen = np.where(safe, jerk, np.where(found, fine, coarse))
        if (possible | safe).all():
            return self._constant_jerk(state, chosen)
        return self._with_stops(state, chosen, possible | safe)

    def _is_clearly_safe(self, state: MotionState, jerk: np.ndarray, speed_scale: float) -> bool:
        """Conservative and quick version of `_is_safe` from upper bounds of speed, stopping time
        and stopping distance; most steps pass it."""
        after = state.after(self._period, jerk)
        acceleration = np.maximum(np.abs(state.accelerations), np.abs(after.accelerations))
        if (acceleration > self._acceleration).any():
            return False
        gain = acceleration * (self._period + acceleration / self._jerk)
        speed = np.maximum(np.abs(state.velocities), np.abs(after.velocities)) + gain
        if (speed > self._velocity * speed_scale).any():
            return False
        # Upper bound of the stopping time: the time to end the acceleration, plus the times of a
        # stop with and without a hold phase.
        seconds = acceleration / self._jerk + self._ramp + np.sqrt(speed / self._jerk)
        distance = speed * (seconds + speed / (2 * self._acceleration) + self._period)
        inside = (after.positions - distance > self._low) & (
            after.positions + distance < self._high
        )
        return bool(inside.all())

    def _is_safe(self, state: MotionState, jerks: np.ndarray, speed_scale: float) -> np.ndarray:
        """Whether each joint keeps its limits during a period under `jerks` `[K, D]` and during
        the stop after it, bool `[K, D]`."""
        after = state.after(self._period, jerks)
        stop = self.stop_profile(after)
        low, high = stop.position_range
        turns = self._turning_points(state, jerks)  # [2, K, D]
        # The speed has an extremum within the period where the acceleration crosses zero.
        crosses = state.accelerations * after.accelerations < 0
        divisor = np.where(crosses, jerks, 1)
        extremum = state.velocities - state.accelerations**2 / (2 * divisor)
        speed = np.maximum(stop.peak_speed, np.abs(np.where(crosses, extremum, 0)))
        return (
            (np.abs(after.accelerations) <= self._acceleration + TOLERANCE)
            & (speed <= self._velocity * speed_scale + TOLERANCE)
            & (np.minimum(low, turns.min(0)) >= self._low - TOLERANCE)
            & (np.maximum(high, turns.max(0)) <= self._high + TOLERANCE)
        )

    def _turning_points(self, state: MotionState, jerks: np.ndarray) -> np.ndarray:
        """Positions `[2, K, D]` where the velocity crosses zero within the period; where it does
        not, positions at the start or end of the period."""
        # Roots of v + a t + j t^2 / 2, in the form that loses no digits when j or a is small.
        _, v, a = state
        root = np.sqrt(np.maximum(a * a - 2 * jerks * v, 0))
        q = -(a + np.copysign(root, a))
        first = q / np.where(jerks == 0, np.inf, jerks)
        second = 2 * v / np.where(q == 0, np.inf, q)
        times = np.clip([first, second], 0, self._period)
        return state.after(times, jerks).positions

    def _nearest_safe(
        self, state: MotionState, requested: np.ndarray, jerks: np.ndarray, speed_scale: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of `jerks` `[K, D]` the safe one nearest to `requested` `[D]`, and whether a joint has
        a safe one, bool `[D]`."""
        safe = self._is_safe(state, jerks, speed_scale)
        distance = np.where(safe, np.abs(jerks - requested), np.inf)
        best = distance.argmin(0)
        return np.take_along_axis(jerks, best[None], 0)[0], np.any(safe, axis=0)

    def _constant_jerk(self, state: MotionState, jerk: np.ndarray) -> MotionSegment:
        after = state.after(self._period, jerk)
        return MotionSegment(
            np.array([self._period]), MotionState(*(part[None] for part in after))
        )

    def _with_stops(
        self, state: MotionState, jerk: np.ndarray, tracks: np.ndarray
    ) -> MotionSegment:
        """Joints with `tracks` `[D]` move under constant jerk, the others follow their stop."""
        stop = self.stop_profile(state)
        ends = stop.phase_ends[:, ~tracks]
        times = distinct_times(np.append(np.unique(ends[ends < self._period]), self._period))
        tracking, stopping = state.after(times[:, None], jerk), stop.states_at(times)
        return MotionSegment(
            times, MotionState(*(np.where(tracks, t, s) for t, s in zip(tracking, stopping)))
        )
