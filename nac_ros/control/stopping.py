"""Time-optimal stop of each joint within its acceleration and jerk limits, in closed form."""

from functools import cached_property
from typing import NamedTuple

import numpy as np

MIN_KNOT_GAP_S = 1e-7  # knots closer than this are merged: message times are in nanoseconds


class MotionState(NamedTuple):
    """Joint positions, velocities and accelerations, float64 `[..., D]` [rad or m, /s, /s^2]."""

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
    def at_rest(cls, positions: np.ndarray) -> "MotionState":
        """The state at `positions` `[..., D]` with zero velocity and acceleration."""
        positions = np.asarray(positions, np.float64)
        return cls(positions, np.zeros_like(positions), np.zeros_like(positions))

    @property
    def is_moving(self) -> bool:
        """Whether any velocity or acceleration is not zero."""
        return bool(self.velocities.any() or self.accelerations.any())


class StopProfile:
    """Shortest stop of every joint from `state` `[..., D]`; joints stop independently.

    acceleration, jerk: limits `[D]`
    phase_ends: `[3, ..., D]` [s] after the start, when the phases of each joint end
    """

    # Time-optimal velocity control of a triple integrator, as in Kroeger, "On-Line Trajectory
    # Generation in Robotic Systems" (2010), has three phases of constant jerk: ramp the
    # acceleration to a peak against the motion, hold the peak, ramp it back to zero.
    #
    # Ending the present acceleration a at full jerk j changes the velocity by a |a| / 2j. The sign
    # of the velocity that remains then decides the braking direction. With v and a counted
    # positive in that direction, ramping from a to the peak and from the peak to zero adds
    # (2 peak^2 - a^2) / 2j to v. Without a hold phase this must equal -v, so
    # peak = sqrt(a^2 / 2 - j v). If the limit cuts the peak, the hold phase adds the rest.

    def __init__(self, state: MotionState, acceleration: np.ndarray, jerk: np.ndarray):
        self._start, self._jerk = state, jerk
        a = state.accelerations
        self._remaining = state.velocities + a * np.abs(a) / (2 * jerk)
        self._sign = np.where(self._remaining > 0, -1.0, 1.0)
        v, a = self._sign * state.velocities, self._sign * state.accelerations
        peak = np.minimum(np.sqrt(np.maximum(a * a / 2 - jerk * v, 0)), acceleration)
        hold = (-v - (2 * peak**2 - a * a) / (2 * jerk)) / np.where(peak > 0, peak, 1)
        durations = [(peak - a) / jerk, hold, peak / jerk]
        self.phase_ends = np.cumsum(np.maximum(durations, 0), 0)  # [3, ..., D]

    @property
    def duration(self) -> float:
        """Time from the start until the last joint is at rest [s]."""
        return float(self.phase_ends[-1].max())

    @property
    def peak_speed(self) -> np.ndarray:
        """Largest speed of each joint during the stop, `[..., D]`."""
        return np.maximum(np.abs(self._start.velocities), np.abs(self._remaining))

    @property
    def position_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest position of each joint during the stop, each `[..., D]`."""
        p, v, a = self._start
        # The range ends at the start, at the end, or where the velocity crosses zero before the
        # end. It crosses zero if the joint now moves in the braking direction, while its
        # acceleration, which opposes that direction, carries it past zero.
        reverses = self._sign * v > 0
        root = np.sqrt(np.maximum(a * a - 2 * self._sign * self._jerk * v, 0))
        crossing = np.where(reverses, (-self._sign * a - root) / self._jerk, 0)
        turn = self._start.after(crossing, self._sign * self._jerk).positions
        end = self._phase_states[-1].positions
        return np.minimum(np.minimum(p, turn), end), np.maximum(np.maximum(p, turn), end)

    def states_at(self, seconds: np.ndarray) -> MotionState:
        """The states `[N, D]` at `seconds` `[N]` after the start, for a start `[D]`."""
        t = seconds[:, None]
        phase = (t >= self.phase_ends[:, None]).sum(0)  # [N, D], 3 = at rest
        begins = np.concatenate([np.zeros_like(self.phase_ends[:1]), self.phase_ends])
        jerks = self._sign * self._jerk * np.array([[1.0], [0.0], [-1.0], [0.0]])
        states = np.stack([np.stack(state) for state in self._phase_states])  # [4, 3, D]
        states[3, 1:] = 0  # exactly at rest, without rounding errors
        joint = np.arange(self.phase_ends.shape[1])
        begun = MotionState(*(states[phase, part, joint] for part in range(3)))
        elapsed = np.where(phase < 3, t - begins[phase, joint], 0)
        return begun.after(elapsed, jerks[phase, joint])

    def knots(self) -> np.ndarray:
        """Times after the start [s] at which the jerk of some joint changes, ascending."""
        return np.unique(self.phase_ends[self.phase_ends > 0])

    @cached_property
    def _phase_states(self) -> list[MotionState]:
        """The states at the start and after each phase."""
        spans = np.diff(self.phase_ends, axis=0, prepend=0)
        states = [self._start]
        for span, sign in zip(spans, (1.0, 0.0, -1.0)):
            states.append(states[-1].after(span, sign * self._sign * self._jerk))
        return states


def distinct_times(times: np.ndarray) -> np.ndarray:
    """The ascending positive `times` that are MIN_KNOT_GAP_S apart; of closer ones the later."""
    kept = times[np.append(np.diff(times) > MIN_KNOT_GAP_S, True) & (times > MIN_KNOT_GAP_S)]
    return kept if len(kept) else np.array([MIN_KNOT_GAP_S])
