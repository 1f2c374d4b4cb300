"""What is true of a robot, read from config/robots/<name>.yaml, and the face it shows a loop."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from nac_ros import config
from nac_ros.body import BodySpec
from nac_ros.chunk import Motion
from nac_ros.errors import ConfigError, UnknownName

Align = Literal["nearest", "hold", "interpolate"]  # which sample of a stream counts at a time
MAX_OFFSET = 0.5  # [rad or m] an arm that rests farther from its set-point does not follow it
# what a bundle depends on
LEARNED = ("joint_names", "units", "action_rate_hz", "joint_states_align", "views")


@dataclass(frozen=True, kw_only=True)
class JointSpec:
    """One joint: name, unit, and limits in the unit, per s, s^2 and s^3.

    relative: whether codecs describe it relative to the measured state (grippers stay absolute)
    max_offset: how far the measured position may lie from the controller's set-point at rest, in
        the unit, such as by gravity: the arm is not started from farther off
    """

    name: str
    unit: Literal["rad", "m"]
    position: tuple[float, float]
    velocity: float
    acceleration: float
    jerk: float
    home: float
    relative: bool = True
    max_offset: float = 0.05

    def __post_init__(self) -> None:
        low, high = self.position
        if not low < high:
            raise ConfigError(f"joint {self.name}: position limits {low} .. {high} are empty")
        if not low <= self.home <= high:
            raise ConfigError(f"joint {self.name}: home {self.home} is outside {low} .. {high}")
        for limit in ("velocity", "acceleration", "jerk"):
            if not 0 < getattr(self, limit) < np.inf:
                raise ConfigError(
                    f"joint {self.name}: {limit} must be above 0, got {getattr(self, limit)}"
                )
        if not 0 < self.max_offset <= MAX_OFFSET:
            raise ConfigError(
                f"joint {self.name}: max_offset must be above 0 and at most {MAX_OFFSET} "
                f"{self.unit}, got {self.max_offset}"
            )


@dataclass(frozen=True, kw_only=True)
class Intrinsics:
    """A pinhole camera [pixels] for pictures of the robot's size; distortion k1 k2 p1 p2 k3."""

    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if not (self.fx > 0 and self.fy > 0):
            raise ConfigError(f"intrinsics: fx and fy must be above 0, got {self.fx}, {self.fy}")


@dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """One camera: image size [pixels], rate [Hz], topic, and the age [s] that makes it stale.

    align: which image counts at a time, the nearest one or the newest one before
    serial, device: which one it is among those plugged in; intrinsics: where it was calibrated
    transport: `jpeg` where listeners take the compressed topic
    """

    name: str
    width: int
    height: int
    rate_hz: float
    topic: str
    max_age_s: float = 0.1
    align: Literal["nearest", "hold"] = "nearest"
    serial: str = ""
    device: str = ""
    intrinsics: Intrinsics | None = None
    transport: Literal["raw", "jpeg"] = "raw"

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

    name: str
    kind: Literal["jtc", "forward"]
    topic: str
    joints: tuple[str, ...]
    stamps: Literal["clock", "arrival"] = "clock"


@dataclass(frozen=True, kw_only=True)
class RobotSpec:
    """All facts of one robot; joints in the order of every action, state and chunk `[..., D]`.

    body: without one the guard keeps to joint limits alone
    joint_states_align: which joint state counts at a time, or what lies between two
    """

    name: str
    joints: tuple[JointSpec, ...]
    cameras: tuple[CameraSpec, ...]
    groups: tuple[ControllerGroup, ...]
    joint_states_topic: str = "joint_states"
    action_rate_hz: float = 30.0
    guard_rate_hz: float = 100.0
    joint_states_max_age_s: float = 0.1
    joint_states_align: Align = "nearest"
    body: BodySpec | None = None

    def __post_init__(self) -> None:
        for rate in ("action_rate_hz", "guard_rate_hz", "joint_states_max_age_s"):
            if not 0 < getattr(self, rate) < np.inf:
                raise ConfigError(
                    f"robot {self.name}: {rate} must be above 0, got {getattr(self, rate)}"
                )
        grouped = [joint for group in self.groups for joint in group.joints]
        if sorted(grouped) != sorted(self.joint_names):
            raise ConfigError(
                f"robot {self.name}: the groups move {grouped}, but the joints are "
                f"{list(self.joint_names)}; name each joint in exactly one group"
            )
        for link in self.body.links if self.body else ():
            if link.joint not in self.joint_names:
                known = ", ".join(self.joint_names)
                raise ConfigError(
                    f"robot {self.name}: link '{link.joint}' is no joint of: {known}"
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


class RobotIO(Protocol):
    """The face of an arm, real or simulated, to the one loop that drives both."""

    spec: RobotSpec

    def now(self) -> float:
        """The robot's clock [s]."""

    def read(self) -> "Reading":
        """The newest joint state and images."""

    def write(self, motion: Motion) -> None:
        """Sends what is commanded from now on; it replaces what was sent before."""

    def hold(self) -> None:
        """Stays at the last set-point."""


@dataclass(frozen=True)
class Reading:
    """Newest values: proprio float32 `[D]` at `stamp` [s]; camera -> (stamp, uint8 image)."""

    stamp: float
    proprio: np.ndarray
    images: dict[str, tuple[float, np.ndarray]]


def config_dir() -> Path:
    """config/ of the source tree, or share/nac_ros/config of an installed package."""
    root = Path(__file__).resolve().parent.parent
    places = [root / "config", *(p / "share/nac_ros/config" for p in root.parents)]
    for place in places:
        if (place / "robots").is_dir():
            return place
    raise ConfigError(f"no config/robots folder at {places[0]}; run `make setup` or install")


def list_robots() -> list[str]:
    """Names of the robots in config/robots, without `.yaml`."""
    return sorted(path.stem for path in (config_dir() / "robots").glob("*.yaml"))


def robot_of(recorded: RobotSpec) -> RobotSpec:
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
    if not path.is_file():
        missing = "" if path.stem == str(name_or_path) else f", there is no file {path}"
        known = ", ".join(list_robots())
        raise UnknownName(f"unknown robot '{name_or_path}'{missing}; known are: {known}")
    spec = config.build(RobotSpec, config.load_yaml(path), path.name)
    if path.parent == config_dir() / "robots" and spec.name != path.stem:
        raise ConfigError(f"{path} names its robot '{spec.name}'; call it '{path.stem}'")
    return spec
