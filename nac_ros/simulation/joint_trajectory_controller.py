"""A JointTrajectoryController as ros2_control has it: what it refuses and how it interpolates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nac_ros.core.errors import NacError
from nac_ros.core.types import Trajectory, TrajectoryPoint


class TrajectoryRejected(NacError):
    """A trajectory that ros2_control's controller would refuse; the arm keeps its old one."""


@dataclass(frozen=True)
class Desired:
    """Set-points at N times: positions, velocities and accelerations, float64 `[N, D]`."""

    positions: np.ndarray
    velocities: np.ndarray
    accelerations: np.ndarray


class JointTrajectoryController:
    """Follows the newest accepted trajectory and holds its last point.

    Like `interpolate_from_desired_state`, a new trajectory starts at the set-point of that moment.
    A segment is as smooth as what both its ends came with: a straight line between positions, a
    cubic with velocities, a quintic with accelerations.
    """

    def __init__(self, joint_names: Sequence[str]):
        self.joint_names = tuple(joint_names)
        self.reset(np.zeros(len(self.joint_names)), 0.0)

    def reset(self, positions: np.ndarray, now: float) -> None:
        """Forgets the trajectory and holds `positions` `[D]`."""
        rest = np.asarray(positions, float)
        self._times = np.array([now])  # [K] knots, the first is where the trajectory was taken up
        self._states = np.stack([rest, 0 * rest, 0 * rest])[None]  # [K, 3, D]
        self._order = np.zeros(1, np.int64)  # [K]: derivatives that the knot came with

    def accept(self, trajectory: Trajectory, now: float) -> None:
        """Replaces the trajectory at `now` [s]; raises TrajectoryRejected with the reason."""
        columns = self._columns(trajectory.joint_names)
        if not trajectory.points:
            raise TrajectoryRejected("empty trajectory: send one point to hold")
        times = np.array([point.time_from_start for point in trajectory.points], float)
        states, order = self._knots(trajectory.points, columns)
        self._check_times(times, trajectory.stamp, now)
        if np.any(states[-1, 1] != 0):
            raise TrajectoryRejected(
                "the last point's velocities must be zero, the arm stops there"
            )
        self._take(max(trajectory.stamp, now) + times, states, order, now)

    def hold(self, now: float) -> None:
        """Stays at the set-point of `now` [s]."""
        self.reset(self.sample(now).positions[0], now)

    def sample(self, times: float | np.ndarray) -> Desired:
        """Set-points at `times` [s], a number or `[N]`; before the first knot it is held."""
        t = np.atleast_1d(np.asarray(times, float))
        last = len(self._times) - 1
        inside = (t >= self._times[0]) & (t < self._times[-1])
        held = self._states[np.where(t < self._times[0], 0, last)].copy()  # [N, 3, D]
        held[:, 1:] = 0
        if last and inside.any():
            right = np.clip(np.searchsorted(self._times, t[inside], side="right"), 1, last)
            held[inside] = self._interpolate(t[inside], right)
        return Desired(*np.moveaxis(held, 1, 0))

    def _interpolate(self, t: np.ndarray, right: np.ndarray) -> np.ndarray:
        left = right - 1
        begin, span = self._times[left], self._times[right] - self._times[left]
        order = np.minimum(self._order[left], self._order[right])
        states = np.empty((len(t), *self._states.shape[1:]))
        for kind, splice in ((0, _line), (1, _cubic), (2, _quintic)):
            of = order == kind
            if not of.any():
                continue
            ends = self._states[left[of]], self._states[right[of]]
            states[of] = splice(*ends, (t - begin)[of, None], span[of, None])
        return states

    def _take(self, times, states, order, now: float) -> None:
        current = self.sample(now)
        if times[0] <= now:
            self._times, self._states, self._order = times, states, order
            return
        here = np.stack([current.positions, current.velocities, current.accelerations], 1)
        self._times = np.concatenate([[now], times])
        self._states = np.concatenate([here, states])
        self._order = np.concatenate([[2], order])

    def _knots(self, points: Sequence[TrajectoryPoint], columns: list[int]):
        """States `[K, 3, D]` and how many derivatives each point came with `[K]`."""
        kinds = ("positions", "velocities", "accelerations")
        zeros = np.zeros(len(columns))
        given = [[getattr(point, kind) for kind in kinds] for point in points]
        states = [
            self._rows([zeros if row[k] is None else row[k] for row in given], columns, kind)
            for k, kind in enumerate(kinds)
        ]
        order = [0 if row[1] is None else 1 if row[2] is None else 2 for row in given]
        return np.stack(states, 1), np.array(order)

    def _columns(self, names: Sequence[str]) -> list[int]:
        if sorted(names) != sorted(self.joint_names):
            raise TrajectoryRejected(
                f"joint mismatch: the trajectory moves {', '.join(names) or 'no joints'}; "
                f"wanted {', '.join(self.joint_names)}"
            )
        return [list(names).index(name) for name in self.joint_names]

    @staticmethod
    def _rows(rows: list, columns: list[int], what: str) -> np.ndarray:
        for i, row in enumerate(rows):
            if np.shape(row) != (len(columns),):
                wanted = f"{len(columns)} {what}"
                raise TrajectoryRejected(f"point {i}: wanted {wanted}, got shape {np.shape(row)}")
            if not np.isfinite(row).all():
                raise TrajectoryRejected(f"point {i}: {what} are not finite: {list(row)}")
        return np.asarray(rows, float)[:, columns]  # [K, D]

    @staticmethod
    def _check_times(times: np.ndarray, stamp: float, now: float) -> None:
        if not (np.isfinite(times).all() and np.isfinite(stamp)):
            raise TrajectoryRejected(f"times are not finite: {times.tolist()}, stamp {stamp}")
        if times[0] < 0 or np.any(np.diff(times) <= 0):
            raise TrajectoryRejected(f"time_from_start must increase, got {times.tolist()}")
        if stamp > 0 and stamp + times[-1] < now:
            late = now - stamp - times[-1]
            raise TrajectoryRejected(f"the trajectory ended {late:.3f} s ago; check the clocks")


