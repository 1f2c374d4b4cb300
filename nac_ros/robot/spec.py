"""What is true of a robot, read from config/robots/<name>.yaml, and the face it shows a loop."""

from collections.abc import Iterable
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
    bounded,
    check_bounds,
    check_unique,
    config_dir,
    listed,
    named,
)
from nac_ros.core.errors import ConfigError, FieldError, UnknownName, show_text
from nac_ros.robot.geometry import BodySpec

Align = Literal["nearest", "hold", "interpolate"]  # which sample of a stream counts at a time
MAX_PATH = 4000  # characters; longer ones name no file
# what a bundle depends on
LEARNED = ("joint_names", "units", "action_rate_hz", "joint_states_align", "views")


MIN_RANGE = 1e-4  # rad or m between a joint's position limits
MIN_SPEED = 1e-4  # [rad/s or m/s] of a limit in a file
MAX_RAMP_S = 20.0  # to the velocity limit, and to the acceleration limit, of a plausible joint


@dataclass(frozen=True, kw_only=True)
class JointSpec:
    """One joint: name, unit, and limits in the unit, per s, s^2 and s^3.

    position: low and high in -1000 .. 1000 rad or m, at least MIN_RANGE apart
    velocity: 1e-5 .. 100; acceleration: 1e-6 .. 1e4; jerk: 1e-7 .. 1e7; in a file the velocity is
        at least MIN_SPEED, and each of the others so large that it reaches the one before it
        within MAX_RAMP_S
    home: within the position limits
    relative: whether codecs describe it relative to the measured state (grippers stay absolute)
    max_offset: how far the measured position may lie from the controller's set-point at rest, in
        the unit, such as by gravity: the arm is not started from farther off; 1e-5 .. 0.5
    """

    name: str = named(REQUIRED, JOINT_NAME)
    unit: Literal["rad", "m"]
    position: tuple[float, float] = bounded(REQUIRED, -1000.0, 1000.0, unit="rad or m")
    velocity: float = bounded(REQUIRED, 1e-5, 100.0, unit="rad/s or m/s")
    acceleration: float = bounded(REQUIRED, 1e-6, 1e4, unit="rad/s^2 or m/s^2")
    jerk: float = bounded(REQUIRED, 1e-7, 1e7, unit="rad/s^3 or m/s^3")
    home: float = bounded(REQUIRED, -1000.0, 1000.0, unit="rad or m")
    relative: bool = True
    max_offset: float = bounded(0.05, 1e-5, 0.5, unit="rad or m")

    def __post_init__(self) -> None:
        check_bounds(self)
        (low, high), owner = self.position, f"joint {self.name}"
        if not high - low >= MIN_RANGE:
            problem = f"must be [low, high] with low below high by {MIN_RANGE:g}, {low} .. {high}"
            raise FieldError(f"{problem} are empty", ("position",), owner=owner)
        if not low <= self.home <= high:
            problem = f"must be within the position limits, {self.home} is outside {low} .. {high}"
            raise FieldError(problem, ("home",), owner=owner)

    def check_plausible(self) -> None:
        """Raises FieldError for limits of a file that no joint has; planning uses shares of the
        limits that are in it."""
        if self.velocity < MIN_SPEED:
            problem = f"must be at least {MIN_SPEED:g} {self.unit}/s, got {self.velocity:g}"
            raise FieldError(problem, ("velocity",), owner=f"joint {self.name}")
        for what, below in (("acceleration", "velocity"), ("jerk", "acceleration")):
            limit, ramp_s = getattr(self, below), getattr(self, below) / getattr(self, what)
            if ramp_s > MAX_RAMP_S:
                problem = f"must be at least {limit / MAX_RAMP_S:g}, got {getattr(self, what):g}: "
                problem += f"the {below} limit would be reached after {ramp_s:.3g} s"
                raise FieldError(problem, (what,), owner=f"joint {self.name}")


