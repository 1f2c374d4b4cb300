"""The safety guard: accepts action chunks, commands motion inside all limits, and stops on faults.

It uses neither ROS nor torch, and the time is an argument, so the guard node and `nac eval` run
the same code.
"""

from collections import Counter
from dataclasses import replace

import numpy as np

from nac_ros.control.checks import Rejection, check_displaced, check_inside, check_offset
from nac_ros.control.command_source import CommandSource, SourceRules
from nac_ros.control.controller_reference import MAX_AGE_S, SAME, ControllerReference
from nac_ros.control.stopping import MotionState
from nac_ros.control.trajectory_generator import TrajectoryGenerator
from nac_ros.control.types import GuardConfig, GuardState, Mode, Setpoint, Source
from nac_ros.control.watchdog import Watchdog
from nac_ros.control.workspace import WorkspaceMonitor
from nac_ros.core.types import ActionChunk, JointTrajectory
from nac_ros.robot.spec import RobotSpec


class Guard:
    """Executes chunks of the selected source, and holds while there is a reason to.

    Set-points are on a fixed grid of periods. Position, velocity, acceleration and jerk stay
    inside the robot's limits at every time, also between set-points. A hold ends with its reason;
    a fault is a hold that stays until `reset`.

    holds: how often motion ended, by reason
    rejections: number of rejected chunks, joint states and requests, by reason
    """

    # Each tick chooses one hold reason or none (`_find_hold_reason`). In order of priority:
    #   a fault, until reset
    #   joint states or heartbeat are stale: a fault in mode policy or teleop
    #   mode_hold: nobody may command
    #   settling: the controllers' set-point moves to where the motion begins
    #   the source has no chunk, or its chunk is stale or has ended. If no chunk came since the
    #   last motion, the reason for which that motion ended (`_end_reason`) stays.
    # With a reason the trajectory stops and the sources forget their chunks; without one it tracks
    # the goal of the active source.

    STATE_FIELDS = (
        "_mode",
        "_hold_reason",
        "_fault",
        "_end_reason",
        "_goal_changed",
        "_last_tick",
        "holds",
        "rejections",
        "generator",
        "_watchdog",
        "workspace",
        "_sources",
        "_reference",
        "_starting",
        "_silent",
    )

    def __init__(self, spec: RobotSpec, config: GuardConfig | None = None):
        self.spec, self.config = spec, (config := config or GuardConfig())
        self.period = 1 / spec.guard_rate_hz
        self.holds: Counter[str] = Counter()
        self.rejections: Counter[str] = Counter()
        self.generator = TrajectoryGenerator(spec, config.lookahead_s, config.lead_s)
        self._watchdog = Watchdog(spec)
        self._reference = ControllerReference(spec)
        self.workspace = WorkspaceMonitor(spec)
        policy = SourceRules(config.max_chunk_age_s, config.max_execution_s)
        age = config.max_teleop_age_s
        teleop = SourceRules(age, age, True, "teleop_silent", "teleop_silent")
        self._sources: dict[Source, CommandSource] = {
            "policy": CommandSource(spec, config, policy, self.workspace),
            "teleop": CommandSource(spec, config, teleop, self.workspace),
        }
        self.restart()

    def restart(self) -> None:
        """Forgets the state of the arm, which may have been moved by other means."""
        self._mode: Mode = "hold"
        self._hold_reason, self._fault = "no_joint_states", ""
        self._end_reason = ""  # why the last motion ended, until a chunk or mode is accepted
        self._goal_changed = False  # since the last tick
        self._starting = False  # a mode was set, the start pose is not prepared yet
        self._silent = False  # after a clock jump: send nothing until the motion is over
        self._last_tick = -np.inf
        self._watchdog.reset()
        for source in self._sources.values():
            source.restart(-np.inf)
        self.generator.clear()

    @property
    def mode(self) -> Mode:
        return self._mode

    @property
    def fault(self) -> str:
        """Reason code of the present fault, or ''."""
        return self._fault

    @property
    def hold_reason(self) -> str:
        """Reason code of the present hold, '' while a source is followed."""
        return self._hold_reason

    @property
    def clips(self) -> np.ndarray:
        """int64 `[D]`, counts: set-points with a tracking error, and clipped points of chunks."""
        return self.generator.clips + sum(source.clips for source in self._sources.values())

    @property
    def state(self) -> GuardState:
        """State at the last tick."""
        newest = self._newest_state()
        return "idle" if newest is None else self._guard_state(newest)

    @property
    def approaching(self) -> bool:
        """Whether the arm moves slowly to the start of a command."""
        source = self._active_source
        return not self._hold_reason and source is not None and source.approaching

    @property
    def setpoint(self) -> np.ndarray | None:
        """The newest final set-point `[D]`, None before the first joint state."""
        newest = self._newest_state()
        return None if newest is None else newest.positions.copy()

    @property
    def chunk(self) -> ActionChunk | None:
        """The chunk that is executed."""
        return None if self._active_source is None else self._active_source.chunk

    @property
    def jump(self) -> np.ndarray:
        """Offset of the newest policy chunk from the commanded positions at its start, `[D]`."""
        return self._sources["policy"].jump

    def is_at_rest(self, now: float) -> bool:
        """Whether everything that was commanded is over at `now` [s]."""
        return not self.generator.initialized or self.generator.is_at_rest(now)

    def ages(self, now: float) -> dict[str, float | None]:
        """Ages [s] of joint state, heartbeat and chunk at `now` [s]; None if there was none."""
        age = None if self.chunk is None else now - self.chunk.stamp
        return {**self._watchdog.ages(now), "chunk_age_s": age}

    def update_joint_state(self, stamp: float, positions: np.ndarray) -> Rejection | None:
        """Stores positions `[D]` [rad or m] measured at `stamp` [s]; rejects invalid ones."""
        if (rejection := self._watchdog.update_joint_state(stamp, positions)) is not None:
            return self.reject(*rejection)
        if not self.generator.initialized and self._watchdog.measured is not None:
            self.generator.initialize(stamp, self._watchdog.measured)
        return None

    def update_reference(self, now: float, positions: np.ndarray) -> Rejection | None:
        """Stores the set-point `[D]` that the controllers report at `now` [s]. Motion begins
        there; while it is unknown, the first trajectory moves the controllers slowly to where the
        motion begins."""
        if (rejection := self._reference.update(now, positions)) is not None:
            return self.reject(*rejection)
        return None

    def reference_known(self, now: float) -> bool:
        """Whether the controllers have reported their set-point recently."""
        return self._reference.current(now) is not None

    def handle_clock_jump(self) -> None:
        """The clock was set: a fault. The arm finishes the stop that the controllers were sent
        last, and they are sent nothing until it is at rest."""
        if self._mode != "hold":
            self._set_fault("tick_gap")
        self._silent = True
        self.generator.discard_update()

    def heartbeat(self, now: float) -> None:
        """Notes a heartbeat of the policy at `now` [s]."""
        self._watchdog.heartbeat(now)

    def set_mode(self, mode: Mode) -> Rejection | None:
        """Selects the source that may command. `hold` stops; the other modes are rejected during
        a fault and if the arm was moved by other means."""
        if mode == self._mode:
            return None
        if mode != "hold" and (rejection := self._start_rejection()) is not None:
            return self.reject(*rejection)
        self._starting = mode != "hold" and (self._starting or self._mode == "hold")
        self._mode, self._end_reason = mode, ""
        if self._starting and self._can_start:
            self._start(self._newest_time)
        for source in self._sources.values():
            source.restart(self._last_tick)  # chunks planned before the mode was set do not count
        return None

    def set_speed_scale(self, scale: float) -> None:
        """Sets the share of the velocity limits, in (0, 1], from the next tick and chunk on."""
        replace(self.config, speed_scale=scale)  # raises ConfigError
        for source in self._sources.values():
            source.speed_scale = scale
        self._goal_changed = True

    def reject(self, reason: str, text: str) -> Rejection:
        """Counts a rejection, also one that was decided elsewhere."""
        self.rejections[reason] += 1
        return Rejection(reason, text)

    def stop(self) -> None:
        """Stops, and stays at rest until `reset`: the fault `stopped`."""
        self._set_fault("stopped")

    def reset(self) -> None:
        """Ends a fault and stays in mode hold. If the arm was moved, motion begins where it is."""
        self.set_mode("hold")
        self._fault = ""
        measured = self._watchdog.measured
        if measured is None or not self.is_at_rest(self._last_tick):
            return
        if check_displaced(self.spec, measured, self.generator.rest_positions()) is not None:
            self.generator.initialize_at(self._last_tick, measured)

    def approach(self) -> Rejection | None:
        """Starts to move slowly to the start of the chunk that was rejected as a jump."""
        if (rejection := self._sources["policy"].approach()) is not None:
            return self.reject(*rejection)
        self._goal_changed = True
        return None

    def accept(
        self, chunk: ActionChunk, now: float, source: Source = "policy"
    ) -> Rejection | None:
        """Executes `chunk` from `now` [s] on, or returns why it is rejected; a rejected chunk
        changes nothing."""
        if self._mode != source:
            text = f"the guard is in mode {self._mode}; chunks of {source} need mode {source}"
            return self.reject("mode", text)
        if not self.generator.initialized:
            text = "no joint state was received yet; is the driver running?"
            return self.reject("no_joint_states", text)
        if self._starting or self.generator.controllers_settling(now):
            text = "the controllers' set-point is still moving to where the motion begins"
            return self.reject("settling", text)
        at_rest = bool(self._hold_reason)
        rejection = self._sources[source].accept(chunk, now, self.generator, at_rest)
        if rejection is not None:
            return self.reject(*rejection)
        self._end_reason, self._goal_changed = "", True
        return None

    def tick(self, now: float) -> list[Setpoint]:
        """The set-points that become final at `now` [s]; several after a late call."""
        generator = self.generator
        if not generator.initialized or now == self._last_tick or not np.isfinite(now):
            return []
        gap = now - self._last_tick
        if np.isfinite(self._last_tick) and not 0 < gap <= self.config.max_gap_s:
            self._handle_tick_gap(now)
        elif not generator.commanded:
            generator.align_grid(now)
        self._last_tick = now
        self._silent = self._silent and not self.is_at_rest(now)
        if self._starting and self._can_start:
            self._start(now)
        self._set_hold_reason(self._find_hold_reason(now))
        if self._hold_reason and not self._silent:
            generator.stop(now)
        elif not self._hold_reason:
            self._track(now)
            self._check_workspace(now)
        return [
            Setpoint(t, s.positions, s.velocities, self._guard_state(s), self._hold_reason)
            for t, s in generator.setpoints(now)
        ]

    def trajectory(self, now: float) -> JointTrajectory:
        """The committed trajectory from `now` [s] on, which ends in a stop."""
        return self.generator.trajectory(now)

    def trajectory_update(self, now: float) -> JointTrajectory | None:
        """The trajectory to send to the controllers at `now` [s], None if it has not changed.
        After a clock jump None until the motion is over, even after a `reset`."""
        return None if self._silent else self.generator.trajectory_update(now)

    @property
    def _active_source(self) -> CommandSource | None:
        return None if self._mode == "hold" else self._sources[self._mode]

    def _track(self, now: float) -> None:
        source = self._active_source
        assert source is not None
        was_approaching = source.approaching
        self.generator.track(now, source.goal(), self._goal_changed)
        commit_time = self.generator.commit_time(now)
        source.update_approach(self.generator.state_at(commit_time).positions, commit_time)
        self._goal_changed = was_approaching and not source.approaching

    def _check_workspace(self, now: float) -> None:
        """Stops, as a fault, if the planned motion or the arm leaves the workspace or collides."""
        assert self._watchdog.measured is not None
        poses = np.stack([*self.generator.planned_positions(), self._watchdog.measured])
        if reason := self.workspace.violation_reason(poses):
            self._set_fault(reason)
            self._set_hold_reason(reason)
            self.generator.stop(now)

    def _newest_state(self) -> MotionState | None:
        if not self.generator.initialized:
            return None
        newest = max(self._last_tick, self.generator.origin)
        return self.generator.state_at(self.generator.commit_time(newest))

    def _guard_state(self, state: MotionState) -> GuardState:
        if not self._hold_reason:
            return "running"
        if state.is_moving or self.generator.controllers_settling(self._last_tick):
            return "stopping"
        return "fault" if self._fault else "idle" if self._mode == "hold" else "armed"

    def _handle_tick_gap(self, now: float) -> None:
        """After a pause the arm is at rest at the end of the last trajectory."""
        self.handle_clock_jump()
        if now < self._last_tick:
            self.generator.initialize_at(now, self.generator.rest_positions())
        self.generator.skip_setpoints(now)

    def _set_fault(self, reason: str) -> None:
        self.set_mode("hold")
        self._fault = reason

    @property
    def _newest_time(self) -> float:
        """The newest known time [s]: of the last tick, or of the joint state before the first."""
        return self._last_tick if np.isfinite(self._last_tick) else self._watchdog.measured_at

    @property
    def _can_start(self) -> bool:
        return self._mode != "hold" and self._watchdog.measured is not None

    def _start_rejection(self) -> Rejection | None:
        if self._fault:
            text = f"the guard stopped with the fault {self._fault}; call guard/reset first"
            return Rejection("fault", text)
        if self._silent and not self.is_at_rest(self._newest_time):
            text = "the clock jumped, and the arm is still moving; try again when it is at rest"
            return Rejection("tick_gap", text)
        return self._prepare_start(self._newest_time)

    def _prepare_start(self, now: float) -> Rejection | None:
        """Moves the start of the motion, if the arm is at rest, to the set-point of the
        controllers as far as it is known; or returns why the arm must not start."""
        generator, measured = self.generator, self._watchdog.measured
        if measured is None or not self.is_at_rest(now):
            return None
        rejection = check_inside(self.spec, measured)
        if rejection is None and generator.commanded:
            rejection = check_displaced(self.spec, measured, generator.rest_positions())
        if rejection is not None:
            return rejection
        if (reference := self._reference.current(now)) is not None:
            return self._prepare_start_at_reference(now, reference, measured)
        if not generator.commanded:
            generator.initialize(now, measured)
        return None

    def _prepare_start_at_reference(
        self, now: float, reference: np.ndarray, measured: np.ndarray
    ) -> Rejection | None:
        generator, moves = self.generator, self._reference.is_moving(now)
        # Controllers report the end of the guard's own motion with a delay.
        own_motion = generator.commanded and generator.rest_duration_s(now) < MAX_AGE_S
        if moves and not own_motion:
            text = "a controller executes a trajectory of another sender; stop that first"
            return Rejection("reference_moves", text)
        if (rejection := check_offset(self.spec, measured, reference)) is not None:
            return rejection
        if not moves and np.abs(reference - generator.rest_positions()).max() > SAME:
            generator.initialize_at(now, reference)
        return None

    def _start(self, now: float) -> None:
        """Before the first motion in a mode: begins at the controllers' set-point, or first moves
        the controllers slowly to where the motion begins."""
        self._starting = False
        if not self.is_at_rest(now):
            return  # the controllers still execute the guard's own trajectory
        if (rejection := self._prepare_start(now)) is not None:
            self._set_fault(self.reject(*rejection).reason)
            return
        measured, reference = self._watchdog.measured, self._reference.current(now)
        assert measured is not None
        rest = self.generator.rest_positions()
        if reference is None or np.abs(reference - rest).max() > SAME:
            self.generator.settle_controllers(now, measured)

    def _find_hold_reason(self, now: float) -> str:
        if self._fault:
            return self._fault
        needs_heartbeat = self._mode == "policy" and self.chunk is not None
        max_age_s = self.config.max_heartbeat_age_s if needs_heartbeat else 0
        stale = self._watchdog.stale_reason(now, max_age_s)
        if stale and self._mode != "hold":
            self._set_fault(stale)
        source = self._active_source
        if stale or source is None:
            return stale or "mode_hold"
        if self._starting or self.generator.controllers_settling(now):
            return "settling"
        ended = source.end_reason(self.generator.commit_time(now))
        return (self._end_reason or ended) if ended == "no_chunk" else ended

    def _set_hold_reason(self, reason: str) -> None:
        if reason and reason != self._hold_reason:
            self.holds[reason] += 1
        if reason:
            for source in self._sources.values():
                source.clear()
            self._end_reason = self._end_reason if self._hold_reason else reason
        self._hold_reason = reason
