"""Coming to rest: the quickest stop that acceleration and jerk limits allow, in closed form."""

from functools import cached_property
from typing import NamedTuple

import numpy as np

APART = 1e-7  # [s] knots nearer than this are one: messages count in nanoseconds


class MotionState(NamedTuple):
    """Positions, velocities and accelerations of joints, float64 `[..., D]`, in their units."""

    positions: np.ndarray
    velocities: np.ndarray
    accelerations: np.ndarray

    def after(self, seconds: np.ndarray | float, jerk: np.ndarray | float) -> "MotionState":
        """The state `seconds` later under constant `jerk`; all shapes broadcast."""
        p, v, a = self
        ahead = a + seconds * jerk
        return MotionState(
            p + seconds * (v + seconds * (a / 2 + seconds * jerk / 6)),
            v + seconds * (a + ahead) / 2,
            ahead,
        )

    @classmethod
    def rest(cls, positions: np.ndarray) -> "MotionState":
        """At rest at `positions` `[..., D]`."""
        positions = np.asarray(positions, np.float64)
        return cls(positions, np.zeros_like(positions), np.zeros_like(positions))

    @property
    def moves(self) -> bool:
        return bool(self.velocities.any() or self.accelerations.any())


class StopProfile:
    """Each joint of `state` `[..., D]` stops by itself, as soon as its limits `[D]` allow.

    Three phases of constant jerk: towards the braking acceleration, along it, and back to none.
    """

    def __init__(self, state: MotionState, acceleration: np.ndarray, jerk: np.ndarray):
        self._start, self._jerk = state, jerk
        # The velocity left if the acceleration ended now decides which way to brake.
        self._left = state.velocities + _gained(state.accelerations, jerk)
        self._sign = np.where(self._left > 0, -1.0, 1.0)
        v, a = self._sign * state.velocities, self._sign * state.accelerations
        peak = np.minimum(np.sqrt(np.maximum(a * a / 2 - jerk * v, 0)), acceleration)
        along = (-v - (2 * peak**2 - a * a) / (2 * jerk)) / np.where(peak > 0, peak, 1)
        durations = [(peak - a) / jerk, along, peak / jerk]
        self.ends = np.cumsum(np.maximum(durations, 0), 0)  # [3, ..., D], of the phases [s]

    @property
    def duration(self) -> float:
        """When the last joint is at rest, from the start [s]."""
        return float(self.ends[-1].max())

    @property
    def peak_speed(self) -> np.ndarray:
        """Largest speed on the way `[..., D]`."""
        return np.maximum(np.abs(self._start.velocities), np.abs(self._left))

    @property
    def reach(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest positions on the way, each `[..., D]`."""
        p, v, a = self._start
        # A joint that will come back turns while its acceleration still opposes its velocity.
        away = self._sign * v > 0
        root = np.sqrt(np.maximum(a * a - 2 * self._sign * self._jerk * v, 0))
        turning = np.where(away, (-self._sign * a - root) / self._jerk, 0)
        turn = self._start.after(turning, self._sign * self._jerk).positions
        end = self._phases[-1].positions
        return np.minimum(np.minimum(p, turn), end), np.maximum(np.maximum(p, turn), end)

    def at(self, seconds: np.ndarray) -> MotionState:
        """The states `[N, D]` at `seconds` `[N]` after the start `[D]`."""
        t = seconds[:, None]
        phase = (t >= self.ends[:, None]).sum(0)  # [N, D]
        begins = np.concatenate([np.zeros_like(self.ends[:1]), self.ends])
        jerks = self._sign * self._jerk * np.array([[1.0], [0.0], [-1.0], [0.0]])
        states = np.stack([np.stack(state) for state in self._phases])  # [4, 3, D]
        states[3, 1:] = 0  # rest is rest, not rounding
        joint = np.arange(self.ends.shape[1])
        begun = MotionState(*(states[phase, part, joint] for part in range(3)))
        spent = np.where(phase < 3, t - begins[phase, joint], 0)
        return begun.after(spent, jerks[phase, joint])

    def knots(self) -> np.ndarray:
        """Times after the start [s] at which some joint's jerk changes, ascending."""
        return np.unique(self.ends[self.ends > 0])

    @cached_property
    def _phases(self) -> list[MotionState]:
        """The states at the start and after each phase."""
        spans = np.diff(self.ends, axis=0, prepend=0)
        states = [self._start]
        for span, sign in zip(spans, (1.0, 0.0, -1.0)):
            states.append(states[-1].after(span, sign * self._sign * self._jerk))
        return states


def apart(times: np.ndarray) -> np.ndarray:
    """`times` after 0, ascending, without those too near to their neighbours; the last stays."""
    kept = times[np.append(np.diff(times) > APART, True) & (times > APART)]
    return kept if len(kept) else np.array([APART])


def _gained(acceleration: np.ndarray, jerk: np.ndarray) -> np.ndarray:
    """What the velocity still gains while the acceleration is brought to nothing."""
    return acceleration * np.abs(acceleration) / (2 * jerk)