@dataclass(frozen=True, kw_only=True)
class Intrinsics:
    """A pinhole camera [pixels] for pictures of the robot's size; distortion k1 k2 p1 p2 k3.

    fx, fy: 1 .. 1e5; cx, cy: -1e5 .. 1e5; distortion: each in -1000 .. 1000
    """

    fx: float = bounded(REQUIRED, 1.0, 1e5, unit="pixels")
    fy: float = bounded(REQUIRED, 1.0, 1e5, unit="pixels")
    cx: float = bounded(REQUIRED, -1e5, 1e5, unit="pixels")
    cy: float = bounded(REQUIRED, -1e5, 1e5, unit="pixels")
    distortion: tuple[float, float, float, float, float] = bounded((0.0,) * 5, -1e3, 1e3)

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """One camera: image size [pixels], rate [Hz], topic, and the age [s] that makes it stale.

    width, height: 1 .. 8192; rate_hz: 0.1 .. 1000; max_age_s: 0.005 .. 5
    align: which image counts at a time, the nearest one or the newest one before
    serial, device: which one it is among those plugged in; intrinsics: where it was calibrated
    transport: `jpeg` where listeners take the compressed topic
    """

    name: str = named(REQUIRED, ROS_NAME)
    width: int = bounded(REQUIRED, 1, 8192, unit="pixels")
    height: int = bounded(REQUIRED, 1, 8192, unit="pixels")
    rate_hz: float = bounded(REQUIRED, 0.1, 1000.0, unit="Hz")
    topic: str = named(REQUIRED, TOPIC)
    max_age_s: float = bounded(0.1, 0.005, 5.0, unit="s")
    align: Literal["nearest", "hold"] = "nearest"
    serial: str = named("", OPTION)
    device: str = named("", OPTION)
    intrinsics: Intrinsics | None = None
    transport: Literal["raw", "jpeg"] = "raw"

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def compressed_topic(self) -> str:
        """Of sensor_msgs/CompressedImage."""
        return f"{self.topic}/compressed"

    def beside(self, name: str) -> str:
        """The topic `name` next to the images, such as `scene/camera_info`."""
        return f"{self.topic.rpartition('/')[0]}/{name}".lstrip("/")


