"""The guard: takes chunks, gives one set-point per tick, and comes to rest when in doubt.

It knows neither ROS nor torch and is told the time, so the same guard runs in the node and in
`nac eval`.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from nac_ros.chunk import Chunk
from nac_ros.errors import ConfigError
from nac_ros.robot import RobotSpec
from nac_ros.runtime.motion import Lookahead
from nac_ros.runtime.playback import PEAK, Playback
from nac_ros.runtime.setpoint import SetPoint
from nac_ros.safety.limits import CLOCK_SKEW_S, Refusal, check_chunk, check_start
from nac_ros.safety.stopping import Motion

Mode = Literal["hold", "policy"]
State = Literal["running", "stopping", "holding"]

CLIP_SHARE = 0.01  # of one period at full speed (0.3 mrad): below what a servo's encoder can tell


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Times in seconds.

    max_chunk_age_s: a chunk whose observation is older on arrival is refused
    max_play_s: a chunk is played until its observation is this old, unless it ends before
    max_heartbeat_age_s: a policy silent for longer is taken for dead; 0 expects no heartbeat
    max_gap_s: after a pause between ticks longer than this the guard holds
    blend_s: how long a seam between chunks is faded
    lookahead_s: how much of the committed motion each trajectory carries before it stops
    """

    max_chunk_age_s: float = 0.5
    max_play_s: float = 1.0
    max_heartbeat_age_s: float = 0.0
    max_gap_s: float = 0.2
    blend_s: float = 0.1
    lookahead_s: float = 0.2

    def __post_init__(self) -> None:
        for name in ("max_chunk_age_s", "max_play_s", "max_gap_s", "blend_s", "lookahead_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"guard: {name} must be above 0, got {getattr(self, name)}")
        if self.max_heartbeat_age_s < 0:
            raise ConfigError("guard: max_heartbeat_age_s must not be negative")


class Tick(NamedTuple):
    """The set-point due at `stamp` [s]: positions `[D]`, velocities `[D]`; why it holds, or ''."""

    stamp: float
    positions: np.ndarray
    velocities: np.ndarray
    state: State
    hold: str


class Guard:
    """Checks chunks, plays them back by time, and stops inside the acceleration limits.

    `holds` counts by reason how often motion ended; `refusals` counts refused chunks and joint
    states by reason; `clips` counts per joint the ticks on which the set-point was held to a
    limit, and the points of chunks that lay beyond one.
    """

    def __init__(self, spec: RobotSpec, config: GuardConfig = GuardConfig()):
        self.spec, self.config = spec, config
        self.period = 1 / spec.guard_rate_hz
        self.holds: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.clips = np.zeros(spec.action_dim, np.int64)
        self._playback = Playback(config.blend_s)
        self._lookahead = Lookahead(spec, config.lookahead_s)
        self._clip = CLIP_SHARE * spec.velocity_limit * self.period
        self._mode: Mode = "hold"
        self._measured: np.ndarray | None = None
        self._arm: SetPoint | None = None
        self.restart()

    @property
    def mode(self) -> Mode:
        return self._mode

    @property
    def setpoint(self) -> np.ndarray | None:
        """The newest set-point `[D]`, None until the arm was measured."""
        return None if self._arm is None else self._arm.positions

    @property
    def chunk(self) -> Chunk | None:
        """The chunk being played."""
        return self._playback.chunk

    def ages(self, now: float) -> dict[str, float | None]:
        """Seconds since what the guard relies on; None for what never came."""
        chunk = self._playback.chunk
        stamps = {
            "joint_states_age_s": self._measured_stamp,
            "heartbeat_age_s": self._beat,
            "chunk_age_s": -np.inf if chunk is None else chunk.stamp,
        }
        return {k: now - at if np.isfinite(at) else None for k, at in stamps.items()}

    def measure(self, stamp: float, positions: np.ndarray) -> Refusal | None:
        """Joint state `[D]` [rad or m] at `stamp` [s]; one that is not finite is refused."""
        positions = np.asarray(positions, np.float64)
        if positions.shape != (self.spec.action_dim,):
            got = f"{positions.shape}, wanted {self.spec.action_dim} positions"
            return self.refuse("joint_states_shape", f"a joint state of {got}")
        if not np.isfinite(positions).all():
            bad = [n for n, v in zip(self.spec.joint_names, positions) if not np.isfinite(v)]
            text = f"the joint state is not finite at {', '.join(bad)}; check the driver"
            return self.refuse("joint_states_not_finite", text)
        self._measured, self._measured_stamp = positions, stamp
        if self._arm is None:
            self._arm = SetPoint(self.spec, positions)
        return None

    def beat(self, now: float) -> None:
        """The policy said at `now` [s] that its inference is alive."""
        self._beat = now

    def set_mode(self, mode: Mode) -> None:
        """`hold` comes to rest and ignores chunks; `policy` starts where the arm is now."""
        if mode == self._mode or (self._stopped and mode != "hold"):
            return
        self._mode, self._interrupted = mode, ""
        self._playback.clear()
        if mode == "policy":
            self._since = self._last  # chunks seen before do not count
            if self._arm is not None and self._measured is not None:
                self._arm.seat(self._measured)

    def refuse(self, reason: str, text: str) -> Refusal:
        """Counts a refusal, also one that was decided elsewhere."""
        self.refusals[reason] += 1
        return Refusal(reason, text)

    def stop(self) -> None:
        """Comes to rest and stays there, whatever the mode, until `reset`."""
        self._stopped = True
        self.set_mode("hold")

    def reset(self) -> None:
        """Ends a `stop`; the mode stays hold until it is set."""
        self._stopped = False

    def restart(self) -> None:
        """Forgets the arm's state, for a robot that was moved by other means."""
        self._mode, self._hold = "hold", "no_joint_states"
        self._interrupted = ""  # why motion ended, until a new chunk comes or the mode is set
        self._stopped = False
        self._playback.clear()
        self._measured = self._arm = None
        self._measured_stamp = self._beat = self._since = self._last = -np.inf

    def accept(self, chunk: Chunk, now: float) -> Refusal | None:
        """Takes over with `chunk` at `now` [s], or says why not; a refused one changes nothing."""
        refusal = self._why_not(chunk, now)
        if refusal is not None:
            return self.refuse(*refusal)
        assert self._arm is not None
        low, high = self.spec.position_low, self.spec.position_high
        inside = np.clip(chunk.actions.astype(np.float64), low, high)
        self.clips += (np.abs(inside - chunk.actions) > self._clip).sum(0)
        kept = Chunk(chunk.stamp, chunk.rate_hz, chunk.names, inside, chunk.tokens)
        self._playback.accept(kept, now, self._arm.positions)
        self._interrupted = ""
        return None

    def tick(self, now: float) -> Tick | None:
        """The set-point due one period after `now` [s]; None until the arm was measured.

        Call it once per period; the step it takes is measured by the time since the last call.
        """
        arm, due = self._arm, now + self.period
        if arm is None:
            return None
        elapsed = now - self._last if np.isfinite(self._last) else self.period
        if elapsed == 0:
            return self._tick(arm, due)
        self._last = now
        if 0 < elapsed <= self.config.max_gap_s:
            self._note(self._why_hold(now))
        else:
            self._note("tick_gap")
            self._since = now
            arm.rest_at(arm.positions if self._measured is None else self._measured)
        if self._hold:
            arm.slow(due, elapsed)
        else:
            wanted = self._playback.at(due)
            assert wanted is not None
            arm.follow(wanted, elapsed)
            self.clips += np.abs(arm.positions - wanted) > self._clip
        return self._tick(arm, due)

    def motion(self, now: float) -> Motion:
        """What is committed from the newest set-point on, then a stop: for the controller.

        Whoever follows it is at rest at its end even if nothing more comes.
        """
        arm, due = self._arm, now + self.period
        assert arm is not None
        if self._hold:
            return self._lookahead.stopping(due, arm)
        return self._lookahead.running(due, arm, self._playback, self._play_end())

    def _tick(self, arm: SetPoint, due: float) -> Tick:
        moving: State = "stopping" if arm.moves else "holding"
        state: State = moving if self._hold else "running"
        return Tick(due, arm.positions, arm.velocity, state, self._hold)

    def _why_not(self, chunk: Chunk, now: float) -> Refusal | None:
        if self._mode != "policy":
            return Refusal("mode", "the guard is in mode hold; chunks count in mode policy")
        refusal = check_chunk(self.spec, chunk, now, self.config.max_chunk_age_s)
        if refusal is not None:
            return refusal
        current = self._playback.chunk
        if chunk.stamp < self._since or (current is not None and chunk.stamp <= current.stamp):
            return Refusal("old", "the chunk was planned before the present one or the mode")
        if self._arm is None:
            return Refusal("no_joint_states", "no joint state came yet; is the driver running?")
        if not self._hold:
            return None
        offset = self._playback.offset_of(chunk, now, self._arm.positions)
        return check_start(self.spec, offset, self.config.blend_s / PEAK)

    def _why_hold(self, now: float) -> str:
        if self._stopped:
            return "stopped"
        age = now - self._measured_stamp
        if age > self.spec.joint_states_max_age_s:
            return "joint_states_stale"
        if age < -CLOCK_SKEW_S:
            return "joint_states_future"
        if self._mode != "policy":
            return "mode_hold"
        if self._playback.chunk is None:
            return self._interrupted or "no_chunk"
        if 0 < self.config.max_heartbeat_age_s < now - self._beat:
            return "heartbeat_lost"
        if now + self.period > self._play_end() + 1e-6:
            stale = self._play_end() < self._playback.chunk.end
            return "chunk_stale" if stale else "chunk_ended"
        return ""

    def _play_end(self) -> float:
        chunk = self._playback.chunk
        assert chunk is not None
        return min(chunk.end, chunk.stamp + self.config.max_play_s)

    def _note(self, reason: str) -> None:
        if reason and reason != self._hold:
            self.holds[reason] += 1
        if reason:
            self._playback.clear()
            self._interrupted = self._interrupted if self._hold else reason
        self._hold = reason
