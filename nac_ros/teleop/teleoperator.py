"""Teleoperator: turns messages of input devices into commands for the guard, tick by tick."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import BadInput
from nac_ros.core.types import ActionChunk
from nac_ros.robot.spec import RobotSpec
from nac_ros.teleop.clutch import ButtonDebouncer, Clutch, GuardStatus
from nac_ros.teleop.input_mapping import InputMapping, OperatorInput
from nac_ros.teleop.jog import Frame, JogController, JogMode
from nac_ros.teleop.leader_arm import LeaderArm, LeaderFollower
from nac_ros.teleop.servo_target import ServoTarget

N_POINTS = 3  # of a command: the guard follows it for 0.1 s at most
SETPOINT_MAX_AGE_S = 0.2  # the guard publishes set-points at its rate
MAX_STEP_S = 0.05  # a tick later than this moves nothing
LOCAL_ACTIONS = ("grip", "switch_jog", "switch_frame")  # handled here, not by a service
NO_INPUT = OperatorInput(np.zeros(6), np.zeros(0), 0.0, False, frozenset())


@dataclass(frozen=True, kw_only=True)
class TeleoperatorConfig:
    """Speeds, ramps and control modes of teleoperation; times in seconds.

    jog: what gamepad, SpaceMouse and keyboard jog: the tool, or single joints
    frame: axes of a tool velocity: those of the base or of the tool
    leader_mode: relative adds the leader's motion since the clutch was pressed; absolute moves
        slowly to the leader's position, then follows it
    mode_after_release: guard mode after the clutch is released: the previous one, or hold
    speed: share of the joints' velocity limits
    acceleration: share of the acceleration limits that is used for braking
    linear_speed: of the tool [m/s]
    angular_speed: of the tool [rad/s]
    approach_speed: share of `speed` until the robot has reached the leader
    ramp_s: from rest to full speed
    max_input_age_s: a device without a message for longer ends the takeover
    debounce_s: a release shorter than this is contact bounce
    """

    jog: JogMode = "tool"
    frame: Frame = "base"
    leader_mode: Literal["relative", "absolute"] = "relative"
    mode_after_release: Literal["previous", "hold"] = "previous"
    speed: float = number_field(0.5, 0.01, 1.0)
    acceleration: float = number_field(0.5, 0.05, 1.0)
    linear_speed: float = number_field(0.15, 0.001, 2.0)
    angular_speed: float = number_field(0.8, 0.01, 6.0)
    approach_speed: float = number_field(0.2, 0.02, 1.0)
    ramp_s: float = number_field(0.15, 0.01, 2.0)
    max_input_age_s: float = number_field(0.1, 0.02, 1.0)
    debounce_s: float = number_field(0.05, 0.0, 1.0)

    def __post_init__(self) -> None:
        check_fields(self)


class TeleopCommand(NamedTuple):
    """Result of a tick: chunk for the guard, guard mode to request or '', pressed actions."""

    chunk: ActionChunk | None
    mode: str
    actions: tuple[str, ...]


@dataclass
class ReceivedInputs:
    """Newest values of the devices, of the guard's set-point and of its status.

    leader, setpoint: positions `[D]`; setpoint_velocities: `[D]`
    times: device, or `arm` for the set-point -> time of its newest usable message [s]
    errors: device -> why its newest message was rejected
    actions: pressed since the last tick; gripper: direction of the last press of `grip`
    """

    leader: np.ndarray
    setpoint: np.ndarray
    setpoint_velocities: np.ndarray
    operator: OperatorInput = NO_INPUT
    guard: GuardStatus = field(default_factory=GuardStatus)
    times: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    actions: list[str] = field(default_factory=list)
    gripper: float = 0.0


class Teleoperator:
    """Teleoperation of one robot without ROS: `update_*` for each message, then `tick`.

    Every time is an argument in seconds.

    limited_by: limits that the last tick ran into; limited_ticks: number of ticks by limit
    rejections: number of rejected messages by device; last_rejection: reason of the newest
    """

    def __init__(self, spec: RobotSpec, config: TeleoperatorConfig, mapping: InputMapping):
        self.spec, self.config, self.mapping = spec, config, mapping
        speeds = (config.linear_speed, config.angular_speed, config.speed)
        self.jog = JogController(spec, config.jog, config.frame, speeds, config.ramp_s)
        self.leader = LeaderArm(spec, mapping.leader)
        absolute = self.leader.has_range | (config.leader_mode == "absolute")
        self._follower = LeaderFollower(spec, absolute, config.approach_speed)
        self.target = ServoTarget(spec, config.speed, config.acceleration)
        self.clutch = Clutch(config.mode_after_release)
        self.limited_ticks: Counter[str] = Counter()
        self.rejections: Counter[str] = Counter()
        self.last_rejection = ""
        self.reset()

    def reset(self) -> None:
        """Forgets all messages, as at activation."""
        home = self.spec.home
        self._inputs = ReceivedInputs(home, home, np.zeros(self.spec.action_dim))
        self._debouncer = ButtonDebouncer(self.config.debounce_s)
        self._last_tick = -np.inf
        self.limited_by: tuple[str, ...] = ()
        self.clutch.reset()

    def update_joy(self, now: float, axes: Sequence[float], buttons: Sequence[int]) -> None:
        """Stores a message of a gamepad, SpaceMouse or pedal, or the keys of a keyboard."""
        try:
            operator = self.mapping.read(axes, buttons)
        except BadInput as error:
            return self._reject("joy", error)
        self._inputs.operator = operator
        self._accept("joy", now)
        pressed = self._debouncer.update(now, operator.pressed, self.mapping.buttons)
        self._inputs.actions += [name for name in pressed if name not in LOCAL_ACTIONS]
        if "switch_jog" in pressed:
            self.jog.switch_mode()
        if "switch_frame" in pressed:
            self.jog.switch_frame()
        if "grip" in pressed:
            self._inputs.gripper = 1.0 if self._inputs.gripper < 0 else -1.0

    def update_leader(self, now: float, names: Sequence[str], positions: Sequence[float]) -> None:
        """Stores the joint state of a leader arm."""
        try:
            self._inputs.leader = self.leader.read(names, positions)
        except BadInput as error:
            return self._reject("leader", error)
        self._accept("leader", now)

    def update_setpoint(self, now: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Stores the guard's set-point, positions and velocities `[D]`."""
        self._inputs.setpoint, self._inputs.setpoint_velocities = positions, velocities
        self._inputs.times["arm"] = now

    def update_guard_status(self, status: GuardStatus) -> None:
        """Stores the guard's diagnostics."""
        self._inputs.guard = status

    @property
    def driving(self) -> bool:
        """Whether the arm follows the operator."""
        return self.clutch.confirmed

    @property
    def reason(self) -> str:
        """Why the arm does not follow although the clutch is held, or ''."""
        return self.clutch.reason

    def input_ages(self, now: float) -> dict[str, float | None]:
        """Seconds since the newest message of each device and the arm; None before the first."""
        times = self._inputs.times
        names = (*self._devices, "arm")
        return {name: now - times[name] if name in times else None for name in names}

    def tick(self, now: float, stamp: float) -> TeleopCommand:
        """The command at `now` [s], called periodically; stamp: the robot's clock [s].

        Each tick updates the clutch, which decides what is sent:

        clutch               | chunk
        engaged, unconfirmed | the servo target is placed where the arm comes to rest
        engaged, confirmed   | the servo target follows the operator
        just released        | the servo target stops: the last chunk sent
        any other            | none
        """
        step_s, self._last_tick = now - self._last_tick, now
        if MAX_STEP_S < step_s < np.inf:  # this process paused: first read the queued messages
            return TeleopCommand(None, "", ())
        was_engaged, inputs = self.clutch.engaged, self._inputs
        problem = self._input_problem(now)
        mode = self.clutch.update(now, inputs.operator.clutch, problem, inputs.guard)
        chunk = None
        if self.clutch.engaged:
            if not self.clutch.confirmed:
                self._start_from_arm()
            elif step_s > 0:
                self._follow_operator(min(step_s, MAX_STEP_S))
            chunk = self._chunk(stamp)
        elif was_engaged and mode:
            self.target.reset(self.target.positions, self.target.velocities)
            chunk = self._chunk(stamp)
        actions, inputs.actions = tuple(inputs.actions), []
        return TeleopCommand(chunk, mode, actions)

    def disengage(self) -> str:
        """Ends teleoperation; returns the guard mode to request, or ''."""
        return self.clutch.disengage()

    @property
    def _devices(self) -> tuple[str, ...]:
        return ("joy", "leader") if self.mapping.source == "leader" else ("joy",)

    def _input_problem(self, now: float) -> str:
        """Why the input cannot be used, or ''."""
        max_age, times = self.config.max_input_age_s, self._inputs.times
        for device in self._devices:
            error = self._inputs.errors.get(device)
            cause = f": {error}" if error else ""
            if device not in times:
                return f"no valid message on {device} yet{cause}"
            if not now - times[device] <= max_age:
                return f"no valid message on {device} for {max_age} s{cause}"
        if not now - times.get("arm", -np.inf) <= SETPOINT_MAX_AGE_S:
            return "no set-point on guard/command; is the guard active?"
        return ""

    def _start_from_arm(self) -> None:
        inputs = self._inputs
        self.target.reset(inputs.setpoint, inputs.setpoint_velocities)
        self.jog.reset()
        self._follower.start(self.target.positions, inputs.leader)
        inputs.gripper = 0.0

    def _follow_operator(self, dt: float) -> None:
        inputs = self._inputs
        if self.mapping.source == "leader":
            candidates = [self._follower.velocities(inputs.leader, self.target, dt)]
            limited_by = self.target.step(candidates, dt, inputs.setpoint)
        else:
            gripper = inputs.operator.gripper or inputs.gripper
            if gripper != inputs.gripper:  # the gripper's axis ends the motion started by `grip`
                inputs.gripper = 0.0
            operator = inputs.operator._replace(gripper=gripper)
            velocities = self.jog.candidate_velocities(operator, self.target, dt)
            limited_by = self.target.step(velocities, dt, inputs.setpoint) + self.jog.limited_by
        self.limited_by = limited_by
        self.limited_ticks.update(limited_by)

    def _chunk(self, stamp: float) -> ActionChunk:
        rate = self.spec.action_rate_hz
        actions = self.target.predict((np.arange(N_POINTS) + 1) / rate).astype(np.float32)
        return ActionChunk(stamp, rate, self.spec.joint_names, actions, np.empty(0, np.int64))

    def _accept(self, device: str, now: float) -> None:
        self._inputs.times[device] = now
        self._inputs.errors.pop(device, None)

    def _reject(self, device: str, error: BadInput) -> None:
        self._inputs.errors[device] = self.last_rejection = str(error)
        self.rejections[device] += 1
