"""The guard: takes chunks, commands a motion that never leaves its limits, stops when in doubt.

It knows neither ROS nor torch and is told the time, so the same guard runs in the node and in
`nac eval`.
"""

from collections import Counter
from dataclasses import replace

import numpy as np

from nac_ros.chunk import Chunk, Motion
from nac_ros.robot import RobotSpec
from nac_ros.runtime.course import CLIP_SHARE, Course
from nac_ros.runtime.playback import PEAK, Playback
from nac_ros.runtime.tick import GuardConfig, Mode, Phase, Tick
from nac_ros.runtime.witness import Witness
from nac_ros.safety.limits import Refusal, check_chunk, check_displaced, check_inside, check_start
from nac_ros.safety.stopping import State

RAMP_SPEED = 0.1  # share of the velocity limits
ARRIVED = 1e-3  # [rad or m]


class Guard:
    """Checks chunks, plays them back by time, and stops inside the limits.

    Its set-points lie on a fixed grid of periods; position, velocity, acceleration and jerk are
    inside the robot's limits at every time, also between them. Some reasons to hold are faults:
    they stay until `reset`.

    `holds` counts by reason how often motion ended; `refusals` counts refused chunks and joint
    states by reason; `clips` counts per joint the set-points that lag behind what was asked for,
    and the points of chunks that lay beyond a limit.
    """

    def __init__(self, spec: RobotSpec, config: GuardConfig | None = None):
        self.spec, self.config = spec, (config := config or GuardConfig())
        self.period = 1 / spec.guard_rate_hz
        self.holds: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self._course = Course(spec, config.lookahead_s)
        self._playback = Playback(config.blend_s)
        self._witness = Witness(spec)
        self._clip = CLIP_SHARE * spec.velocity_limit * self.period
        self._beyond = np.zeros(spec.action_dim, np.int64)
        self._speed_scale = config.speed_scale
        self.restart()

    def restart(self) -> None:
        """Forgets the arm's state, for a robot that was moved by other means."""
        self._mode: Mode = "hold"
        self._hold, self._fault = "no_joint_states", ""
        self._interrupted = ""  # why motion ended, until a chunk comes or the mode is set
        self._target: np.ndarray | None = None  # of the ramp under way
        self._offered: np.ndarray | None = None  # where a refused start wanted the arm
        self._changed = False  # what is followed is another than at the last tick
        self._since = self._last = -np.inf
        self._witness.forget()
        self._playback.clear()
        self._course.clear()

    @property
    def mode(self) -> Mode:
        return self._mode

    @property
    def fault(self) -> str:
        """The reason that only `reset` ends, or ''."""
        return self._fault

    @property
    def hold(self) -> str:
        """Why it does not follow chunks at present, or ''."""
        return self._hold

    @property
    def clips(self) -> np.ndarray:
        """int64 `[D]`."""
        return self._beyond + self._course.clips

    @property
    def state(self) -> Phase:
        """What it does as of the last tick; while holding an arm at rest may be left alone."""
        newest = self._newest()
        return "holding" if newest is None else self._phase_of(newest)

    @property
    def setpoint(self) -> np.ndarray | None:
        """The newest final set-point `[D]`, None until the arm was measured."""
        newest = self._newest()
        return None if newest is None else newest.positions.copy()

    @property
    def chunk(self) -> Chunk | None:
        """The chunk being played."""
        return self._playback.chunk

    def rests(self, now: float) -> bool:
        """Whether nothing that was commanded still moves at `now` [s]."""
        return not self._course.settled or self._course.rests(now)

    def ages(self, now: float) -> dict[str, float | None]:
        """Seconds since what the guard relies on; None for what never came."""
        chunk = self._playback.chunk
        age = None if chunk is None else now - chunk.stamp
        return {**self._witness.ages(now), "chunk_age_s": age}

    def measure(self, stamp: float, positions: np.ndarray) -> Refusal | None:
        """Joint state `[D]` [rad or m] at `stamp` [s]; one that is not finite is refused."""
        if (refusal := self._witness.measure(stamp, positions)) is not None:
            return self.refuse(*refusal)
        if not self._course.settled and self._witness.measured is not None:
            self._course.settle(stamp, self._witness.measured)
        return None

    def beat(self, now: float) -> None:
        """The policy said at `now` [s] that it infers."""
        self._witness.beat(now)

    def set_mode(self, mode: Mode) -> Refusal | None:
        """`hold` comes to rest; `policy` starts, unless there is a fault or the arm was moved."""
        if mode == self._mode:
            return None
        if mode == "policy" and (refusal := self._why_no_start()) is not None:
            return self.refuse(*refusal)
        self._mode, self._interrupted = mode, ""
        self._target = self._offered = None
        self._playback.clear()
        if mode == "policy":
            self._since = self._last  # chunks seen before do not count
        return None

    def set_speed_scale(self, scale: float) -> None:
        """Share of the velocity limits, in (0, 1], from the next tick and the next chunk on."""
        replace(self.config, speed_scale=scale)  # raises ConfigError
        self._speed_scale, self._changed = scale, True

    def refuse(self, reason: str, text: str) -> Refusal:
        """Counts a refusal, also one that was decided elsewhere."""
        self.refusals[reason] += 1
        return Refusal(reason, text)

    def stop(self) -> None:
        """Comes to rest and stays there, whatever the mode, until `reset`."""
        self._fail("stopped")

    def reset(self) -> None:
        """Ends a fault; an arm that was moved is taken over where it is. The mode stays hold."""
        self.set_mode("hold")
        self._fault = ""
        measured = self._witness.measured
        if measured is None or not self.rests(self._last):
            return
        if check_displaced(self.spec, measured, self._course.rest()) is not None:
            self._course.settle(self._last, measured)

    def ramp(self) -> Refusal | None:
        """Moves slowly to where the chunk that was refused as a jump begins; None: under way."""
        if self._mode != "policy" or self._offered is None:
            return self.refuse("no_ramp", "no chunk was refused as a jump in mode policy")
        self._target, self._offered, self._changed = self._offered, None, True
        return None

    def accept(self, chunk: Chunk, now: float) -> Refusal | None:
        """Takes over with `chunk` at `now` [s], or says why not; a refused one changes nothing."""
        if (refusal := self._why_not(chunk, now)) is not None:
            return self.refuse(*refusal)
        inside = self._inside(chunk.actions)
        self._beyond += (np.abs(inside - chunk.actions) > self._clip).sum(0)
        kept, due = replace(chunk, actions=inside), self._course.due(now)
        self._playback.accept(kept, due, self._course.at(due), self._speed_scale)
        self._interrupted, self._offered, self._changed = "", None, True
        return None

    def tick(self, now: float) -> list[Tick]:
        """The set-points that become final at `now` [s]; late calls make up with several."""
        course = self._course
        if not course.settled or now == self._last or not np.isfinite(now):
            return []
        if np.isfinite(self._last) and not 0 < now - self._last <= self.config.max_gap_s:
            self._missed(now)
        elif not course.touched:
            course.anchor(now)
        self._last = now
        self._note(self._why_hold(now))
        if self._hold:
            course.stop(now)
        else:
            self._follow(now)
        return [self._tick(t, state) for t, state in course.setpoints(now)]

    def motion(self, now: float) -> Motion:
        """What is committed from `now` [s] on, and then a stop, for the controllers."""
        return self._course.motion(now)

    def _follow(self, now: float) -> None:
        target, scale = self._target, self._speed_scale
        if target is None:
            wanted, end = self._playback.at, self._playback.until(self.config.max_play_s)
        else:
            wanted, end, scale = lambda t: State.rest(target), np.inf, scale * RAMP_SPEED
        self._course.follow(now, wanted, end, scale, self._changed)
        self._changed = False
        here = self._course.at(self._course.due(now)).positions
        if target is not None and (np.abs(here - target) < ARRIVED).all():
            self._target = None

    def _tick(self, stamp: float, state: State) -> Tick:
        phase = self._phase_of(state)
        return Tick(stamp, state.positions, state.velocities, phase, self._hold)

    def _newest(self) -> State | None:
        if not self._course.settled:
            return None
        return self._course.at(self._course.due(max(self._last, self._course.origin)))

    def _phase_of(self, state: State) -> Phase:
        if self._hold:
            return "stopping" if state.moves else "holding"
        return "running" if self._target is None else "ramping"

    def _missed(self, now: float) -> None:
        """After a pause the arm rests at the end of what was sent, wherever the clock is."""
        if self._mode != "hold":
            self._fail("tick_gap")
        if now < self._last:
            self._course.settle(now, self._course.rest())
        self._course.skip(now)

    def _fail(self, reason: str) -> None:
        self.set_mode("hold")
        self._fault = reason

    def _why_no_start(self) -> Refusal | None:
        if self._fault:
            return Refusal("fault", f"the guard stopped, {self._fault}; call guard/reset first")
        course, measured = self._course, self._witness.measured
        if measured is None or not self.rests(self._last):
            return None
        refusal = check_inside(self.spec, measured)
        if course.touched or refusal is not None:
            return refusal or check_displaced(self.spec, measured, course.rest())
        course.settle(self._last, measured)
        return None

    def _why_not(self, chunk: Chunk, now: float) -> Refusal | None:
        if self._mode != "policy":
            return Refusal("mode", "the guard is in mode hold; chunks count in mode policy")
        scale, config = self._speed_scale, self.config
        refusal = check_chunk(self.spec, chunk, now, config.max_chunk_age_s, scale)
        if refusal is not None:
            return refusal
        current = self._playback.chunk
        if chunk.stamp < self._since or (current is not None and chunk.stamp <= current.stamp):
            return Refusal("old", "the chunk was planned before the present one or the mode")
        if not self._course.settled:
            return Refusal("no_joint_states", "no joint state came yet; is the driver running?")
        if self._target is not None:
            return Refusal("ramping", "the arm still ramps to where a chunk began")
        if not self._hold:
            return None
        first = self._inside(chunk.actions[0])
        here = self._course.at(self._course.due(now)).positions
        refusal = check_start(self.spec, here - first, config.blend_s / PEAK)
        if refusal is not None:
            self._offered = first
        return refusal

    def _inside(self, actions: np.ndarray) -> np.ndarray:
        return np.clip(actions.astype(float), self.spec.position_low, self.spec.position_high)

    def _why_hold(self, now: float) -> str:
        if self._fault:
            return self._fault
        driven = self._playback.chunk is not None
        silence = self.config.max_heartbeat_age_s if driven else 0
        reason = self._witness.doubt(now, silence)
        if reason and self._mode != "hold":
            self._fail(reason)
        if reason or self._mode == "hold":
            return reason or "mode_hold"
        if self._target is not None:
            return ""
        if self._playback.chunk is None:
            return self._interrupted or "no_chunk"
        end = self._playback.until(self.config.max_play_s)
        if self._course.due(now) <= end + 1e-6:
            return ""
        return "chunk_stale" if end < self._playback.end else "chunk_ended"

    def _note(self, reason: str) -> None:
        if reason and reason != self._hold:
            self.holds[reason] += 1
        if reason:
            self._playback.clear()
            self._target = None
            self._interrupted = self._interrupted if self._hold else reason
        self._hold = reason