@dataclass(frozen=True, kw_only=True)
class ControllerGroup:
    """Joints that one ros2_control controller moves; kind `jtc` takes JointTrajectory.

    stamps: `clock` where the controller's clock is this machine's, so that jitter on the way
        changes nothing; `arrival` where it is not, and a trajectory begins when it comes
    """

    name: str = named(REQUIRED, LABEL)
    kind: Literal["jtc", "forward"]
    topic: str = named(REQUIRED, TOPIC)
    joints: tuple[str, ...] = named(REQUIRED, JOINT_NAME, 1, 64)
    stamps: Literal["clock", "arrival"] = "clock"

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class RobotSpec:
    """All facts of one robot; joints in the order of every action, state and chunk `[..., D]`.

    joints: 1 .. 64; cameras: at most 16; groups: at most 64
    action_rate_hz: 0.5 .. 1000, at most guard_rate_hz; guard_rate_hz: 10 .. 1000
    joint_states_max_age_s: 0.002 .. 2
    joint_states_align: which joint state counts at a time, or what lies between two
    body: without one the guard keeps to joint limits alone
    """

    name: str = named(REQUIRED, NAME)
    joints: tuple[JointSpec, ...] = listed(REQUIRED, 1, 64)
    cameras: tuple[CameraSpec, ...] = listed(REQUIRED, 0, 16)
    groups: tuple[ControllerGroup, ...] = listed(REQUIRED, 0, 64)
    joint_states_topic: str = named("joint_states", TOPIC)
    action_rate_hz: float = bounded(30.0, 0.5, 1000.0, unit="Hz")
    guard_rate_hz: float = bounded(100.0, 10.0, 1000.0, unit="Hz")
    joint_states_max_age_s: float = bounded(0.1, 0.002, 2.0, unit="s")
    joint_states_align: Align = "nearest"
    body: BodySpec | None = None

    def __post_init__(self) -> None:
        check_bounds(self)
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
        """Each topic is of one thing: two kinds of message on one topic reach nobody."""
        places: list[tuple[str, tuple]] = [(self.joint_states_topic, ("joint_states_topic",))]
        for field in ("cameras", "groups"):
            parts = getattr(self, field)
            places += [(part.topic, (field, i, "topic")) for i, part in enumerate(parts)]
        known: set[str] = set()
        for topic, path in places:
            if topic in known:
                raise FieldError(f"the topic '{topic}' is there twice; give each its own", path)
            known.add(topic)

    def _check_links(self) -> None:
        joints = {joint.name: joint for joint in self.joints}
        for index, link in enumerate(self.body.links if self.body else ()):
            path = ("body", "links", index)
            if link.joint not in joints:
                raise FieldError(
                    f"robot {self.name}: link '{link.joint}' is no joint of: {_listed(joints)}",
                    path,
                )
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

    @property
    def action_dim(self) -> int:
        """D."""
        return len(self.joints)

    @cached_property
    def position_low(self) -> np.ndarray:
        """Float64 `[D]`."""
        return np.array([joint.position[0] for joint in self.joints])

    @cached_property
    def position_high(self) -> np.ndarray:
        """Float64 `[D]`."""
        return np.array([joint.position[1] for joint in self.joints])

    @cached_property
    def velocity_limit(self) -> np.ndarray:
        """Float64 `[D]`, per second."""
        return np.array([joint.velocity for joint in self.joints])

    @cached_property
    def acceleration_limit(self) -> np.ndarray:
        """Float64 `[D]`, per second squared."""
        return np.array([joint.acceleration for joint in self.joints])

    @cached_property
    def jerk_limit(self) -> np.ndarray:
        """Float64 `[D]`, per second cubed."""
        return np.array([joint.jerk for joint in self.joints])

    @cached_property
    def max_offset(self) -> np.ndarray:
        """Float64 `[D]`."""
        return np.array([joint.max_offset for joint in self.joints])

    @cached_property
    def home(self) -> np.ndarray:
        """Float64 `[D]`."""
        return np.array([joint.home for joint in self.joints])

    @cached_property
    def relative_mask(self) -> np.ndarray:
        """Bool `[D]`: True where codecs work relative to the measured state."""
        return np.array([joint.relative for joint in self.joints])

    @cached_property
    def units(self) -> tuple[str, ...]:
        return tuple(joint.unit for joint in self.joints)

    @cached_property
    def views(self) -> tuple[tuple[object, ...], ...]:
        """What a model depends on of each camera; not which device it is, nor how it is sent."""
        return tuple(
            (c.name, c.width, c.height, c.rate_hz, c.topic, c.max_age_s, c.align)
            for c in self.cameras
        )

    def camera(self, name: str) -> CameraSpec:
        """Raises UnknownName with the cameras that exist."""
        for camera in self.cameras:
            if camera.name == name:
                return camera
        known = ", ".join(camera.name for camera in self.cameras)
        raise UnknownName(f"robot {self.name} has no camera '{name}'; it has: {known}")


def list_robots() -> list[str]:
    """Names of the robots in config/robots, without `.yaml`."""
    return sorted(path.stem for path in (config_dir() / "robots").glob("*.yaml"))


def current_spec_of(recorded: RobotSpec) -> RobotSpec:
    """`recorded` as config/robots describes it today, with what was learned of it since; as it is
    where that has no robot of its name with the same joints, units and rate."""
    if recorded.name not in list_robots():
        return recorded
    today = load_robot(recorded.name)
    same = all(getattr(today, w) == getattr(recorded, w) for w in LEARNED)
    return today if same else recorded


def load_robot(name_or_path: str | Path) -> RobotSpec:
    """The robot called so in config/robots, or described by the YAML file at that path.

    Raises UnknownName and ConfigError.
    """
    path = Path(name_or_path)
    if path.suffix != ".yaml":
        path = config_dir() / "robots" / f"{name_or_path}.yaml"
    if len(str(path)) > MAX_PATH or not path.is_file():
        shown, called = show_text(str(path), 300), show_text(str(name_or_path))
        missing = "" if path.stem == str(name_or_path) else f", there is no file {shown}"
        known = ", ".join(list_robots())
        raise UnknownName(f"unknown robot '{called}'{missing}; known are: {known}")
    spec = config.build(RobotSpec, config.load_yaml(path), path.name)
    if path.parent == config_dir() / "robots" and spec.name != path.stem:
        raise ConfigError(f"{path} names its robot '{spec.name}'; call it '{path.stem}'")
    return spec


def _listed(names: Iterable[str]) -> str:
    return show_text(", ".join(names) or "none", 400)
