"""The committed motion: states on a grid of periods, always followed by a stop."""

import numpy as np

from nac_ros.chunk import Motion
from nac_ros.safety.limiter import Limiter, Piece
from nac_ros.safety.stopping import APART, State, apart

# [s] The third derivative of a quintic over h seconds between positions that are rounded to e is
# off by 60 e / h^3: 0.03 rad/s^3 at 3 rad in float64, and 10^9 times as much at 0.1 us.
SEGMENT_S = 1e-4


class Plan:
    """Knots of piecewise constant jerk; at rest before the first and after the last.

    `led` is where the led part ends [s] and the stop begins: `lead` replaces the stop by a longer
    led part, `brake` puts one at its end. Whoever cuts at a time leaves all that comes before it
    as it was, so motions that were sent earlier stay true up to there.
    """

    MEMORY = ("led", "_times", "_states")

    def __init__(self, limiter: Limiter, positions: np.ndarray, at: float):
        self._limiter, self.led = limiter, at
        self._times = np.array([at])
        self._states = np.stack(State.rest(positions))[None]  # [N, 3, D]

    @property
    def end(self) -> float:
        """From when on it is at rest [s]."""
        return float(self._times[-1])

    def rests(self, t: float) -> bool:
        """Whether it is at rest at `t` [s] and stays there."""
        return len(self._times) == 1 or self.end <= t

    def at(self, t: float) -> State:
        """What is commanded at `t` [s]: `[D]`."""
        k = int(np.searchsorted(self._times, t, side="right")) - 1
        if k < 0 or k + 1 == len(self._times):
            return State.rest(self._states[max(k, 0), 0])
        span = self._times[k + 1] - self._times[k]
        jerk = (self._states[k + 1, 2] - self._states[k, 2]) / span
        return State(*self._states[k]).after(t - self._times[k], jerk)

    def cut(self, t: float) -> State:
        """Forgets what comes after `t` [s], for a new course from there; the state at `t`."""
        state, kept = self.at(t), self._times < t - APART
        self._times = np.append(self._times[kept], t)
        self._states = np.concatenate([self._states[kept], np.stack(state)[None]])
        self.led = t
        return state

    def lead(self, piece: Piece, until: float) -> State:
        """Goes on after a cut with `piece`, which ends at `until` [s]; the state there."""
        self._append(np.append(self.led + piece.times[:-1], until), np.stack(piece.states, 1))
        self.led = until
        return self.at_end()

    def brake(self) -> None:
        """Ends with the quickest stop from the end of the led part."""
        state = self.at_end()
        if not state.moves:
            return
        brake = self._limiter.brake(state)
        knots = apart(brake.knots())
        states = np.stack(brake.at(knots), 1)
        states[-1, 1:] = 0
        self._append(self.led + knots, states)

    def at_end(self) -> State:
        """The state of the last knot."""
        return State(*self._states[-1])

    def forget(self, before: float) -> None:
        """Drops knots that lie so far back [s] that nobody asks for them again."""
        first = max(int(np.searchsorted(self._times, before, side="right")) - 1, 0)
        self._times, self._states = self._times[first:], self._states[first:]

    def motion(self, after: float) -> Motion:
        """The knots later than `after` [s], at least the last one, SEGMENT_S apart."""
        first = min(int(np.searchsorted(self._times, after, side="right")), len(self._times) - 1)
        kept = first + _spaced(self._times[first:])
        places, speeds, changes = np.moveaxis(self._states[kept], 1, 0)
        times = self._times[kept]
        return Motion(float(times[0]), times - times[0], places, speeds, changes)

    def _append(self, times: np.ndarray, states: np.ndarray) -> None:
        self._times = np.concatenate([self._times, times])
        self._states = np.concatenate([self._states, states])


def _spaced(times: np.ndarray) -> np.ndarray:
    """Indices of ascending `times` that lie at least SEGMENT_S apart; the last one is among them.

    A quintic over two knots that are one needs less than twice their jerk.
    """
    kept: list[int] = []
    for i, t in enumerate(times[:-1].tolist()):
        if not kept or t - times[kept[-1]] >= SEGMENT_S:
            kept.append(i)
    if kept and times[-1] - times[kept[-1]] < SEGMENT_S:
        kept.pop()
    return np.array([*kept, len(times) - 1])
