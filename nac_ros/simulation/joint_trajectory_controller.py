"""The JointTrajectoryController of ros2_control: what it rejects and how it interpolates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nac_ros.core.errors import NacError
from nac_ros.core.types import Trajectory, TrajectoryPoint

_KINDS = ("positions", "velocities", "accelerations")


class TrajectoryRejected(NacError):
    """A trajectory that ros2_control's controller rejects; the arm keeps its current one."""


@dataclass(frozen=True)
class JointSetpoints:
    """Set-points at N times: positions, velocities and accelerations, float64 `[N, D]`."""

    positions: np.ndarray
    velocities: np.ndarray
    accelerations: np.ndarray


class JointTrajectoryController:
    """Follows the newest accepted trajectory and holds its last point.

    As with the parameter `interpolate_from_desired_state`, a new trajectory starts at the
    set-point of that moment. A segment between two knots uses all derivatives that both of them
    have: a straight line for positions, a cubic with velocities, a quintic with accelerations.
    """

    def __init__(self, joint_names: Sequence[str]):
        self.joint_names = tuple(joint_names)
        self.reset(np.zeros(len(self.joint_names)), 0.0)

    def reset(self, positions: np.ndarray, now: float) -> None:
        """Drops the trajectory and holds `positions` `[D]`."""
        rest = np.asarray(positions, float)
        self._times = np.array([now])  # [K] of the knots
        self._states = np.stack([rest, 0 * rest, 0 * rest])[None]  # [K, 3, D]
        self._orders = np.zeros(1, np.int64)  # [K] number of derivatives that each knot has

    def accept(self, trajectory: Trajectory, now: float) -> None:
        """Replaces the trajectory at `now` [s]; raises TrajectoryRejected with the reason."""
        columns = self._columns(trajectory.joint_names)
        if not trajectory.points:
            raise TrajectoryRejected("empty trajectory: send one point to hold")
        times = np.array([point.time_from_start for point in trajectory.points], float)
        states, orders = _read_points(trajectory.points, columns)
        _check_times(times, trajectory.stamp, now)
        if np.any(states[-1, 1] != 0):
            raise TrajectoryRejected(
                "the last point's velocities must be zero, the arm stops there"
            )
        times += max(trajectory.stamp, now)
        if times[0] > now:  # the present set-point is the first knot
            times = np.concatenate([[now], times])
            states = np.concatenate([self._states_at(np.array([now])), states])
            orders = np.concatenate([[2], orders])
        self._times, self._states, self._orders = times, states, orders

    def hold(self, now: float) -> None:
        """Stays at the set-point of `now` [s]."""
        self.reset(self.sample(now).positions[0], now)

    def sample(self, times: float | np.ndarray) -> JointSetpoints:
        """Set-points at `times` [s], a number or `[N]`; before the first knot it is held."""
        states = self._states_at(np.atleast_1d(np.asarray(times, float)))
        return JointSetpoints(*np.moveaxis(states, 1, 0))

    def _states_at(self, t: np.ndarray) -> np.ndarray:
        """States `[N, 3, D]` at times `[N]`."""
        last = len(self._times) - 1
        inside = (t >= self._times[0]) & (t < self._times[-1])
        states = self._states[np.where(t < self._times[0], 0, last)].copy()  # [N, 3, D]
        states[:, 1:] = 0
        if last and inside.any():
            right = np.clip(np.searchsorted(self._times, t[inside], side="right"), 1, last)
            states[inside] = self._interpolate(t[inside], right)
        return states

    def _interpolate(self, t: np.ndarray, right: np.ndarray) -> np.ndarray:
        """States `[N, 3, D]` at times `[N]`, each in the segment that ends at knot `right`."""
        left = right - 1
        begin, span = self._times[left], self._times[right] - self._times[left]
        orders = np.minimum(self._orders[left], self._orders[right])
        states = np.empty((len(t), *self._states.shape[1:]))
        for order, segment in ((0, _line), (1, _cubic), (2, _quintic)):
            mask = orders == order
            if mask.any():
                ends = self._states[left[mask]], self._states[right[mask]]
                states[mask] = segment(*ends, (t - begin)[mask, None], span[mask, None])
        return states

    def _columns(self, names: Sequence[str]) -> list[int]:
        if sorted(names) != sorted(self.joint_names):
            raise TrajectoryRejected(
                f"joint mismatch: the trajectory moves {', '.join(names) or 'no joints'}; "
                f"wanted {', '.join(self.joint_names)}"
            )
        return [list(names).index(name) for name in self.joint_names]


