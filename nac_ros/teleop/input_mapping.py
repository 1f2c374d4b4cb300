"""Input mapping: which axes and buttons of a device move what (YAML in config/teleop)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from nac_ros.core import config
from nac_ros.core.config import (
    JOINT_NAME,
    REQUIRED,
    check_fields,
    number_field,
    text_field,
)
from nac_ros.core.errors import BadInput, ConfigError

DIRECTIONS = ("x", "y", "z", "roll", "pitch", "yaw")
GRIPPER = "gripper"
# The first five call services of the recorder and the guard; the last three change the jogging.
ACTIONS = ("start", "success", "discard", "mark", "stop", "grip", "switch_jog", "switch_frame")


@dataclass(frozen=True, kw_only=True)
class AxisSpec:
    """Axis and buttons that drive one direction, -1 for none.

    axis: index of an axis; scale: factor on its value, negative to reverse it
    plus, minus: indices of buttons that drive the direction at full speed
    """

    axis: int = number_field(-1, -1, 999)
    scale: float = number_field(1.0, -10.0, 10.0)
    plus: int = number_field(-1, -1, 999)
    minus: int = number_field(-1, -1, 999)

    def __post_init__(self) -> None:
        check_fields(self)

    def read(self, axes: np.ndarray, buttons: Sequence[int]) -> float:
        """Speed in -1 .. 1."""
        value = axes[self.axis] * self.scale if self.axis >= 0 else 0.0
        if self.plus >= 0:
            value += bool(buttons[self.plus])
        if self.minus >= 0:
            value -= bool(buttons[self.minus])
        return float(np.clip(value, -1, 1))


UNUSED = AxisSpec()


@dataclass(frozen=True, kw_only=True)
class KeySpec:
    """The axis that a key sets to `value`, or the button that it presses; -1 for none."""

    axis: int = number_field(-1, -1, 999)
    value: float = number_field(1.0, -1.0, 1.0)
    button: int = number_field(-1, -1, 999)

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.axis < 0) == (self.button < 0):
            raise ConfigError("a key needs either `axis` or `button`, not both")


@dataclass(frozen=True, kw_only=True)
class LeaderJoint:
    """The leader's joint that a joint of the robot follows, at scale * leader + offset.

    name: of the leader's joint
    range: leader positions that correspond to the robot's lower and upper limit, for grippers;
        replaces scale and offset
    """

    name: str = text_field(REQUIRED, JOINT_NAME)
    scale: float = number_field(1.0, -100.0, 100.0)
    offset: float = number_field(0.0, -100.0, 100.0, unit="rad or m")
    range: tuple[float, float] | None = number_field(None, -100.0, 100.0, unit="rad or m")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.range is not None and self.range[0] == self.range[1]:
            raise ConfigError(f"leader's joint {self.name}: the range {self.range} is empty")


class OperatorInput(NamedTuple):
    """State of an input device; speeds are shares of full speed in -1 .. 1.

    twist `[6]`: x, y, z, roll, pitch, yaw; joints `[J]`: the arm's first J joints
    clutch: whether it is held; pressed: actions whose buttons are down
    """

    twist: np.ndarray
    joints: np.ndarray
    gripper: float
    clutch: bool
    pressed: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class InputMapping:
    """Meaning of a device's axes and buttons.

    source: joy for sensor_msgs/Joy; keyboard for a terminal; leader for a leader arm's joint
        states, with clutch and buttons as Joy messages of a pedal or a gamepad
    clutch: button that must be held for any motion
    buttons: action -> button; axes: x .. yaw or gripper -> axis or buttons
    joints: axes or buttons of the arm's joints, in the robot's order, for joint jogging
    dead_zone: share of an axis's range that reads as 0
    expo: 0 = linear, 1 = cubic, which is finer near the centre
    keys: key -> axis or button; leader: joint -> leader's joint, default: the same name
    """

    source: Literal["joy", "keyboard", "leader"]
    clutch: int = number_field(0, 0, 999)
    buttons: dict[str, int] = field(default_factory=dict)
    axes: dict[str, AxisSpec] = field(default_factory=dict)
    joints: tuple[AxisSpec, ...] = ()
    dead_zone: float = number_field(0.1, 0.0, 0.9)
    expo: float = number_field(0.0, 0.0, 1.0)
    keys: dict[str, KeySpec] = field(default_factory=dict)
    leader: dict[str, LeaderJoint] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        _check_names("button", self.buttons, ACTIONS)
        _check_names("axis", self.axes, (*DIRECTIONS, GRIPPER))
        if min(self.buttons.values(), default=0) < 0:
            raise ConfigError(f"buttons are counted from 0, got {self.buttons}")
        if self.source == "keyboard" and not self.keys:
            raise ConfigError("a keyboard's mapping names no `keys`")

    @property
    def n_axes(self) -> int:
        """Number of axes that a message must have."""
        specs = [spec.axis for spec in (*self.axes.values(), *self.joints)]
        return 1 + max([*specs, *(key.axis for key in self.keys.values())], default=-1)

    @property
    def n_buttons(self) -> int:
        """Number of buttons that a message must have."""
        specs = (*self.axes.values(), *self.joints)
        of_axes = [button for spec in specs for button in (spec.plus, spec.minus)]
        of_keys = [key.button for key in self.keys.values()]
        return 1 + max(self.clutch, *self.buttons.values(), *of_axes, *of_keys, -1)

    def read(self, axes: Sequence[float], buttons: Sequence[int]) -> OperatorInput:
        """Operator input from a message; axes are clipped to -1 .. 1.

        Raises BadInput if axes or buttons are missing or an axis is not finite.
        """
        _check_count("axes", len(axes), self.n_axes)
        _check_count("buttons", len(buttons), self.n_buttons)
        values = np.asarray(axes, float)
        if not np.isfinite(values).all():
            raise BadInput(f"axis {int(np.flatnonzero(~np.isfinite(values))[0])} is not finite")
        values = self._shape(values)
        twist = [self.axes.get(name, UNUSED).read(values, buttons) for name in DIRECTIONS]
        joints = [spec.read(values, buttons) for spec in self.joints]
        gripper = self.axes.get(GRIPPER, UNUSED).read(values, buttons)
        pressed = frozenset(name for name, button in self.buttons.items() if buttons[button])
        clutch = bool(buttons[self.clutch])
        return OperatorInput(np.array(twist), np.array(joints), gripper, clutch, pressed)

    def _shape(self, axes: np.ndarray) -> np.ndarray:
        """Applies the dead zone, then blends a linear and a cubic curve."""
        size = np.clip((np.abs(axes) - self.dead_zone) / (1 - self.dead_zone), 0, 1)
        return np.sign(axes) * ((1 - self.expo) * size + self.expo * size**3)


def load_input_mapping(name_or_path: str) -> InputMapping:
    """The mapping of that name in config/teleop, or the YAML file at that path.

    Raises UnknownName and ConfigError.
    """
    return config.load_named("teleop", name_or_path, InputMapping, "mapping")


def _check_names(what: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no {what} for '{name}'; known are: {', '.join(known)}")


def _check_count(what: str, count: int, wanted: int) -> None:
    if count < wanted:
        raise BadInput(
            f"the message has {count} {what}, the mapping reads {wanted}; is it the "
            "mapping of another device?"
        )
