"""Chunks by time: the newest stamp wins, late points are dropped by time, a seam is blended."""

import numpy as np

from nac_ros.chunk import Chunk

PEAK = 1.875  # a minimum-jerk fade of 1 in 1 s has this peak velocity


class Playback:
    """The set-point at any time of the newest chunk.

    `actions[i]` is due at stamp + (i + 1) / rate; between two of them lies a straight line. When
    a chunk takes over, the difference between the set-point commanded then and the chunk's own is
    faded out over `blend_s` seconds, so that the command is continuous.
    """

    def __init__(self, blend_s: float):
        self._blend_s = blend_s
        self.chunk: Chunk | None = None
        self._actions = self._offset = np.empty(0)
        self._since = 0.0

    def clear(self) -> None:
        """Forgets the chunk."""
        self.chunk = None

    def accept(self, chunk: Chunk, now: float, setpoint: np.ndarray) -> bool:
        """`chunk` takes over at `now` [s] from the set-point `[D]` of that time.

        False, and nothing changes, when its stamp is not newer than the present chunk's.
        """
        if self.chunk is not None and chunk.stamp <= self.chunk.stamp:
            return False
        offset = self.offset_of(chunk, now, setpoint)
        self.chunk, self._actions = chunk, chunk.actions.astype(np.float64)
        self._since, self._offset = now, offset
        return True

    @staticmethod
    def offset_of(chunk: Chunk, now: float, setpoint: np.ndarray) -> np.ndarray:
        """How far `[D]` the set-point is from what `chunk` wants at `now` [s]."""
        return setpoint - _interpolate(chunk, chunk.actions.astype(np.float64), np.array([now]))[0]

    def at(self, t: float) -> np.ndarray | None:
        """Set-point float64 `[D]` due at `t` [s]; None without a chunk or past its end."""
        if self.chunk is None or t > self.chunk.end + 1e-6:
            return None
        return self.sample(np.array([t]))[0]

    def sample(self, times: np.ndarray) -> np.ndarray:
        """Set-points float64 `[N, D]` due at `times` `[N]` [s], those past the end left out."""
        if self.chunk is None:
            return np.empty((0, 0))
        times = times[times <= self.chunk.end + 1e-6]
        left = 1.0 - _minimum_jerk((times - self._since) / self._blend_s)
        return _interpolate(self.chunk, self._actions, times) + left[:, None] * self._offset


def _interpolate(chunk: Chunk, actions: np.ndarray, times: np.ndarray) -> np.ndarray:
    last = len(actions) - 1
    at = np.clip((times - chunk.stamp) * chunk.rate_hz - 1, 0, last)
    left = np.minimum(at.astype(np.int64), max(last - 1, 0))
    before, after = actions[left], actions[np.minimum(left + 1, last)]
    return before + (at - left)[:, None] * (after - before)


def _minimum_jerk(u: np.ndarray) -> np.ndarray:
    u = np.clip(u, 0.0, 1.0)
    return u**3 * (10 - 15 * u + 6 * u**2)
