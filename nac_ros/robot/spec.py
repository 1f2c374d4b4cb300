"""Robot description: joints, limits, cameras and controllers, from config/robots/<name>.yaml."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from nac_ros.core import config
from nac_ros.core.config import (
    JOINT_NAME,
    LABEL,
    NAME,
    OPTION,
    REQUIRED,
    ROS_NAME,
    TOPIC,
    check_fields,
    check_unique,
    number_field,
    sequence_field,
    text_field,
)
from nac_ros.core.errors import ConfigError, FieldError, UnknownName, show_text
from nac_ros.robot.geometry import BodySpec

# Sample of a stream that is used at a time: the nearest one, the newest one before (zero-order
# hold), or the linear interpolation of its neighbours.
Align = Literal["nearest", "hold", "interpolate"]
# Attributes of a robot that a policy depends on.
LEARNED = ("joint_names", "units", "action_rate_hz", "joint_states_align", "views")
MIN_RANGE = 1e-4  # [rad or m] between the position limits of a joint
MIN_SPEED = 1e-4  # [rad/s or m/s] of a velocity limit in a file
MAX_RAMP_S = 20.0  # longest plausible time to reach the velocity limit, or the acceleration limit


@dataclass(frozen=True, kw_only=True)
class JointSpec:
    """One joint: name, unit (rad or m) and limits.

    position: [low, high] in -1000 .. 1000, at least MIN_RANGE apart
    velocity: 1e-5 .. 100 [unit/s], in a file at least MIN_SPEED
    acceleration: 1e-6 .. 1e4 [unit/s^2], in a file enough to reach `velocity` within MAX_RAMP_S
    jerk: 1e-7 .. 1e7 [unit/s^3], in a file enough to reach `acceleration` within MAX_RAMP_S
    home: within the position limits
    relative: whether actions are relative to the measured state (those of grippers are absolute)
    max_offset: 1e-5 .. 0.5; an arm at rest whose measured position is farther than this from its
        controller's set-point, for example because of gravity, is not started
    """

    name: str = text_field(REQUIRED, JOINT_NAME)
    unit: Literal["rad", "m"]
    position: tuple[float, float] = number_field(REQUIRED, -1000.0, 1000.0, unit="rad or m")
    velocity: float = number_field(REQUIRED, 1e-5, 100.0, unit="rad/s or m/s")
    acceleration: float = number_field(REQUIRED, 1e-6, 1e4, unit="rad/s^2 or m/s^2")
    jerk: float = number_field(REQUIRED, 1e-7, 1e7, unit="rad/s^3 or m/s^3")
    home: float = number_field(REQUIRED, -1000.0, 1000.0, unit="rad or m")
    relative: bool = True
    max_offset: float = number_field(0.05, 1e-5, 0.5, unit="rad or m")

    def __post_init__(self) -> None:
        check_fields(self)
        (low, high), owner = self.position, f"joint {self.name}"
        if not high - low >= MIN_RANGE:
            problem = f"must be [low, high] with low at least {MIN_RANGE:g} below high, got "
            raise FieldError(f"{problem}{low} .. {high}", ("position",), owner=owner)
        if not low <= self.home <= high:
            problem = f"must be within the position limits, {self.home} is outside {low} .. {high}"
            raise FieldError(problem, ("home",), owner=owner)

    def check_plausible(self) -> None:
        """Raises FieldError for limits in a file that no real joint has. (Planning builds joints
        with lower limits than those in the file.)"""
        if self.velocity < MIN_SPEED:
            problem = f"must be at least {MIN_SPEED:g} {self.unit}/s, got {self.velocity:g}"
            raise FieldError(problem, ("velocity",), owner=f"joint {self.name}")
        for rate, limited in (("acceleration", "velocity"), ("jerk", "acceleration")):
            value, limit = getattr(self, rate), getattr(self, limited)
            if limit / value > MAX_RAMP_S:
                problem = f"must be at least {limit / MAX_RAMP_S:g}, got {value:g}: the "
                problem += f"{limited} limit would be reached after {limit / value:.3g} s"
                raise FieldError(problem, (rate,), owner=f"joint {self.name}")


@dataclass(frozen=True, kw_only=True)
class Intrinsics:
    """Pinhole camera model [pixels] for the image size in the spec; distortion k1 k2 p1 p2 k3.

    fx, fy: 1 .. 1e5; cx, cy: -1e5 .. 1e5; distortion: each in -1000 .. 1000
    """

    fx: float = number_field(REQUIRED, 1.0, 1e5, unit="pixels")
    fy: float = number_field(REQUIRED, 1.0, 1e5, unit="pixels")
    cx: float = number_field(REQUIRED, -1e5, 1e5, unit="pixels")
    cy: float = number_field(REQUIRED, -1e5, 1e5, unit="pixels")
    distortion: tuple[float, float, float, float, float] = number_field((0.0,) * 5, -1e3, 1e3)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """One camera: image size, rate and topic.

    width, height: 1 .. 8192 pixels; rate_hz: 0.1 .. 1000
    max_age_s: 0.005 .. 5, age at which an image is stale
    align: image that is used at a time, the nearest one or the newest one before
    serial, device: identify the camera among those that are plugged in
    intrinsics: of the calibration, if there was one
    transport: `jpeg` to subscribe to the compressed topic
    """

    name: str = text_field(REQUIRED, ROS_NAME)
    width: int = number_field(REQUIRED, 1, 8192, unit="pixels")
    height: int = number_field(REQUIRED, 1, 8192, unit="pixels")
    rate_hz: float = number_field(REQUIRED, 0.1, 1000.0, unit="Hz")
    topic: str = text_field(REQUIRED, TOPIC)
    max_age_s: float = number_field(0.1, 0.005, 5.0, unit="s")
    align: Literal["nearest", "hold"] = "nearest"
    serial: str = text_field("", OPTION)
    device: str = text_field("", OPTION)
    intrinsics: Intrinsics | None = None
    transport: Literal["raw", "jpeg"] = "raw"

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def compressed_topic(self) -> str:
        """Topic of the sensor_msgs/CompressedImage."""
        return f"{self.topic}/compressed"

    def sibling_topic(self, name: str) -> str:
        """The topic `name` in the namespace of the images, such as `scene/camera_info`."""
        return f"{self.topic.rpartition('/')[0]}/{name}".lstrip("/")


@dataclass(frozen=True, kw_only=True)
class ControllerGroup:
    """The joints of one ros2_control controller.

    kind: `jtc` for a JointTrajectoryController, `forward` for a forward_command_controller
    stamps: `clock` stamps trajectories with this machine's clock, so that transport delay does
        not change the motion; `arrival`, for a controller with another clock, starts a trajectory
        when it arrives
    """

    name: str = text_field(REQUIRED, LABEL)
    kind: Literal["jtc", "forward"]
    topic: str = text_field(REQUIRED, TOPIC)
    joints: tuple[str, ...] = text_field(REQUIRED, JOINT_NAME, 1, 64)
    stamps: Literal["clock", "arrival"] = "clock"

    def __post_init__(self) -> None:
        check_fields(self)


def _joint_values(value: Callable[[JointSpec], float]) -> "cached_property[np.ndarray]":
    """A property of RobotSpec: an array `[D]` with `value` of each joint, computed once."""
    return cached_property(lambda spec: np.array([value(joint) for joint in spec.joints]))


@dataclass(frozen=True, kw_only=True)
class RobotSpec:
    """One robot; the order of its joints is that of every action, state and chunk `[..., D]`.

    joints: 1 .. 64; cameras: at most 16; groups: at most 64, each joint in exactly one
    action_rate_hz: 0.5 .. 1000, at most guard_rate_hz; guard_rate_hz: 10 .. 1000
    joint_states_max_age_s: 0.002 .. 2, age at which a joint state is stale
    joint_states_align: joint state that is used at a time
    body: links and collision model; without it the guard checks joint limits only
    """

    name: str = text_field(REQUIRED, NAME)
    joints: tuple[JointSpec, ...] = sequence_field(REQUIRED, 1, 64)
    cameras: tuple[CameraSpec, ...] = sequence_field(REQUIRED, 0, 16)
    groups: tuple[ControllerGroup, ...] = sequence_field(REQUIRED, 0, 64)
    joint_states_topic: str = text_field("joint_states", TOPIC)
    action_rate_hz: float = number_field(30.0, 0.5, 1000.0, unit="Hz")
    guard_rate_hz: float = number_field(100.0, 10.0, 1000.0, unit="Hz")
    joint_states_max_age_s: float = number_field(0.1, 0.002, 2.0, unit="s")
    joint_states_align: Align = "nearest"
    body: BodySpec | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.action_rate_hz > self.guard_rate_hz:
            problem = f"must be at most guard_rate_hz, {self.guard_rate_hz:g} Hz, got "
            raise FieldError(f"{problem}{self.action_rate_hz:g}", ("action_rate_hz",))
        check_unique("joints", self.joint_names)
        check_unique("cameras", [camera.name for camera in self.cameras])
        grouped = [joint for group in self.groups for joint in group.joints]
        if sorted(grouped) != sorted(self.joint_names):
            raise FieldError(
                f"the groups of robot {self.name} move {_listed(grouped)}, but the joints are "
                f"{_listed(self.joint_names)}; name each joint in exactly one group",
                ("groups",),
            )
        check_unique("groups", [group.name for group in self.groups])
        self._check_topics()
        self._check_links()

    def _check_topics(self) -> None:
        """ROS delivers no messages on a topic with two message types."""
        topics: list[tuple[str, tuple]] = [(self.joint_states_topic, ("joint_states_topic",))]
        for field in ("cameras", "groups"):
            parts = getattr(self, field)
            topics += [(part.topic, (field, i, "topic")) for i, part in enumerate(parts)]
        known: set[str] = set()
        for topic, path in topics:
            if topic in known:
                raise FieldError(f"the topic '{topic}' is used twice; name another one", path)
            known.add(topic)

    def _check_links(self) -> None:
        joints = {joint.name: joint for joint in self.joints}
        for index, link in enumerate(self.body.links if self.body else ()):
            path = ("body", "links", index)
            if link.joint not in joints:
                known = _listed(joints)
                text = f"robot {self.name} has no joint '{link.joint}' for a link; it has: {known}"
                raise FieldError(text, path)
            unit = "rad" if link.kind == "revolute" else "m"
            if joints[link.joint].unit != unit:
                raise FieldError(
                    f"a {link.kind} link has a joint in {unit}, but joint {link.joint} is in "
                    f"{joints[link.joint].unit}; change its kind or the joint's unit",
                    (*path, "kind"),
                )

    @cached_property
    def joint_names(self) -> tuple[str, ...]:
        return tuple(joint.name for joint in self.joints)

    @cached_property
    def units(self) -> tuple[str, ...]:
        return tuple(joint.unit for joint in self.joints)

    @property
    def action_dim(self) -> int:
        """D."""
        return len(self.joints)

    # float64 `[D]`, in the units of the joints
    position_low = _joint_values(lambda joint: joint.position[0])
    position_high = _joint_values(lambda joint: joint.position[1])
    velocity_limit = _joint_values(lambda joint: joint.velocity)
    acceleration_limit = _joint_values(lambda joint: joint.acceleration)
    jerk_limit = _joint_values(lambda joint: joint.jerk)
    max_offset = _joint_values(lambda joint: joint.max_offset)
    home = _joint_values(lambda joint: joint.home)
    # bool `[D]`: True for joints whose actions are relative, False for grippers
    relative_mask = _joint_values(lambda joint: joint.relative)

    @cached_property
    def views(self) -> tuple[tuple[object, ...], ...]:
        """The attributes of each camera that a policy depends on."""
        return tuple(
            (c.name, c.width, c.height, c.rate_hz, c.topic, c.max_age_s, c.align)
            for c in self.cameras
        )

    def camera(self, name: str) -> CameraSpec:
        """The camera of that name; raises UnknownName with the known ones."""
        for camera in self.cameras:
            if camera.name == name:
                return camera
        known = ", ".join(camera.name for camera in self.cameras)
        raise UnknownName(f"robot {self.name} has no camera '{name}'; it has: {known}")


def list_robots() -> list[str]:
    """Names of the robots in config/robots, without `.yaml`."""
    return config.list_names("robots")


def current_spec_of(recorded: RobotSpec) -> RobotSpec:
    """The robot of that name in config/robots, which may have been changed since it was recorded;
    `recorded` itself if there is none with the same LEARNED attributes."""
    if recorded.name not in list_robots():
        return recorded
    current = load_robot(recorded.name)
    same = all(getattr(current, name) == getattr(recorded, name) for name in LEARNED)
    return current if same else recorded


def load_robot(name_or_path: str | Path) -> RobotSpec:
    """The robot of that name in config/robots, or the one in the YAML file at that path.

    Raises UnknownName and ConfigError.
    """
    spec = config.load_named("robots", name_or_path, RobotSpec, "robot")
    path, name = Path(name_or_path), Path(name_or_path).name.removesuffix(".yaml")
    is_installed = path.suffix != ".yaml" or path.parent == config.config_dir() / "robots"
    if is_installed and spec.name != name:
        raise ConfigError(f"{name}.yaml has the robot name '{spec.name}'; change it to '{name}'")
    return spec


def _listed(names: Iterable[str]) -> str:
    return show_text(", ".join(names) or "none", 400)
