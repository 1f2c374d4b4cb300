"""The moving set-point of an arm: it follows, it slows, and it never leaves its limits."""

import numpy as np

from nac_ros.robot import RobotSpec
from nac_ros.safety.stopping import Limiter, Stop

STILL = 0.02  # [rad or m] an arm this near to its set-points was not moved by other means


class SetPoint:
    """positions float64 `[D]`, velocity `[D]`; stop is the one under way."""

    def __init__(self, spec: RobotSpec, positions: np.ndarray):
        self._spec, self._limiter = spec, Limiter(spec)
        self._period = 1 / spec.guard_rate_hz
        self.positions = self._within(positions)
        self.velocity = np.zeros(spec.action_dim)
        self.stop: Stop | None = None

    @property
    def moves(self) -> bool:
        return bool(self.velocity.any())

    def follow(self, wanted: np.ndarray, elapsed: float) -> None:
        """Goes to `wanted` `[D]`, as far as the limits allow within `elapsed` [s]."""
        before, self.stop = self.positions, None
        self.positions = self._within(self._limiter.step(before, wanted, elapsed))
        self.velocity = (self.positions - before) / elapsed

    def slow(self, due: float, elapsed: float) -> None:
        """On with a stop, whose newest set-point is due at `due` [s], `elapsed` after the last."""
        if not self.moves:
            self.stop = None
            return
        if self.stop is None:
            limit = self._spec.acceleration_limit
            start = due - elapsed
            self.stop = Stop(start, self.positions, self.velocity, limit, self._period)
        positions, self.velocity = self.stop.at(due)
        self.positions = self._within(positions)

    def seat(self, measured: np.ndarray) -> None:
        """Starts where the arm is; set-points that it is near stay, so that a grip stays firm."""
        off = np.abs(measured - self.positions)[self._spec.relative_mask]
        if not self.moves and not (off <= STILL).all():
            self.positions = self._within(measured)

    def rest_at(self, measured: np.ndarray) -> None:
        """Takes over where the arm came to rest by itself, with the same grip."""
        self.stop, self.velocity = None, np.zeros(self._spec.action_dim)
        self.positions = self._within(np.where(self._spec.relative_mask, measured, self.positions))

    def _within(self, positions: np.ndarray) -> np.ndarray:
        return np.clip(positions, self._spec.position_low, self._spec.position_high)