def _line(a: np.ndarray, b: np.ndarray, t: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Between positions; states `[N, 3, D]`, of which it is `t` `[N, 1]` after the first."""
    slope = (b[:, 0] - a[:, 0]) / span
    return np.stack([a[:, 0] + slope * t, slope, np.zeros_like(slope)], 1)


def _cubic(a: np.ndarray, b: np.ndarray, t: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Between positions and velocities."""
    p, v = a[:, 0], a[:, 1]
    lacking = (b[:, 0] - p - v * span) / span**2
    turning = (b[:, 1] - v) / span
    second, third = 3 * lacking - turning, (turning - 2 * lacking) / span
    return _polynomial([p, v, second, third], t)


def _quintic(a: np.ndarray, b: np.ndarray, t: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Between positions, velocities and accelerations."""
    p, v, half = a[:, 0], a[:, 1], a[:, 2] / 2
    lacking = (b[:, 0] - p - v * span - half * span**2) / span**3
    turning = (b[:, 1] - v - 2 * half * span) / span**2
    bending = (b[:, 2] - 2 * half) / span
    third = 10 * lacking - 4 * turning + bending / 2
    fourth = (-15 * lacking + 7 * turning - bending) / span
    fifth = (6 * lacking - 3 * turning + bending / 2) / span**2
    return _polynomial([p, v, half, third, fourth, fifth], t)


def _polynomial(coefficients: list[np.ndarray], t: np.ndarray) -> np.ndarray:
    """Value and two derivatives of sum c_k t^k: `[N, 3, D]`."""
    rows = []
    for _ in range(3):
        value = np.zeros_like(coefficients[0])
        for c in reversed(coefficients):
            value = value * t + c
        rows.append(value)
        coefficients = [k * c for k, c in enumerate(coefficients)][1:]
    return np.stack(rows, 1)
