"""The guard: takes chunks, commands a motion that never leaves its limits, stops when in doubt.

It knows neither ROS nor torch and is told the time, so the same guard runs in the node and in
`nac eval`.
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
    """Checks chunks, plays them back by time, and stops inside the limits.

    Its set-points lie on a fixed grid of periods; position, velocity, acceleration and jerk are
    inside the robot's limits at every time, also between them. Some reasons to hold are faults:
    they stay until `reset`.

    `holds` counts by reason how often motion ended; `refusals` counts refused chunks and joint
    states by reason; `clips` counts per joint the set-points that lag behind what was asked for,
    and the points of chunks that lay beyond a limit.
    """

    MEMORY = ("_mode", "_hold", "_fault", "_interrupted", "_changed", "_last", "holds", "refusals",
              "course", "_witness", "bounds", "_intakes", "_reference", "_starting",
              "_left")  # fmt: skip

    def __init__(self, spec: RobotSpec, config: GuardConfig | None = None):
        self.spec, self.config = spec, (config := config or GuardConfig())
        self.period = 1 / spec.guard_rate_hz
        self.holds: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.course = TrajectoryGenerator(spec, config.lookahead_s, config.lead_s)
        self._witness = Watchdog(spec)
        self._reference = ControllerReference(spec)
        self.bounds = WorkspaceMonitor(spec)
        play, silence = (
            SourceRules(config.max_chunk_age_s, config.max_play_s),
            config.max_silence_s,
        )
        hand = SourceRules(silence, silence, True, "teleop_silent", "teleop_silent")
        self._intakes: dict[Source, CommandSource] = {
            "policy": CommandSource(spec, config, play, self.bounds),
            "teleop": CommandSource(spec, config, hand, self.bounds),
        }
        self.restart()

    def restart(self) -> None:
        """Forgets the arm's state, for a robot that was moved by other means."""
        self._mode: Mode = "hold"
        self._hold, self._fault = "no_joint_states", ""
        self._interrupted = ""  # why motion ended, until a chunk comes or the mode is set
        self._changed = False  # what is followed is another than at the last tick
        self._starting = False  # the mode was set, the controllers' set-point not looked at yet
        self._left = False  # the controllers come to rest as they were told last, told no more
        self._last = -np.inf
        self._witness.forget()
        for intake in self._intakes.values():
            intake.restart(-np.inf)
        self.course.clear()

    @property
    def mode(self) -> Mode:
        return self._mode

    @property
    def fault(self) -> str:
        """The reason that only `reset` ends, or ''."""
        return self._fault

    @property
    def hold(self) -> str:
        """Why it does not follow at present, or ''."""
        return self._hold

    @property
    def clips(self) -> np.ndarray:
        """int64 `[D]`."""
        return self.course.clips + sum(intake.clips for intake in self._intakes.values())

    @property
    def state(self) -> GuardState:
        """What it does as of the last tick; an arm at rest may be left alone."""
        newest = self._newest()
        return "idle" if newest is None else self._phase_of(newest)

    @property
    def ramping(self) -> bool:
        """Whether it goes slowly to where what is asked for begins."""
        return not self._hold and self._intake is not None and self._intake.ramping

    @property
    def setpoint(self) -> np.ndarray | None:
        """The newest final set-point `[D]`, None until the arm was measured."""
        newest = self._newest()
        return None if newest is None else newest.positions.copy()

    @property
    def chunk(self) -> ActionChunk | None:
        """The chunk being played."""
        return None if self._intake is None else self._intake.chunk

    @property
    def jump(self) -> np.ndarray:
        """How far the newest chunk lay from the commanded positions as it took over, `[D]`."""
        return self._intakes["policy"].jump

    def rests(self, now: float) -> bool:
        """Whether nothing that was commanded still moves at `now` [s]."""
        return not self.course.settled or self.course.rests(now)

    def ages(self, now: float) -> dict[str, float | None]:
        """Seconds since what the guard relies on; None for what never came."""
        age = None if self.chunk is None else now - self.chunk.stamp
        return {**self._witness.ages(now), "chunk_age_s": age}

    def measure(self, stamp: float, positions: np.ndarray) -> Rejection | None:
        """Joint state `[D]` [rad or m] at `stamp` [s]; one that is not finite is refused."""
        if (refusal := self._witness.measure(stamp, positions)) is not None:
            return self.refuse(*refusal)
        if not self.course.settled and self._witness.measured is not None:
            self.course.settle(stamp, self._witness.measured)
        return None

    def update_reference(self, now: float, positions: np.ndarray) -> Rejection | None:
        """The set-point `[D]` that the controllers say at `now` [s] they hold. While it is known,
        motion begins there; otherwise the first trajectory leads slowly to where it begins."""
        if (refusal := self._reference.update(now, positions)) is not None:
            return self.refuse(*refusal)
        return None

    def knows_reference(self, now: float) -> bool:
        """Whether the controllers have said lately what they hold."""
        return self._reference.known(now) is not None

    def note_clock_jump(self) -> None:
        """Somebody set the clock: the arm comes to rest as the controllers were told, who are
        told nothing meanwhile."""
        if self._mode != "hold":
            self._fail("tick_gap")
        self._left = True
        self.course.drop_news()

    def beat(self, now: float) -> None:
        """The policy said at `now` [s] that it infers."""
        self._witness.beat(now)

    def set_mode(self, mode: Mode) -> Rejection | None:
        """Whose chunks count; `hold` comes to rest, the others are refused while there is a fault
        or after the arm was moved by other means."""
        if mode == self._mode:
            return None
        if mode != "hold" and (refusal := self._why_no_start()) is not None:
            return self.refuse(*refusal)
        self._starting = mode != "hold" and (self._starting or self._mode == "hold")
        self._mode, self._interrupted = mode, ""
        if self._starting and self._can_start:
            self._start(self._latest)
        for intake in self._intakes.values():
            intake.restart(self._last)  # chunks seen before do not count
        return None

    def set_speed_scale(self, scale: float) -> None:
        """Share of the velocity limits, in (0, 1], from the next tick and the next chunk on."""
        replace(self.config, speed_scale=scale)  # raises ConfigError
        for intake in self._intakes.values():
            intake.speed_scale = scale
        self._changed = True

    def refuse(self, reason: str, text: str) -> Rejection:
        """Counts a refusal, also one that was decided elsewhere."""
        self.refusals[reason] += 1
        return Rejection(reason, text)

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
        if check_displaced(self.spec, measured, self.course.rest()) is not None:
            self.course.settle_at(self._last, measured)

    def ramp(self) -> Rejection | None:
        """Moves slowly to where the chunk that was refused as a jump begins; None: under way."""
        if (refusal := self._intakes["policy"].ramp()) is not None:
            return self.refuse(*refusal)
        self._changed = True
        return None

    def accept(
        self, chunk: ActionChunk, now: float, source: Source = "policy"
    ) -> Rejection | None:
        """Takes over with `chunk` at `now` [s], or says why not; a refused one changes nothing."""
        intake = self._intakes[source]
        if self._mode != source:
            text = f"the guard is in mode {self._mode}; chunks of {source} count in mode {source}"
            return self.refuse("mode", text)
        if not self.course.settled:
            text = "no joint state came yet; is the driver running?"
            return self.refuse("no_joint_states", text)
        if self._starting or self.course.approaching(now):
            text = "the controllers' set-point is still brought to where the motion begins"
            return self.refuse("settling", text)
        refusal = intake.accept(chunk, now, self.course, resting=bool(self._hold))
        if refusal is not None:
            return self.refuse(*refusal)
        self._interrupted, self._changed = "", True
        return None

    def tick(self, now: float) -> list[Setpoint]:
        """The set-points that become final at `now` [s]; late calls make up with several."""
        course = self.course
        if not course.settled or now == self._last or not np.isfinite(now):
            return []
        if np.isfinite(self._last) and not 0 < now - self._last <= self.config.max_gap_s:
            self._missed(now)
        elif not course.touched:
            course.anchor(now)
        self._last = now
        self._left = self._left and not self.rests(now)
        if self._starting and self._can_start:
            self._start(now)
        self._note(self._why_hold(now))
        if self._hold and not self._left:
            course.stop(now)
        elif not self._hold:
            self._follow(now)
            self._note_breach(now)
        return [
            Setpoint(t, s.positions, s.velocities, self._phase_of(s), self._hold)
            for t, s in course.setpoints(now)
        ]

    def motion(self, now: float) -> JointTrajectory:
        """What is committed from `now` [s] on, and then a stop."""
        return self.course.motion(now)

    def news(self, now: float) -> JointTrajectory | None:
        """What the controllers have to be told at `now` [s], None if nothing; after a jump of the
        clock nothing, whatever was reset since, until the motion is over."""
        return None if self._left else self.course.news(now)

    @property
    def _intake(self) -> CommandSource | None:
        return None if self._mode == "hold" else self._intakes[self._mode]

    def _follow(self, now: float) -> None:
        assert self._intake is not None
        before = self._intake.ramping
        self.course.follow(now, self._intake.aim(), self._changed)
        due = self.course.due(now)
        self._intake.arrive(self.course.at(due).positions, due)
        self._changed = before and not self._intake.ramping

    def _note_breach(self, now: float) -> None:
        """Stops a motion that would leave the bounds, or an arm that has."""
        assert self._witness.measured is not None
        poses = np.stack([*self.course.ahead(), self._witness.measured])
        if reason := self.bounds.doubt(poses):
            self._fail(reason)
            self._note(reason)
            self.course.stop(now)

    def _newest(self) -> MotionState | None:
        if not self.course.settled:
            return None
        return self.course.at(self.course.due(max(self._last, self.course.origin)))

    def _phase_of(self, state: MotionState) -> GuardState:
        if not self._hold:
            return "running"
        if state.moves or self.course.approaching(self._last):
            return "stopping"
        return "fault" if self._fault else "idle" if self._mode == "hold" else "armed"

    def _missed(self, now: float) -> None:
        """After a pause the arm rests at the end of what was sent, wherever the clock is."""
        self.note_clock_jump()
        if now < self._last:
            self.course.settle_at(now, self.course.rest())
        self.course.skip(now)

    def _fail(self, reason: str) -> None:
        self.set_mode("hold")
        self._fault = reason

    @property
    def _latest(self) -> float:
        """The newest time that it was told [s]."""
        return self._last if np.isfinite(self._last) else self._witness.measured_at

    @property
    def _can_start(self) -> bool:
        return self._mode != "hold" and self._witness.measured is not None

    def _why_no_start(self) -> Rejection | None:
        if self._fault:
            return Rejection("fault", f"the guard stopped, {self._fault}; call guard/reset first")
        if self._left and not self.rests(self._latest):
            return Rejection(
                "tick_gap", "the clock jumped, and the arm comes to rest before it starts"
            )
        return self._settle(self._latest)

    def _settle(self, now: float) -> Rejection | None:
        """Begins, at rest, where the controllers are, as far as that is known, or says why not."""
        course, measured = self.course, self._witness.measured
        if measured is None or not self.rests(now):
            return None
        refusal = check_inside(self.spec, measured)
        if refusal is None and course.touched:
            refusal = check_displaced(self.spec, measured, course.rest())
        if refusal is not None:
            return refusal
        if (reference := self._reference.known(now)) is not None:
            return self._settle_at_reference(now, reference, measured)
        if not course.touched:
            course.settle(now, measured)
        return None

    def _settle_at_reference(
        self, now: float, reference: np.ndarray, measured: np.ndarray
    ) -> Rejection | None:
        moves = self._reference.moves(now)
        own = self.course.touched and self.course.rested_s(now) < MAX_AGE_S  # reported a bit later
        if moves and not own:
            text = "a controller follows somebody else's trajectory; end that first"
            return Rejection("reference_moves", text)
        if (refusal := check_offset(self.spec, measured, reference)) is not None:
            return refusal
        if not moves and np.abs(reference - self.course.rest()).max() > SAME:
            self.course.settle_at(now, reference)
        return None

    def _start(self, now: float) -> None:
        """Before anything moves: from where the controllers are, or slowly to where it begins."""
        self._starting = False
        if not self.rests(now):
            return  # under what it told the controllers itself
        if (refusal := self._settle(now)) is not None:
            self._fail(self.refuse(*refusal).reason)
            return
        measured, reference = self._witness.measured, self._reference.known(now)
        assert measured is not None
        if reference is None or np.abs(reference - self.course.rest()).max() > SAME:
            self.course.approach(now, measured)

    def _why_hold(self, now: float) -> str:
        if self._fault:
            return self._fault
        driven = self._mode == "policy" and self.chunk is not None
        reason = self._witness.doubt(now, self.config.max_heartbeat_age_s if driven else 0)
        if reason and self._mode != "hold":
            self._fail(reason)
        if reason or self._intake is None:
            return reason or "mode_hold"
        if self._starting or self.course.approaching(now):
            return "settling"
        reason = self._intake.over(self.course.due(now))
        return (self._interrupted or reason) if reason == "no_chunk" else reason

    def _note(self, reason: str) -> None:
        if reason and reason != self._hold:
            self.holds[reason] += 1
        if reason:
            for intake in self._intakes.values():
                intake.clear()
            self._interrupted = self._interrupted if self._hold else reason
        self._hold = reason
