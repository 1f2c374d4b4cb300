"""Teleoperation without ROS: what a hand sends becomes commands for the guard, tick by tick."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from nac_ros.core.config import bounded, check_bounds
from nac_ros.core.errors import BadInput
from nac_ros.core.types import ActionChunk
from nac_ros.robot.spec import RobotSpec
from nac_ros.teleop.clutch import ButtonDebouncer, Clutch, GuardStatus
from nac_ros.teleop.input_mapping import InputMapping, OperatorInput
from nac_ros.teleop.jog import Frame, JogController, JogMode
from nac_ros.teleop.leader_arm import LeaderArm
from nac_ros.teleop.servo_target import ServoTarget

N_POINTS = 3  # of a command: the guard follows it for 0.1 s at most
ARM_MAX_AGE_S = 0.2  # set-points come at the guard's rate
MAX_STEP_S = 0.05  # a tick that comes later than this moves nothing
NEAR_S = 0.05  # the leader is met where full speed would get in this time
OWN = ("grip", "switch_jog", "switch_frame")  # actions that nobody else is told of


@dataclass(frozen=True, kw_only=True)
class TeleoperatorConfig:
    """How a hand leads the arm; times in seconds.

    jog: what gamepad, SpaceMouse and keyboard lead: the tool, or joint by joint
    frame: along whose axes the tool is led: the base's, or its own
    leader_mode: relative adds the leader's way since the clutch was pressed; absolute goes slowly to
        where the leader is, then follows
    mode_after_release: whom the arm is given when the clutch is let go: whoever had it, or nobody
    speed: share of the joints' velocity limits
    acceleration: share of the acceleration limits with which a target comes to rest
    linear_speed: of the tool [m/s]
    angular_speed: of the tool [rad/s]
    approach_speed: share of `speed` until leader and arm have met
    ramp_s: from rest to full speed
    max_input_age_s: a device silent for longer has lost the arm
    debounce_s: a button that was released for less was not
    """

    jog: JogMode = "tool"
    frame: Frame = "base"
    leader_mode: Literal["relative", "absolute"] = "relative"
    mode_after_release: Literal["previous", "hold"] = "previous"
    speed: float = bounded(0.5, 0.01, 1.0)
    acceleration: float = bounded(0.5, 0.05, 1.0)
    linear_speed: float = bounded(0.15, 0.001, 2.0)
    angular_speed: float = bounded(0.8, 0.01, 6.0)
    approach_speed: float = bounded(0.2, 0.02, 1.0)
    ramp_s: float = bounded(0.15, 0.01, 2.0)
    max_input_age_s: float = bounded(0.1, 0.02, 1.0)
    debounce_s: float = bounded(0.05, 0.0, 1.0)

    def __post_init__(self) -> None:
        check_bounds(self)


class TeleopCommand(NamedTuple):
    """What one tick asks for: a command for the guard, its mode or '', actions of buttons."""

    chunk: ActionChunk | None
    mode: str
    actions: tuple[str, ...]


class Teleoperator:
    """Hears devices, arm and guard; says what to command. All times are told, in seconds.

    limited_ticks: how many ticks were held back, by what; rejections: how many messages, by device
    last_rejection: why the newest of those could not be used
    """

    def __init__(self, spec: RobotSpec, config: TeleoperatorConfig, hand: InputMapping):
        self.spec, self.config, self.mapping = spec, config, hand
        self.jog = JogController(spec, config.jog, config.frame, _speeds(config), config.ramp_s)
        self.leader = LeaderArm(spec, hand.leader)
        follows = config.leader_mode == "absolute"
        self._absolute = self.leader.has_range | follows  # [D]: stands where the leader's stands
        self.target = ServoTarget(spec, config.speed, config.acceleration)
        self.clutch = Clutch(config.mode_after_release)
        self.limited_ticks: Counter[str] = Counter()
        self.rejections: Counter[str] = Counter()
        self.last_rejection = ""
        self.reset()

    def reset(self) -> None:
        """Forgets every device, as when the node is activated."""
        none = OperatorInput(np.zeros(6), np.zeros(0), 0.0, False, frozenset())
        self._heard: dict[str, float] = {}  # device -> when it was heard last [s]
        self._refused: dict[str, str] = {}  # device -> why what it sends now cannot be used
        self._wish, self._led = none, self.spec.home
        self._arm = (self.spec.home, np.zeros(self.spec.action_dim))
        self._guard = GuardStatus()
        self._presses = ButtonDebouncer(self.config.debounce_s)
        self._actions: list[str] = []
        self._last, self._grip = -np.inf, 0.0
        self._began = (self.spec.home, self.spec.home)  # arm and leader as the arm took over
        self._met = ~self._absolute  # [D]: joints that need not look for the leader's
        self.limited_by: tuple[str, ...] = ()
        self.clutch.reset()

    def update_joy(self, now: float, axes: Sequence[float], buttons: Sequence[int]) -> None:
        """A message of a gamepad, a SpaceMouse, a pedal, or the keyboard's keys."""
        try:
            self._wish = self.mapping.read(axes, buttons)
        except BadInput as error:
            return self._reject("joy", error)
        self._note("joy", now)
        new = self._presses.update(now, self._wish.pressed, self.mapping.buttons)
        self._actions += [name for name in new if name not in OWN]
        self._change(new)

    def update_leader(self, now: float, names: Sequence[str], positions: Sequence[float]) -> None:
        """A leader's joint states."""
        try:
            self._led = self.leader.read(names, positions)
        except BadInput as error:
            return self._reject("leader", error)
        self._note("leader", now)

    def update_setpoint(self, now: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        """The guard's newest set-point `[D]`."""
        self._heard["arm"], self._arm = now, (positions, velocities)

    def update_guard_status(self, word: GuardStatus) -> None:
        """What the guard says of itself."""
        self._guard = word

    @property
    def driving(self) -> bool:
        """Whether the arm follows the hand."""
        return self.clutch.engaged and self.clutch.confirmed

    @property
    def reason(self) -> str:
        """Why nothing moves though it might, or ''."""
        return self.clutch.reason

    def input_ages(self, now: float) -> dict[str, float | None]:
        """Seconds since each device, and the arm, was heard; None for what never was."""
        devices = (*self._devices, "arm")
        return {name: now - self._heard[name] if name in self._heard else None for name in devices}

    def tick(self, now: float, stamp: float) -> TeleopCommand:
        """What to ask for at `now` [s]; commands are stamped `stamp` [s], on the robot's clock."""
        step_s, self._last = now - self._last, now
        if MAX_STEP_S < step_s < np.inf:  # it was this process that paused: hear the others first
            return TeleopCommand(None, "", ())
        driving = self.clutch.engaged
        doubt = self._doubt(now)
        mode = self.clutch.update(now, self._wish.clutch, doubt, self._guard)
        actions, self._actions = tuple(self._actions), []
        command = None
        if self.clutch.engaged:
            command = self._lead_arm(min(step_s, MAX_STEP_S), stamp)
        elif driving and mode:  # let go by the hand: the last word is a stop
            self.target.reset(self.target.positions, self.target.velocities)
            command = self._command(stamp)
        return TeleopCommand(command, mode, actions)

    def disengage(self) -> str:
        """The mode to ask for when teleoperation ends altogether, or ''."""
        return self.clutch.disengage()

    @property
    def _devices(self) -> tuple[str, ...]:
        return ("joy", "leader") if self.mapping.source == "leader" else ("joy",)

    def _doubt(self, now: float) -> str:
        for device in self._devices:
            if device not in self._heard:
                refused = f": {self._refused[device]}" if device in self._refused else ""
                return f"nothing usable came on {device} yet{refused}"
            if not now - self._heard[device] <= self.config.max_input_age_s:
                refused = f": {self._refused[device]}" if device in self._refused else ""
                return f"{device} fell silent for {self.config.max_input_age_s} s{refused}"
        if not now - self._heard.get("arm", -np.inf) <= ARM_MAX_AGE_S:
            return "no set-point comes on guard/command; is the guard active?"
        return ""

    def _lead_arm(self, step_s: float, stamp: float) -> ActionChunk:
        if not self.clutch.confirmed:
            self.target.reset(*self._arm)
            self.jog.reset()
            self._began, self._grip = (self.target.positions, self._led), 0.0
            self._met = ~self._absolute
        elif step_s > 0:
            self._move(step_s)
        return self._command(stamp)

    def _move(self, dt: float) -> None:
        if self.mapping.source == "leader":
            held = self.target.step([self._followed(dt)], dt, self._arm[0])
        else:
            gripper = self._wish.gripper or self._grip
            self._grip = self._grip if gripper == self._grip else 0.0
            choices = self.jog.candidate_velocities(self._wish._replace(gripper=gripper), self.target, dt)
            held = self.target.step(choices, dt, self._arm[0]) + self.jog.limited_by
        self.limited_by = held
        self.limited_ticks.update(held)

    def _followed(self, dt: float) -> np.ndarray:
        """Velocities `[D]` towards where the leader asks the arm to be."""
        spec, here = self.spec, self.target.positions
        start, began = self._began
        wanted = np.where(self._absolute, self._led, start + self._led - began)
        wanted = np.clip(wanted, spec.position_low, spec.position_high)
        near = np.abs(wanted - here) <= NEAR_S * spec.velocity_limit
        arm = spec.relative_mask
        self._met = self._met | near & (~arm | (near | self._met)[arm].all())
        speed = np.where(self._met, 1.0, self.config.approach_speed)
        return self.target.velocities_towards(wanted, dt, speed)

    def _command(self, stamp: float) -> ActionChunk:
        rate = self.spec.action_rate_hz
        rows = self.target.predict((np.arange(N_POINTS) + 1) / rate).astype(np.float32)
        return ActionChunk(stamp, rate, self.spec.joint_names, rows, np.empty(0, np.int64))

    def _change(self, pressed: Sequence[str]) -> None:
        if "switch_jog" in pressed:
            self.jog.switch_mode()
        if "switch_frame" in pressed:
            self.jog.switch_frame()
        if "grip" in pressed:
            self._grip = 1.0 if self._grip < 0 else -1.0

    def _note(self, device: str, now: float) -> None:
        self._heard[device] = now
        self._refused.pop(device, None)

    def _reject(self, device: str, error: BadInput) -> None:
        self._refused[device] = str(error)
        self.rejections[device] += 1
        self.last_rejection = str(error)


def _speeds(config: TeleoperatorConfig) -> tuple[float, float, float]:
    return config.linear_speed, config.angular_speed, config.speed
