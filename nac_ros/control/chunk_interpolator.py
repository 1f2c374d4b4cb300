"""Chunks by time: the newest stamp wins, late points are dropped by time, a seam is blended."""

import numpy as np

from nac_ros.control.stopping import MotionState
from nac_ros.core.types import ActionChunk

PEAK = 1.875  # a minimum-jerk fade of 1 in 1 s has this peak velocity
STEEP = 10 / 3**0.5  # and this peak acceleration
SHARP = 60.0  # and this peak jerk

# Uniform cubic B-spline: weights of four neighbours by powers of the share u of a step gone by.
# It stays within its points and no faster than they are, and its acceleration has no jumps.
_SPLINE = np.array([[1, 4, 1, 0], [-3, 0, 3, 0], [3, -6, 3, 0], [-1, 3, -3, 1]]) / 6
# A fade that begins with a given position, velocity or acceleration and ends with none of them.
_FADE = np.array([[1, 0, 0, -10, 15, -6], [0, 1, 0, -6, 8, -3], [0, 0, 0.5, -1.5, 1.5, -0.5]])


class ChunkInterpolator:
    """What a chunk asks for at any time, and how it takes over from a motion under way.

    `actions[i]` is due at stamp + (i + 1) / rate; a cubic B-spline smooths between them (it passes
    a bend of acceleration a at a / (6 rate^2), 0.2 mrad at 1 rad/s^2 and 30 Hz). When a chunk
    takes over, its difference to the commanded state is faded out over `blend_s` seconds, or as
    long as the limits demand; not at all with 0. With
    `speed_scale` below 1 the chunk is stretched in time from its stamp on.
    """

    MEMORY = ("chunk", "jump", "_points", "_fade", "_fade_s", "_since", "_rate")

    def __init__(
        self, blend_s: float, velocity: np.ndarray, acceleration: np.ndarray, jerk: np.ndarray
    ):
        self._blend_s, self._fade_s = blend_s, blend_s
        self._velocity, self._acceleration, self._jerk = velocity, acceleration, jerk
        self.chunk: ActionChunk | None = None
        self.jump = np.empty(0)  # [D], from the commanded positions to the newest chunk's
        self._points = np.empty((0, 0))
        self._fade = np.empty((0, 0))
        self._since = 0.0
        self._rate = 1.0

    @property
    def end(self) -> float:
        """When the last action is due [s]; -inf without a chunk."""
        if self.chunk is None:
            return -np.inf
        return self.chunk.stamp + len(self.chunk.actions) / self._rate

    def until(self, max_age_s: float) -> float:
        """The end, or when the chunk's observation is that old [s]."""
        return -np.inf if self.chunk is None else min(self.end, self.chunk.stamp + max_age_s)

    def clear(self) -> None:
        """Forgets the chunk."""
        self.chunk = None

    def accept(
        self, chunk: ActionChunk, at: float, state: MotionState, speed_scale: float = 1.0
    ) -> None:
        """`chunk` takes over at time `at` [s] from the commanded `state` `[D]`."""
        rate = chunk.rate_hz * speed_scale
        points = _points(chunk)
        parts = [was - new for was, new in zip(state, _sample(points, chunk.stamp, rate, at))]
        self.jump = -parts[0]
        self._fade_s = self._fade_of(parts[0])
        scaled = [part * self._fade_s**k for k, part in enumerate(parts)]
        self.chunk, self._points, self._rate = chunk, points, rate
        self._since, self._fade = at, _FADE.T @ np.stack(scaled)  # [6, D]: powers of the share

    def at(self, t: float) -> MotionState:
        """What is wanted at `t` [s], `[D]`; after the end to rest there."""
        assert self.chunk is not None
        wanted = _sample(self._points, self.chunk.stamp, self._rate, min(t, self.end))
        if t > self.end:
            wanted = MotionState.rest(wanted.positions)
        # A first command may be asked for a little before it took over: the grid is laid anew.
        if not self._fade_s or t - self._since >= self._fade_s:
            return wanted
        u = (t - self._since) / self._fade_s
        fade, powers = self._fade, u ** np.arange(6)
        offset = []
        for k in range(3):
            offset.append(powers[: len(fade)] @ fade / self._fade_s**k)
            fade = fade[1:] * np.arange(1, len(fade))[:, None]  # derivative
        return MotionState(*(w + o for w, o in zip(wanted, offset)))

    def _fade_of(self, offset: np.ndarray) -> float:
        """How long `offset` `[D]` is faded out [s]: its own speed, acceleration and jerk stay
        inside the limits."""
        if not self._blend_s:
            return 0.0
        limits = (self._velocity, self._acceleration, self._jerk)
        return max(self._blend_s, quintic_s(offset, *limits))


def quintic_s(
    distance: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray, jerk: np.ndarray
) -> float:
    """Shortest time [s] in which quintics lead each joint over its `distance` `[D]` from rest to
    rest inside the limits `[D]`."""
    size = np.abs(distance)
    quick, steep = PEAK * size / velocity, np.sqrt(STEEP * size / acceleration)
    return float(max(quick.max(), steep.max(), np.cbrt(SHARP * size / jerk).max()))


def _points(chunk: ActionChunk) -> np.ndarray:
    """The actions, led in by two straight steps and out by one, float64 `[T + 3, D]`."""
    actions = chunk.actions.astype(np.float64)
    first, last = actions[:1], actions[-1:]
    into = actions[1:2] - first if len(actions) > 1 else 0 * first
    out = last - actions[-2:-1] if len(actions) > 1 else 0 * last
    return np.concatenate([first - 2 * into, first - into, actions, last + out])


def _sample(points: np.ndarray, stamp: float, rate: float, t: float) -> MotionState:
    # The first action is point 2; points i - 1 .. i + 2 shape the step from point i to i + 1.
    last = len(points) - 2
    at = min(max((t - stamp) * rate + 1, 1.0), float(last))
    i = min(int(at), last - 1)
    u = at - i
    weights = points[i - 1 : i + 3]
    position = np.array([1, u, u * u, u**3]) @ _SPLINE @ weights
    velocity = np.array([0, 1, 2 * u, 3 * u * u]) @ _SPLINE @ weights
    acceleration = np.array([0, 0, 2, 6 * u]) @ _SPLINE @ weights
    return MotionState(position, velocity * rate, acceleration * rate**2)
