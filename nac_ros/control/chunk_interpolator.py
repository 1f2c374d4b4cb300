"""Continuous reference from action chunks: a cubic B-spline, with a blend to a newer chunk."""

import numpy as np

from nac_ros.control.stopping import MotionState
from nac_ros.core.types import ActionChunk

# Largest velocity, acceleration and jerk of a minimum-jerk motion over distance 1 in 1 s.
PEAK_VELOCITY = 1.875
PEAK_ACCELERATION = 10 / 3**0.5
PEAK_JERK = 60.0

# Uniform cubic B-spline. The segment from point i to i + 1 is [1 u u^2 u^3] @ _SPLINE @ P, where
# P are the points i - 1 .. i + 2 and u in 0 .. 1 is the elapsed share of the step. It stays within
# the convex hull of its points, is no faster than they are, and its acceleration is continuous.
_SPLINE = np.array([[1, 4, 1, 0], [-3, 0, 3, 0], [3, -6, 3, 0], [-1, 3, -3, 1]]) / 6

# Quintics on 0 .. 1 that begin with unit position, velocity or acceleration (one row each) and end
# with position, velocity and acceleration zero; columns are the powers 0 .. 5.
_BLEND = np.array([[1, 0, 0, -10, 15, -6], [0, 1, 0, -6, 8, -3], [0, 0, 0.5, -1.5, 1.5, -0.5]])


class ChunkInterpolator:
    """Turns chunks `[T, D]` into a reference state `[D]` at any time.

    `actions[i]` is due at stamp + (i + 1) / rate. The B-spline smooths between actions: where they
    bend with acceleration a, it misses them by a / (6 rate^2), 0.2 mrad at 1 rad/s^2 and 30 Hz.
    When a new chunk takes over, the difference between the commanded state and the spline is
    blended out by a quintic over `blend_s` seconds, or longer if the limits `velocity`,
    `acceleration`, `jerk` `[D]` require it; without blending if `blend_s` is 0. A `speed_scale`
    below 1 stretches the chunk in time from its stamp on.

    jump: `[D]`, offset of the newest chunk from the commanded positions when it took over
    """

    STATE_FIELDS = ("chunk", "jump", "_points", "_blend", "_blend_s", "_blend_start", "_rate")

    def __init__(
        self, blend_s: float, velocity: np.ndarray, acceleration: np.ndarray, jerk: np.ndarray
    ):
        self._min_blend_s, self._blend_s = blend_s, blend_s
        self._limits = (velocity, acceleration, jerk)
        self.chunk: ActionChunk | None = None
        self.jump = np.empty(0)
        self._points = np.empty((0, 0))
        self._blend = np.empty((0, 0))
        self._blend_start = 0.0
        self._rate = 1.0

    @property
    def end(self) -> float:
        """When the last action is due [s]; -inf without a chunk."""
        if self.chunk is None:
            return -np.inf
        return self.chunk.stamp + len(self.chunk.actions) / self._rate

    def valid_until(self, max_age_s: float) -> float:
        """When the chunk ends or its observation is `max_age_s` old, whichever is first [s]."""
        return -np.inf if self.chunk is None else min(self.end, self.chunk.stamp + max_age_s)

    def clear(self) -> None:
        """Forgets the chunk."""
        self.chunk = None

    def accept(
        self, chunk: ActionChunk, at: float, state: MotionState, speed_scale: float = 1.0
    ) -> None:
        """Replaces the chunk by `chunk` at time `at` [s], with the commanded `state` `[D]`."""
        rate = chunk.rate_hz * speed_scale
        points = _control_points(chunk)
        offset = [old - new for old, new in zip(state, _sample(points, chunk.stamp, rate, at))]
        self.jump = -offset[0]
        self._blend_s = self._required_blend_s(offset[0])
        scaled = [part * self._blend_s**k for k, part in enumerate(offset)]
        self.chunk, self._points, self._rate = chunk, points, rate
        self._blend_start, self._blend = at, _BLEND.T @ np.stack(scaled)  # [6, D], powers of u

    def state_at(self, t: float) -> MotionState:
        """The reference `[D]` at `t` [s]; after the last action at rest there."""
        assert self.chunk is not None
        reference = _sample(self._points, self.chunk.stamp, self._rate, min(t, self.end))
        if t > self.end:
            reference = MotionState.at_rest(reference.positions)
        # t may be a little before the start of the blend, because the time grid is aligned anew
        # with the first command; then the polynomial is extrapolated.
        duration = self._blend_s
        if not duration or t - self._blend_start >= duration:
            return reference
        u = (t - self._blend_start) / duration
        blend, powers = self._blend, u ** np.arange(6)
        offset = []
        for k in range(3):
            offset.append(powers[: len(blend)] @ blend / duration**k)
            blend = blend[1:] * np.arange(1, len(blend))[:, None]  # derivative
        return MotionState(*(r + o for r, o in zip(reference, offset)))

    def _required_blend_s(self, offset: np.ndarray) -> float:
        """How long `offset` `[D]` is blended out [s], so that the blend keeps the limits."""
        if not self._min_blend_s:
            return 0.0
        return max(self._min_blend_s, quintic_s(offset, *self._limits))


def quintic_s(
    distance: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray, jerk: np.ndarray
) -> float:
    """Shortest time [s] in which minimum-jerk motions from rest to rest move each joint over its
    `distance` `[D]` within the limits `[D]`."""
    size = np.abs(distance)
    by_velocity = PEAK_VELOCITY * size / velocity
    by_acceleration = np.sqrt(PEAK_ACCELERATION * size / acceleration)
    by_jerk = np.cbrt(PEAK_JERK * size / jerk)
    return float(max(by_velocity.max(), by_acceleration.max(), by_jerk.max()))


def _control_points(chunk: ActionChunk) -> np.ndarray:
    """The actions, extrapolated by two points before and one after: float64 `[T + 3, D]`."""
    actions = chunk.actions.astype(np.float64)
    first, last = actions[:1], actions[-1:]
    first_step = actions[1:2] - first if len(actions) > 1 else 0 * first
    last_step = last - actions[-2:-1] if len(actions) > 1 else 0 * last
    return np.concatenate([first - 2 * first_step, first - first_step, actions, last + last_step])


def _sample(points: np.ndarray, stamp: float, rate: float, t: float) -> MotionState:
    """The spline `[D]` at `t` [s]; before its first and after its last point that point."""
    # Point 1 is due at `stamp`, and the first action is point 2.
    last = len(points) - 2
    at = min(max((t - stamp) * rate + 1, 1.0), float(last))
    i = min(int(at), last - 1)
    u = at - i
    neighbours = points[i - 1 : i + 3]
    position = np.array([1, u, u * u, u**3]) @ _SPLINE @ neighbours
    velocity = np.array([0, 1, 2 * u, 3 * u * u]) @ _SPLINE @ neighbours
    acceleration = np.array([0, 0, 2, 6 * u]) @ _SPLINE @ neighbours
    return MotionState(position, velocity * rate, acceleration * rate**2)
