"""Coming to rest: constant-deceleration stops, and steps after which one is always possible."""

from typing import NamedTuple

import numpy as np

from nac_ros.robot import RobotSpec


class Motion(NamedTuple):
    """A piece of motion that ends at rest: times from now `[N]` [s], positions and velocities
    float64 `[N, D]`; the last velocity is exactly zero."""

    times: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray


class Stop:
    """Every joint slows at a constant rate from `start` [s], inside its acceleration limit.

    A joint stops after a whole number of periods, so that a cubic through points at those times
    is the same parabola and no harsher.
    """

    def __init__(
        self,
        start: float,
        positions: np.ndarray,
        velocities: np.ndarray,
        acceleration: np.ndarray,
        period: float,
    ):
        periods = np.ceil(np.abs(velocities) / (acceleration * period) - 1e-9)
        self._start, self._positions, self._velocities = start, positions, velocities
        self._durations = periods * period  # [D]
        self._slowing = velocities / np.maximum(self._durations, period)

    @property
    def end(self) -> float:
        """When the last joint is at rest [s]."""
        return self._start + float(self._durations.max())

    def at(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities `[D]` at `t` [s]."""
        spent = np.minimum(t - self._start, self._durations)
        positions = self._positions + (self._velocities - self._slowing * spent / 2) * spent
        resting = spent >= self._durations - 1e-9
        return positions, np.where(resting, 0.0, self._velocities - self._slowing * spent)

    def knots(self, after: float) -> np.ndarray:
        """Times [s] later than `after` at which a joint comes to rest, the last one included."""
        ends = np.unique(self._start + self._durations)
        return ends[ends > after + 1e-6]


class Limiter:
    """Holds steps to the velocity limit, and near a position limit to what a stop has room for."""

    def __init__(self, spec: RobotSpec):
        self._low, self._high = spec.position_low, spec.position_high
        self._velocity, self._acceleration = spec.velocity_limit, spec.acceleration_limit
        self._period = 1 / spec.guard_rate_hz

    def step(self, before: np.ndarray, wanted: np.ndarray, elapsed: float) -> np.ndarray:
        """The set-point `[D]` nearest to `wanted` that may follow `before` after `elapsed` [s]."""
        down, up = self._reach(before, elapsed)
        return before + np.minimum(np.maximum(wanted - before, -down), up)

    def allows(self, positions: np.ndarray, elapsed: float) -> bool:
        """Whether a row of set-points `[N, D]`, `elapsed` [s] apart, needs no limiting."""
        steps = np.diff(positions, axis=0)
        down, up = self._reach(positions[:-1], elapsed)
        return bool((steps <= up).all() and (steps >= -down).all())

    def _reach(self, before: np.ndarray, elapsed: float) -> tuple[np.ndarray, np.ndarray]:
        # A stop from speed v goes on for at most v^2 / 2a + v * period / 2, see Stop.
        room = np.stack([before - self._low, self._high - before])
        braking = self._acceleration * (elapsed + self._period / 2)
        most = np.sqrt(braking**2 + 2 * self._acceleration * np.maximum(room, 0)) - braking
        reach = elapsed * np.minimum(most, self._velocity)
        return reach[0], reach[1]
