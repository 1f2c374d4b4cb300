"""What a controller is sent: the committed set-points, then a stop, so that silence is rest."""

import numpy as np

from nac_ros.robot import RobotSpec
from nac_ros.runtime.playback import Playback
from nac_ros.runtime.setpoint import SetPoint
from nac_ros.safety.stopping import Limiter, Motion, Stop

KNOT_PERIODS = 2  # spacing of the points that look ahead, in guard periods


class Lookahead:
    """Builds motions that start at the newest set-point and end at rest."""

    def __init__(self, spec: RobotSpec, lookahead_s: float):
        self._spec, self._limiter = spec, Limiter(spec)
        self._period = 1 / spec.guard_rate_hz
        self._gap = KNOT_PERIODS * self._period
        self._count = int(lookahead_s / self._gap)

    def running(self, due: float, arm: SetPoint, playback: Playback, end: float) -> Motion:
        """From the set-point due at `due` [s] along `playback`, at most to `end` [s]."""
        times = due + self._gap * np.arange(1, self._count + 1)
        wanted = playback.sample(times[times < end])
        positions = np.concatenate([arm.positions[None], wanted])
        if not self._limiter.allows(positions, self._gap):
            for k in range(1, len(positions)):
                positions[k] = self._limiter.step(positions[k - 1], positions[k], self._gap)
        times = np.concatenate([[due], times[: len(wanted)]])
        velocities = _slopes(times, positions, arm.velocity)
        limit = self._spec.acceleration_limit
        stop = Stop(times[-1], positions[-1], velocities[-1], limit, self._period)
        return self._ended(due, times, positions, velocities, stop)

    def stopping(self, due: float, arm: SetPoint) -> Motion:
        """The rest of a stop; a single point at rest where there is none."""
        here = arm.positions[None], arm.velocity[None].copy()
        return self._ended(due, np.array([due]), *here, arm.stop)

    def _ended(
        self,
        due: float,
        times: np.ndarray,
        positions: np.ndarray,
        velocities: np.ndarray,
        stop: Stop | None,
    ) -> Motion:
        knots = stop.knots(times[-1]) if stop is not None else np.empty(0)
        if stop is not None and len(knots):
            places, speeds = zip(*(stop.at(t) for t in knots))
            low, high = self._spec.position_low, self._spec.position_high
            times = np.concatenate([times, knots])
            positions = np.concatenate([positions, np.clip(np.stack(places), low, high)])
            velocities = np.concatenate([velocities, np.stack(speeds)])
        velocities[-1] = 0.0
        return Motion(times - due + self._period, positions, velocities)


def _slopes(times: np.ndarray, positions: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Velocities `[N, D]`: the mean of the slopes around a point, at the last the one before."""
    if len(times) == 1:
        return velocity[None].copy()
    slopes = np.diff(positions, axis=0) / np.diff(times)[:, None]
    before = np.concatenate([velocity[None], slopes])
    return np.concatenate([(before[:-1] + before[1:]) / 2, slopes[-1:]])