def _read_points(
    points: Sequence[TrajectoryPoint], columns: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """States `[K, 3, D]`, zero where a derivative is missing, and number of derivatives `[K]`."""
    states, orders = np.zeros((len(points), 3, len(columns))), np.full(len(points), -1)
    for i, point in enumerate(points):
        for k, kind in enumerate(_KINDS):
            row = getattr(point, kind)
            if k and row is None:
                continue
            if np.shape(row) != (len(columns),):
                wanted = f"{len(columns)} {kind}"
                raise TrajectoryRejected(f"point {i}: wanted {wanted}, got shape {np.shape(row)}")
            if not np.isfinite(row).all():
                raise TrajectoryRejected(f"point {i}: {kind} are not finite: {list(row)}")
            states[i, k] = np.asarray(row, float)[columns]
            if orders[i] == k - 1:  # accelerations without velocities do not count
                orders[i] = k
    return states, orders


def _check_times(times: np.ndarray, stamp: float, now: float) -> None:
    if not (np.isfinite(times).all() and np.isfinite(stamp)):
        raise TrajectoryRejected(f"times are not finite: {times.tolist()}, stamp {stamp}")
    if times[0] < 0 or np.any(np.diff(times) <= 0):
        raise TrajectoryRejected(f"time_from_start must increase, got {times.tolist()}")
    if stamp > 0 and stamp + times[-1] < now:
        late = now - stamp - times[-1]
        raise TrajectoryRejected(f"the trajectory ended {late:.3f} s ago; check the clocks")


# Each segment takes the states a and b `[N, 3, D]` at its ends, the time t `[N, 1]` since a and
# its duration `[N, 1]`. The state a gives the lower coefficients; the higher ones follow from the
# rest of b's position, velocity and acceleration that the lower ones do not reach.


def _line(a: np.ndarray, b: np.ndarray, t: np.ndarray, span: np.ndarray) -> np.ndarray:
    slope = (b[:, 0] - a[:, 0]) / span
    return np.stack([a[:, 0] + slope * t, slope, np.zeros_like(slope)], 1)


def _cubic(a: np.ndarray, b: np.ndarray, t: np.ndarray, span: np.ndarray) -> np.ndarray:
    p, v = a[:, 0], a[:, 1]
    position = (b[:, 0] - p - v * span) / span**2
    velocity = (b[:, 1] - v) / span
    second, third = 3 * position - velocity, (velocity - 2 * position) / span
    return _polynomial([p, v, second, third], t)


def _quintic(a: np.ndarray, b: np.ndarray, t: np.ndarray, span: np.ndarray) -> np.ndarray:
    p, v, half = a[:, 0], a[:, 1], a[:, 2] / 2
    position = (b[:, 0] - p - v * span - half * span**2) / span**3
    velocity = (b[:, 1] - v - 2 * half * span) / span**2
    acceleration = (b[:, 2] - 2 * half) / span
    third = 10 * position - 4 * velocity + acceleration / 2
    fourth = (-15 * position + 7 * velocity - acceleration) / span
    fifth = (6 * position - 3 * velocity + acceleration / 2) / span**2
    return _polynomial([p, v, half, third, fourth, fifth], t)


def _polynomial(coefficients: list[np.ndarray], t: np.ndarray) -> np.ndarray:
    """Value and two derivatives of sum c_k t^k by Horner's rule: `[N, 3, D]`."""
    rows = []
    for _ in range(3):
        value = np.zeros_like(coefficients[0])
        for c in reversed(coefficients):
            value = value * t + c
        rows.append(value)
        coefficients = [k * c for k, c in enumerate(coefficients)][1:]
    return np.stack(rows, 1)
