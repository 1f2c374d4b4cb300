"""What one source asks of the arm: chunks checked, clipped to the limits, played by time."""

from dataclasses import dataclass, replace

import numpy as np

from nac_ros.control.checks import Rejection, check_chunk, check_command, check_start
from nac_ros.control.chunk_interpolator import PEAK, ChunkInterpolator
from nac_ros.control.stopping import MotionState
from nac_ros.control.trajectory_generator import (
    CLIP_SHARE,
    TrackingGoal,
    TrajectoryGenerator,
    gentler,
)
from nac_ros.control.types import GuardConfig
from nac_ros.control.workspace import WorkspaceMonitor
from nac_ros.core.types import ActionChunk
from nac_ros.robot.spec import RobotSpec

RAMP_SPEED = 0.1  # share of the velocity limits
ARRIVED = 1e-3  # [rad or m]


@dataclass(frozen=True)
class SourceRules:
    """How a source is treated.

    max_age_s: of a command on arrival; max_play_s: until when after its stamp it is followed
    catches_up: a command far from the arm is approached slowly, where others are refused; it may
        ask for more than the limits allow, and gets what they allow
    stale, ended: reason codes when the newest is too old, or has come to its end
    """

    max_age_s: float
    max_play_s: float
    catches_up: bool = False
    stale: str = "chunk_stale"
    ended: str = "chunk_ended"


class CommandSource:
    """Takes chunks, and says what to aim at.

    `clips` counts per joint the points of chunks that lay beyond a limit, int64 `[D]`.
    """

    MEMORY = ("_since", "_offered", "_target", "_catching", "clips", "speed_scale", "_playback")

    def __init__(
        self, spec: RobotSpec, config: GuardConfig, rules: SourceRules, bounds: WorkspaceMonitor
    ):
        self._spec, self._rules, self._bounds = spec, rules, bounds
        blend_s = 0.0 if rules.catches_up else config.blend_s  # the pursuit alone closes in
        gentle = gentler(spec)  # as the motion is planned
        limits = (gentle.velocity_limit, gentle.acceleration_limit, gentle.jerk_limit)
        self._playback = ChunkInterpolator(blend_s, *limits)
        self._clip = CLIP_SHARE * spec.velocity_limit / spec.guard_rate_hz
        self._reach_s = config.blend_s / PEAK  # at full speed, how far a seam may lead
        self.clips = np.zeros(spec.action_dim, np.int64)
        self.speed_scale = config.speed_scale
        self.restart(-np.inf)

    def restart(self, since: float) -> None:
        """Forgets everything; chunks stamped before `since` [s] do not count."""
        self._since, self._offered = since, None
        self.clear()

    def clear(self) -> None:
        """Forgets the chunk and the ramp under way."""
        self._playback.clear()
        self._target: np.ndarray | None = None
        self._catching = self._rules.catches_up

    @property
    def chunk(self) -> ActionChunk | None:
        """The one being played."""
        return self._playback.chunk

    @property
    def jump(self) -> np.ndarray:
        """From the commanded positions to the newest chunk's as it took over, `[D]`."""
        return self._playback.jump

    @property
    def ramping(self) -> bool:
        """Whether the arm goes slowly to where a chunk begins."""
        return self._target is not None or (self._catching and self.chunk is not None)

    def accept(
        self, chunk: ActionChunk, now: float, course: TrajectoryGenerator, resting: bool
    ) -> Rejection | None:
        """`chunk` takes over from the motion of `course` at `now` [s], or why it does not."""
        if (refusal := self._why_not(chunk, now)) is not None:
            return refusal
        inside, due = self._inside(chunk.actions), course.due(now)
        here = course.at(due)
        if not self._rules.catches_up:
            refusal = self._bounds.check(inside, here.positions)
            if refusal is None and resting:
                refusal = self._check_start(inside[0], here.positions)
            if refusal is not None:
                return refusal
        self.clips += (np.abs(inside - chunk.actions) > self._clip).sum(0)
        kept = self._bounds.hold_back(inside, here.positions)
        self._playback.accept(replace(chunk, actions=kept), due, here, self.speed_scale)
        self._offered = None
        return None

    def ramp(self) -> Rejection | None:
        """Goes slowly to where the chunk that was refused as a jump begins; None: under way."""
        if self._offered is None:
            return Rejection("no_ramp", "no chunk was refused as a jump in mode policy")
        self._target, self._offered = self._offered, None
        return None

    def aim(self) -> TrackingGoal:
        """Where to go; only while `over` finds no reason against it."""
        target, scale = self._target, self.speed_scale
        if target is not None:
            return TrackingGoal(lambda t: MotionState.rest(target), np.inf, scale * RAMP_SPEED)
        speed = scale * RAMP_SPEED if self._catching else scale
        return TrackingGoal(self._playback.at, self._until, speed, not self._rules.catches_up)

    def arrive(self, here: np.ndarray, due: float) -> None:
        """Ends a ramp that has led to where it should, the arm being `here` `[D]` at `due` [s]."""
        if self._target is not None:
            if (np.abs(here - self._target) < ARRIVED).all():
                self._target = None
        elif self._catching and self.chunk is not None:
            off = self._playback.at(due).positions - here
            self._catching = bool((np.abs(off) > self._spec.velocity_limit * self._reach_s).any())

    def over(self, due: float) -> str:
        """Why there is nothing to follow at `due` [s], or ''; no_chunk before the first."""
        if self._target is not None:
            return ""
        if self.chunk is None:
            return "no_chunk"
        if due <= self._until + 1e-6:
            return ""
        return self._rules.stale if self._until < self._playback.end else self._rules.ended

    @property
    def _until(self) -> float:
        if self._rules.catches_up and self.chunk is not None:  # its last point stays wanted
            return self.chunk.stamp + self._rules.max_play_s
        return self._playback.until(self._rules.max_play_s)

    def _why_not(self, chunk: ActionChunk, now: float) -> Rejection | None:
        spec, age = self._spec, self._rules.max_age_s
        if self._rules.catches_up:
            refusal = check_command(spec, chunk, now, age)
        else:
            refusal = check_chunk(spec, chunk, now, age, self.speed_scale)
        if refusal is not None:
            return refusal
        current = self._playback.chunk
        if chunk.stamp < self._since or (current is not None and chunk.stamp <= current.stamp):
            return Rejection("old", "the chunk was planned before the present one or the mode")
        if self._target is not None:
            return Rejection("ramping", "the arm still ramps to where a chunk began")
        return None

    def _check_start(self, first: np.ndarray, here: np.ndarray) -> Rejection | None:
        refusal = check_start(self._spec, here - first, self._reach_s)
        if refusal is not None:
            self._offered = first
        return refusal

    def _inside(self, actions: np.ndarray) -> np.ndarray:
        return np.clip(actions.astype(float), self._spec.position_low, self._spec.position_high)
