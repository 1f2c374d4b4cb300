"""A source of commands, policy or teleoperation: checks its chunks and gives the goal to track."""

from dataclasses import dataclass, replace

import numpy as np

from nac_ros.control.checks import Rejection, check_chunk, check_command, check_start
from nac_ros.control.chunk_interpolator import PEAK_VELOCITY, ChunkInterpolator
from nac_ros.control.stopping import MotionState
from nac_ros.control.trajectory_generator import (
    CLIP_SHARE,
    TrackingGoal,
    TrajectoryGenerator,
    with_planning_margins,
)
from nac_ros.control.types import GuardConfig
from nac_ros.control.workspace import WorkspaceMonitor
from nac_ros.core.types import ActionChunk
from nac_ros.robot.spec import RobotSpec

APPROACH_SPEED = 0.1  # share of the velocity limits
ARRIVED = 1e-3  # [rad or m] distance at which an approach has arrived


@dataclass(frozen=True)
class SourceRules:
    """How the commands of a source are treated.

    max_age_s: largest age of a command on arrival
    max_execution_s: a command is executed until this long after its stamp
    approaches_slowly: teleoperation. A command far from the arm is approached slowly instead of
        rejected, and a command beyond the limits is clipped to them
    stale, ended: reason codes to hold when the newest command is too old, or has ended
    """

    max_age_s: float
    max_execution_s: float
    approaches_slowly: bool = False
    stale: str = "chunk_stale"
    ended: str = "chunk_ended"


