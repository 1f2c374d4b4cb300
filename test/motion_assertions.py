"""Assertions on commanded motion: no limit of the robot is exceeded at any time."""

import numpy as np

from nac_ros.core.types import Trajectory
from nac_ros.simulation.joint_trajectory_controller import JointTrajectoryController

TOLERANCE = 1e-3  # of each limit


class Follower:
    """A controller that receives trajectories, and the set-points it interpolates at `hz`."""

    def __init__(self, spec, positions, now, hz=1000):
        self.spec, self.step = spec, 1 / hz
        self._arm = JointTrajectoryController(spec.joint_names)
        self._arm.reset(positions, now)
        self._start, self._next, self._rows = now, 0, []
        self._moved = []

    def send(self, motion, now):
        """Sends a trajectory that arrives at `now` [s]."""
        self.run(now)
        self._arm.accept(Trajectory.from_arrays(self.spec.joint_names, motion), now)

    def run(self, until):
        """Samples up to `until` [s]; returns the newest set-point."""
        last = int((until - self._start) / self.step)
        times = self._start + self.step * np.arange(self._next, last + 1)
        if len(times):
            self._rows.append(self._arm.sample(times).positions)
        self._next = max(self._next, last + 1)
        return self._rows[-1][-1] if self._rows else self._arm.sample(until).positions[0]

    def activate(self, positions, now):
        """Activates the controller again; it holds the measured `positions`."""
        self.run(now)
        self._arm.reset(positions, now)
        self._moved.append(self._next)

    @property
    def positions(self):
        """All samples, `[N, D]`."""
        return np.concatenate(self._rows)

    @property
    def segments(self):
        """All samples, split where the controller was activated again."""
        return np.split(self.positions, self._moved)


def assert_inside(spec, positions, period):
    """Asserts that positions `[N, D]`, `period` [s] apart, keep every limit, also of their finite
    differences."""
    limits = (spec.velocity_limit, spec.acceleration_limit, spec.jerk_limit)
    reach = TOLERANCE * (spec.position_high - spec.position_low)
    assert np.isfinite(positions).all()
    assert (positions >= spec.position_low - reach).all()
    assert (positions <= spec.position_high + reach).all()
    for order, limit in enumerate(limits, 1):
        rates = np.abs(np.diff(positions, order, axis=0)) / period**order
        worst = (rates / limit).max() if len(rates) else 0
        assert worst <= 1 + TOLERANCE, f"derivative {order} at {worst:.4f} of its limit"
