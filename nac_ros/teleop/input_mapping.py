"""What a hand asks for: axes and buttons of a device, read as a YAML in config/teleop says."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from nac_ros.core import config
from nac_ros.core.config import JOINT_NAME, REQUIRED, bounded, check_bounds, config_dir, named
from nac_ros.core.errors import BadInput, ConfigError, UnknownName

DIRECTIONS = ("x", "y", "z", "roll", "pitch", "yaw")
GRIPPER = "gripper"
# Recorder and guard are told of the first five, the other three change how the hand is read.
ACTIONS = ("start", "success", "discard", "mark", "stop", "grip", "switch_jog", "switch_frame")


@dataclass(frozen=True, kw_only=True)
class AxisSpec:
    """What drives one direction, -1 for none.

    axis: index of an axis; scale: of its value, negative turns it round
    plus, minus: indices of buttons that drive it at full speed
    """

    axis: int = bounded(-1, -1, 999)
    scale: float = bounded(1.0, -10.0, 10.0)
    plus: int = bounded(-1, -1, 999)
    minus: int = bounded(-1, -1, 999)

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class KeySpec:
    """What a key stands for: an axis at `value`, or a button; -1 for none."""

    axis: int = bounded(-1, -1, 999)
    value: float = bounded(1.0, -1.0, 1.0)
    button: int = bounded(-1, -1, 999)

    def __post_init__(self) -> None:
        check_bounds(self)
        if (self.axis < 0) == (self.button < 0):
            raise ConfigError("a key drives either an axis or a button: name one of them")


@dataclass(frozen=True, kw_only=True)
class LeaderJoint:
    """Where a joint of the robot finds its own on the leader: at scale * leader + offset.

    name: of the leader's joint
    range: the leader's positions that stand for the robot's lower and upper limit, for grippers;
        scale and offset do not count then
    """

    name: str = named(REQUIRED, JOINT_NAME)
    scale: float = bounded(1.0, -100.0, 100.0)
    offset: float = bounded(0.0, -100.0, 100.0, unit="rad or m")
    range: tuple[float, float] | None = bounded(None, -100.0, 100.0, unit="rad or m")

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.range is not None and self.range[0] == self.range[1]:
            raise ConfigError(f"leader's joint {self.name}: the range {self.range} is empty")


class OperatorInput(NamedTuple):
    """What a hand asks for, as shares of full speed in -1 .. 1.

    twist `[6]`: x, y, z, roll, pitch, yaw; joints `[J]`: the arm's first J joints
    clutch: whether it is held; pressed: the actions whose buttons are down
    """

    twist: np.ndarray
    joints: np.ndarray
    gripper: float
    clutch: bool
    pressed: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class InputMapping:
    """How a device is read.

    source: joy for sensor_msgs/Joy; keyboard for a terminal; leader for a leader's joints, whose
        clutch and buttons come as Joy from a pedal or a gamepad
    clutch: the button without which nothing moves
    buttons: action -> button; axes: x .. yaw or gripper -> what drives it
    joints: what drives the arm's joints, in the robot's order, when joints are jogged
    dead_zone: share of an axis's way that counts as none
    expo: 0 = linear, 1 = cubic, for fine motion near the middle
    keys: key -> what it stands for; leader: joint -> the leader's, by default of the same name
    """

    source: Literal["joy", "keyboard", "leader"]
    clutch: int = bounded(0, 0, 999)
    buttons: dict[str, int] = field(default_factory=dict)
    axes: dict[str, AxisSpec] = field(default_factory=dict)
    joints: tuple[AxisSpec, ...] = ()
    dead_zone: float = bounded(0.1, 0.0, 0.9)
    expo: float = bounded(0.0, 0.0, 1.0)
    keys: dict[str, KeySpec] = field(default_factory=dict)
    leader: dict[str, LeaderJoint] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_bounds(self)
        _check_names("button", self.buttons, ACTIONS)
        _check_names("axis", self.axes, (*DIRECTIONS, GRIPPER))
        if min(self.buttons.values(), default=0) < 0:
            raise ConfigError(f"buttons are counted from 0, got {self.buttons}")
        if self.source == "keyboard" and not self.keys:
            raise ConfigError("a keyboard's mapping names no `keys`")

    @property
    def n_axes(self) -> int:
        """How many axes a message must have."""
        drives = [drive.axis for drive in (*self.axes.values(), *self.joints)]
        return 1 + max(*drives, *(key.axis for key in self.keys.values()), -1, -1)

    @property
    def n_buttons(self) -> int:
        """How many buttons a message must have."""
        drives = (*self.axes.values(), *self.joints)
        ways = [way for drive in drives for way in (drive.plus, drive.minus)]
        keys = [key.button for key in self.keys.values()]
        return 1 + max(self.clutch, *self.buttons.values(), *ways, *keys, -1)

    def read(self, axes: Sequence[float], buttons: Sequence[int]) -> OperatorInput:
        """Raises BadInput for fewer axes or buttons than are read, or for one that is no number.

        axes: in -1 .. 1; what lies beyond counts as the end
        """
        for found, wanted, what in (
            (len(axes), self.n_axes, "axes"),
            (len(buttons), self.n_buttons, "buttons"),
        ):
            if found < wanted:
                raise BadInput(
                    f"the message has {found} {what}, the mapping reads {wanted}; is it that of "
                    "another device?"
                )
        bent = np.asarray(axes, float)
        if not np.isfinite(bent).all():
            raise BadInput(f"axis {int(np.flatnonzero(~np.isfinite(bent))[0])} is not finite")
        bent = self._bend(bent)
        none = AxisSpec()
        twist = [_drive(self.axes.get(name, none), bent, buttons) for name in DIRECTIONS]
        joints = [_drive(drive, bent, buttons) for drive in self.joints]
        gripper = _drive(self.axes.get(GRIPPER, none), bent, buttons)
        pressed = frozenset(name for name, button in self.buttons.items() if buttons[button])
        clutch = bool(buttons[self.clutch])
        return OperatorInput(np.array(twist), np.array(joints), gripper, clutch, pressed)

    def _bend(self, axes: np.ndarray) -> np.ndarray:
        way = np.clip((np.abs(axes) - self.dead_zone) / (1 - self.dead_zone), 0, 1)
        return np.sign(axes) * ((1 - self.expo) * way + self.expo * way**3)


def load_input_mapping(name_or_path: str) -> InputMapping:
    """The mapping called so in config/teleop, or the YAML file at that path.

    Raises UnknownName and ConfigError.
    """
    path, folder = Path(name_or_path), config_dir() / "teleop"
    if path.suffix != ".yaml":
        path = folder / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise UnknownName(
            f"unknown mapping '{name_or_path}'; known are: {known}, or the path of a .yaml file"
        )
    return config.build(InputMapping, config.load_yaml(path), path.name)


def _check_names(what: str, found: dict, known: Sequence[str]) -> None:
    for name in found:
        if name not in known:
            raise ConfigError(f"there is no {what} for '{name}'; known are: {', '.join(known)}")


def _drive(drive: AxisSpec, axes: np.ndarray, buttons: Sequence[int]) -> float:
    value = axes[drive.axis] * drive.scale if drive.axis >= 0 else 0.0
    if drive.plus >= 0:
        value += bool(buttons[drive.plus])
    if drive.minus >= 0:
        value -= bool(buttons[drive.minus])
    return float(np.clip(value, -1, 1))