class CommandSource:
    """Accepts chunks of one source and gives the goal to track.

    clips: int64 `[D]`, points of chunks that were clipped to the position limits
    speed_scale: share of the velocity limits that is used
    """

    # There are two slow approaches, both with APPROACH_SPEED:
    # - A policy chunk that starts far from a resting arm is rejected, and its first action is kept
    #   in `_rejected_start`. `approach` makes it the target; on arrival chunks are accepted again.
    # - The first command of teleoperation after a hold is tracked slowly (`_catching_up`) until it
    #   is so near that a blend at full speed could reach it.

    STATE_FIELDS = (
        "_ignore_before",
        "_rejected_start",
        "_approach_target",
        "_catching_up",
        "clips",
        "speed_scale",
        "_interpolator",
    )

    def __init__(
        self, spec: RobotSpec, config: GuardConfig, rules: SourceRules, workspace: WorkspaceMonitor
    ):
        self._spec, self._rules, self._workspace = spec, rules, workspace
        # Teleoperation needs no blend: the tracking law alone closes the distance.
        blend_s = 0.0 if rules.approaches_slowly else config.blend_s
        planning = with_planning_margins(spec)
        limits = (planning.velocity_limit, planning.acceleration_limit, planning.jerk_limit)
        self._interpolator = ChunkInterpolator(blend_s, *limits)
        self._clip_error = CLIP_SHARE * spec.velocity_limit / spec.guard_rate_hz
        self._reach_s = config.blend_s / PEAK_VELOCITY  # at full speed, the reach of a blend
        self.clips = np.zeros(spec.action_dim, np.int64)
        self.speed_scale = config.speed_scale
        self.restart(-np.inf)

    def restart(self, since: float) -> None:
        """Forgets everything; chunks stamped before `since` [s] are rejected from now on."""
        self._ignore_before = since
        self._rejected_start: np.ndarray | None = None
        self.clear()

    def clear(self) -> None:
        """Forgets the chunk and ends an approach."""
        self._interpolator.clear()
        self._approach_target: np.ndarray | None = None
        self._catching_up = self._rules.approaches_slowly

    @property
    def chunk(self) -> ActionChunk | None:
        """The chunk that is executed."""
        return self._interpolator.chunk

    @property
    def jump(self) -> np.ndarray:
        """Offset of the newest chunk from the commanded positions when it took over, `[D]`."""
        return self._interpolator.jump

    @property
    def approaching(self) -> bool:
        """Whether the arm moves slowly to the start of a command."""
        catching_up = self._catching_up and self.chunk is not None
        return self._approach_target is not None or catching_up

    def accept(
        self, chunk: ActionChunk, now: float, trajectory: TrajectoryGenerator, at_rest: bool
    ) -> Rejection | None:
        """Replaces the present chunk by `chunk` at `now` [s], or returns why it is rejected; a
        rejected chunk changes nothing.

        at_rest: the arm holds, so the chunk has to start where the arm is
        """
        if (rejection := self._rejection(chunk, now)) is not None:
            return rejection
        low, high = self._spec.position_low, self._spec.position_high
        inside = np.clip(chunk.actions.astype(float), low, high)
        commit_time = trajectory.commit_time(now)
        here = trajectory.state_at(commit_time)
        if not self._rules.approaches_slowly:
            rejection = self._workspace.check(inside, here.positions)
            if rejection is None and at_rest:
                offset = here.positions - inside[0]
                rejection = check_start(self._spec, offset, self._reach_s)
                self._rejected_start = None if rejection is None else inside[0]
            if rejection is not None:
                return rejection
        self.clips += (np.abs(inside - chunk.actions) > self._clip_error).sum(0)
        kept = self._workspace.truncate(inside, here.positions)
        kept_chunk = replace(chunk, actions=kept)
        self._interpolator.accept(kept_chunk, commit_time, here, self.speed_scale)
        self._rejected_start = None
        return None

    def approach(self) -> Rejection | None:
        """Starts to move slowly to the start of the chunk that was rejected as a jump."""
        if self._rejected_start is None:
            return Rejection("no_approach", "no chunk was rejected as a jump in mode policy")
        self._approach_target, self._rejected_start = self._rejected_start, None
        return None

    def goal(self) -> TrackingGoal:
        """The goal to track; call it only while `end_reason` is ''."""
        target, scale = self._approach_target, self.speed_scale
        if target is not None:
            rest = MotionState.at_rest(target)
            return TrackingGoal(lambda t: rest, np.inf, scale * APPROACH_SPEED)
        speed = scale * APPROACH_SPEED if self._catching_up else scale
        stops_by_end = not self._rules.approaches_slowly
        return TrackingGoal(self._interpolator.state_at, self._valid_until, speed, stops_by_end)

    def update_approach(self, here: np.ndarray, t: float) -> None:
        """Ends a slow approach that has arrived; `here` `[D]`: commanded positions at `t` [s]."""
        if self._approach_target is not None:
            if (np.abs(here - self._approach_target) < ARRIVED).all():
                self._approach_target = None
        elif self._catching_up and self.chunk is not None:
            distance = np.abs(self._interpolator.state_at(t).positions - here)
            reach = self._spec.velocity_limit * self._reach_s
            self._catching_up = bool((distance > reach).any())

    def end_reason(self, t: float) -> str:
        """Reason code if there is nothing to track at `t` [s], else ''; no_chunk before the
        first command."""
        if self._approach_target is not None:
            return ""
        if self.chunk is None:
            return "no_chunk"
        if t <= self._valid_until + 1e-6:
            return ""
        is_stale = self._valid_until < self._interpolator.end
        return self._rules.stale if is_stale else self._rules.ended

    @property
    def _valid_until(self) -> float:
        if self._rules.approaches_slowly and self.chunk is not None:
            return self.chunk.stamp + self._rules.max_execution_s  # its last point stays the goal
        return self._interpolator.valid_until(self._rules.max_execution_s)

    def _rejection(self, chunk: ActionChunk, now: float) -> Rejection | None:
        max_age_s = self._rules.max_age_s
        if self._rules.approaches_slowly:
            rejection = check_command(self._spec, chunk, now, max_age_s)
        else:
            rejection = check_chunk(self._spec, chunk, now, max_age_s, self.speed_scale)
        if rejection is not None:
            return rejection
        not_newer = self.chunk is not None and chunk.stamp <= self.chunk.stamp
        if not_newer or chunk.stamp < self._ignore_before:
            return Rejection("old", "the chunk is older than the present one or than the mode")
        if self._approach_target is not None:
            return Rejection("approaching", "the arm still moves slowly to the start of a chunk")
        return None
