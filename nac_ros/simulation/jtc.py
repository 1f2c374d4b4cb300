"""A JointTrajectoryController as ros2_control has it: what it refuses and how it interpolates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nac_ros.errors import NacError


class TrajectoryRejected(NacError):
    """A trajectory that ros2_control's controller would refuse; the arm keeps its old one."""


@dataclass(frozen=True)
class TrajectoryPoint:
    """Positions and optional velocities in the trajectory's joint order, `time_from_start` [s]."""

    positions: np.ndarray
    time_from_start: float
    velocities: np.ndarray | None = None


@dataclass(frozen=True)
class Trajectory:
    """Points for `joint_names`, starting at `stamp` [s]; stamp 0 means on arrival."""

    joint_names: Sequence[str]
    points: Sequence[TrajectoryPoint]
    stamp: float = 0.0


@dataclass(frozen=True)
class Desired:
    """Set-points at N times: positions and velocities, float64 `[N, D]`."""

    positions: np.ndarray
    velocities: np.ndarray


class TrajectoryController:
    """Follows the newest accepted trajectory and holds its last point.

    Like `interpolate_from_desired_state`, a new trajectory starts at the set-point of that moment.
    A segment is a cubic Hermite where both ends have velocities and a straight line elsewhere.
    """

    def __init__(self, joint_names: Sequence[str]):
        self.joint_names = tuple(joint_names)
        self.reset(np.zeros(len(self.joint_names)), 0.0)

    def reset(self, positions: np.ndarray, now: float) -> None:
        """Forgets the trajectory and holds `positions` `[D]`."""
        rest = np.asarray(positions, float)[None]
        self._times = np.array([now])  # [K] knots, the first is where the trajectory was taken up
        self._positions = rest  # [K, D]
        self._velocities = np.zeros_like(rest)  # [K, D]
        self._smooth = np.zeros(1, bool)  # [K]: the knot came with velocities

    def accept(self, trajectory: Trajectory, now: float) -> None:
        """Replaces the trajectory at `now` [s]; raises TrajectoryRejected with the reason."""
        order = self._order(trajectory.joint_names)
        if not trajectory.points:
            raise TrajectoryRejected("empty trajectory: send one point to hold")
        times = np.array([point.time_from_start for point in trajectory.points], float)
        positions = self._rows([p.positions for p in trajectory.points], order, "positions")
        given = [point.velocities is not None for point in trajectory.points]
        zeros = np.zeros(len(order))
        velocities = self._rows(
            [zeros if p.velocities is None else p.velocities for p in trajectory.points],
            order,
            "velocities",
        )
        self._check_times(times, trajectory.stamp, now)
        if np.any(velocities[-1] != 0):
            raise TrajectoryRejected(
                "the last point's velocities must be zero, the arm stops there"
            )
        self._take(max(trajectory.stamp, now) + times, positions, velocities, np.array(given), now)

    def hold(self, now: float) -> None:
        """Stays at the set-point of `now` [s]."""
        self.reset(self.sample(now).positions[0], now)

    def sample(self, times: float | np.ndarray) -> Desired:
        """Set-points at `times` [s], a number or `[N]`; before the first knot it is held."""
        t = np.atleast_1d(np.asarray(times, float))
        if len(self._times) == 1:
            rest = np.repeat(self._positions, len(t), axis=0)
            return Desired(rest, np.zeros_like(rest))
        right = np.clip(np.searchsorted(self._times, t, side="right"), 1, len(self._times) - 1)
        desired = self._interpolate(t, right)
        outside = (t < self._times[0]) | (t >= self._times[-1])
        desired.positions[t >= self._times[-1]] = self._positions[-1]
        desired.positions[t < self._times[0]] = self._positions[0]
        desired.velocities[outside] = 0
        return desired

    def _interpolate(self, t: np.ndarray, right: np.ndarray) -> Desired:
        left = right - 1
        span = (self._times[right] - self._times[left])[:, None]
        u = (t - self._times[left])[:, None] / span
        start, end = self._positions[left], self._positions[right]
        slope = (end - start) / span
        smooth = (self._smooth[left] & self._smooth[right])[:, None]
        v0 = np.where(smooth, self._velocities[left], slope)
        v1 = np.where(smooth, self._velocities[right], slope)
        # Hermite about the straight line; with v0 = v1 = slope both corrections vanish.
        a, b = (v0 - slope) * span, (v1 - slope) * span
        positions = start + slope * u * span + u * (1 - u) * (a * (1 - u) - b * u)
        velocities = slope + (a * (1 - 4 * u + 3 * u**2) - b * (2 * u - 3 * u**2)) / span
        return Desired(positions, velocities)

    def _take(self, times, positions, velocities, smooth, now: float) -> None:
        current = self.sample(now)
        if times[0] <= now:
            self._times, self._positions = times, positions
            self._velocities, self._smooth = velocities, smooth
            return
        self._times = np.concatenate([[now], times])
        self._positions = np.concatenate([current.positions, positions])
        self._velocities = np.concatenate([current.velocities, velocities])
        self._smooth = np.concatenate([[True], smooth])

    def _order(self, names: Sequence[str]) -> list[int]:
        if sorted(names) != sorted(self.joint_names):
            raise TrajectoryRejected(
                f"joint mismatch: the trajectory moves {', '.join(names) or 'no joints'}; "
                f"wanted {', '.join(self.joint_names)}"
            )
        return [list(names).index(name) for name in self.joint_names]

    @staticmethod
    def _rows(rows: list, order: list[int], what: str) -> np.ndarray:
        for i, row in enumerate(rows):
            if np.shape(row) != (len(order),):
                wanted = f"{len(order)} {what}"
                raise TrajectoryRejected(f"point {i}: wanted {wanted}, got shape {np.shape(row)}")
            if not np.isfinite(row).all():
                raise TrajectoryRejected(f"point {i}: {what} are not finite: {list(row)}")
        return np.asarray(rows, float)[:, order]  # [K, D]

    @staticmethod
    def _check_times(times: np.ndarray, stamp: float, now: float) -> None:
        if not (np.isfinite(times).all() and np.isfinite(stamp)):
            raise TrajectoryRejected(f"times are not finite: {times.tolist()}, stamp {stamp}")
        if times[0] < 0 or np.any(np.diff(times) <= 0):
            raise TrajectoryRejected(f"time_from_start must increase, got {times.tolist()}")
        if stamp > 0 and stamp + times[-1] < now:
            late = now - stamp - times[-1]
            raise TrajectoryRejected(f"the trajectory ended {late:.3f} s ago; check the clocks")
