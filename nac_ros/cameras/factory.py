"""Pictures scaled to the size that a robot's YAML promises, where that was asked for."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2

from nac_ros.cameras.camera import Camera, Clock, Frame
from nac_ros.cameras.file import FileCamera
from nac_ros.cameras.realsense import RealSenseCamera
from nac_ros.cameras.v4l2 import V4l2Camera
from nac_ros.core.config import bounded, check_bounds
from nac_ros.core.errors import ConfigError
from nac_ros.robot.spec import CameraSpec, Intrinsics


class ResizedCamera:
    """Another source's pictures at `width` x `height`, each axis by its own factor.

    Colours are averaged over areas; depths are picked, since a mean of two surfaces lies on none.
    """

    def __init__(self, source: Camera, given: tuple[int, int], wanted: tuple[int, int]):
        self._source, self._given, self._wanted = source, given, wanted
        self.name = source.name

    @property
    def rate_hz(self) -> float:
        """As the other one's."""
        return self._source.rate_hz

    @property
    def intrinsics(self) -> Intrinsics | None:
        """The other one's, for pictures of the new size."""
        old = self._source.intrinsics
        if old is None:
            return None
        x, y = (new / before for new, before in zip(self._wanted, self._given))
        half = 0.5  # a pixel's middle lies half a pixel from its border
        cx, cy = x * (old.cx + half) - half, y * (old.cy + half) - half
        return replace(old, fx=x * old.fx, fy=y * old.fy, cx=cx, cy=cy)

    def open(self) -> None:
        """Opens the other one."""
        self._source.open()

    def read(self, timeout_s: float) -> Frame | None:
        """The other one's next picture, scaled."""
        frame = self._source.read(timeout_s)
        if frame is None:
            return None
        image = cv2.resize(frame.image, self._wanted, interpolation=cv2.INTER_AREA)
        depth = frame.depth_mm
        if depth is not None:
            depth = cv2.resize(depth, self._wanted, interpolation=cv2.INTER_NEAREST)
        return replace(frame, image=image, depth_mm=depth)

    def close(self) -> None:
        """Closes the other one."""
        self._source.close()


@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """What pictures come from; what is empty or 0 is as the robot's YAML says.

    source: realsense, v4l2 or file
    serial: of a RealSense
    device: of a V4L2 camera: path or number
    path: of a video file, or of a folder of pictures
    loop: whether a file begins again after its end
    width, height: pixels that the device is asked for; pictures of another size than the robot's
        YAML says are scaled to that
    rate_hz: pictures per second that the device is asked for; 0 plays a video at its own rate
    depth: whether a RealSense gives depth as well, laid over the colours
    fourcc: format that a V4L2 camera is to send, such as MJPG or YUYV; its own when empty
    latency_s: least time from exposure to arrival, taken off stamps of the device's clock
    """

    source: Literal["realsense", "v4l2", "file"] = "realsense"
    serial: str = ""
    device: str = ""
    path: str = ""
    loop: bool = True
    width: int = bounded(0, 0, 16384)
    height: int = bounded(0, 0, 16384)
    rate_hz: float = bounded(0.0, 0.0, 1000.0)
    depth: bool = False
    fourcc: str = ""
    latency_s: float = bounded(0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        check_bounds(self)
        if (self.width == 0) != (self.height == 0):
            raise ConfigError(f"give width and height together, got {self.width}x{self.height}")
        if self.fourcc and len(self.fourcc) != 4:
            raise ConfigError(f"fourcc has four letters, such as MJPG, got '{self.fourcc}'")
        if self.source == "file" and not self.path:
            raise ConfigError("source is file: give the parameter path")
        if self.depth and self.source != "realsense":
            raise ConfigError(f"depth comes from a RealSense only, source is {self.source}")


def make_camera(config: CameraConfig, spec: CameraSpec, clock: Clock) -> Camera:
    """The source of `spec`'s pictures, not yet open; raises CameraError where it cannot be."""
    wanted = (spec.width, spec.height)
    asked = (config.width or spec.width, config.height or spec.height)
    made = MAKE[config.source](config, spec, asked, clock)
    return made if asked == wanted else ResizedCamera(made, asked, wanted)


def _realsense(
    config: CameraConfig, spec: CameraSpec, size: tuple[int, int], clock: Clock
) -> Camera:
    serial, rate_hz = config.serial or spec.serial, config.rate_hz or spec.rate_hz
    return RealSenseCamera(serial, size, rate_hz, clock, config.depth, config.latency_s)


def _v4l2(config: CameraConfig, spec: CameraSpec, size: tuple[int, int], clock: Clock) -> Camera:
    device, rate_hz = config.device or spec.device, config.rate_hz or spec.rate_hz
    if not device:
        raise ConfigError(
            f"camera {spec.name}: give `device` in the robot's YAML or as a parameter, such as "
            "/dev/video0"
        )
    return V4l2Camera(device, size, rate_hz, clock, config.fourcc, config.latency_s)


def _file(config: CameraConfig, spec: CameraSpec, size: tuple[int, int], clock: Clock) -> Camera:
    return FileCamera(Path(config.path), size, clock, config.rate_hz, config.loop)


MAKE: dict[str, Callable[[CameraConfig, CameraSpec, tuple[int, int], Clock], Camera]] = {
    "realsense": _realsense,
    "v4l2": _v4l2,
    "file": _file,
}
