"""Makes the camera that a CameraConfig describes, resized to the robot's YAML if requested."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2

from nac_ros.cameras.camera import Camera, Clock, Frame
from nac_ros.cameras.file import FileCamera
from nac_ros.cameras.realsense import RealSenseCamera
from nac_ros.cameras.v4l2 import V4l2Camera
from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError
from nac_ros.robot.spec import CameraSpec, Intrinsics


class ResizedCamera:
    """Resizes another camera's frames from `given` to `wanted`, (width, height), axis by axis.

    Colours are averaged over areas. Depth takes the nearest pixel, because the mean of two
    surfaces is on neither of them.
    """

    def __init__(self, camera: Camera, given: tuple[int, int], wanted: tuple[int, int]):
        self._camera, self._given, self._wanted = camera, given, wanted
        self.name = camera.name

    @property
    def rate_hz(self) -> float:
        """Frame rate of the camera."""
        return self._camera.rate_hz

    @property
    def intrinsics(self) -> Intrinsics | None:
        """Intrinsics for the new size."""
        old = self._camera.intrinsics
        if old is None:
            return None
        x, y = (wanted / given for wanted, given in zip(self._wanted, self._given))
        # a pixel's centre is half a pixel from its border
        cx, cy = x * (old.cx + 0.5) - 0.5, y * (old.cy + 0.5) - 0.5
        return replace(old, fx=x * old.fx, fy=y * old.fy, cx=cx, cy=cy)

    def open(self) -> None:
        """Opens the camera."""
        self._camera.open()

    def close(self) -> None:
        """Closes the camera."""
        self._camera.close()

    def read(self, timeout_s: float) -> Frame | None:
        """The camera's next frame, resized."""
        frame = self._camera.read(timeout_s)
        if frame is None:
            return None
        image = cv2.resize(frame.image, self._wanted, interpolation=cv2.INTER_AREA)
        depth = frame.depth_mm
        if depth is not None:
            depth = cv2.resize(depth, self._wanted, interpolation=cv2.INTER_NEAREST)
        return replace(frame, image=image, depth_mm=depth)


@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """Device or file, and its mode; empty or 0 means the value of the robot's YAML.

    source: realsense, v4l2 or file
    serial: of a RealSense
    device: path or number of a V4L2 camera
    path: of a video file, or of a folder of images
    loop: whether a file starts again after its end
    width, height: requested from the device; other sizes than the YAML's are resized to that
    rate_hz: requested from the device; 0 plays a video at its own rate
    depth: whether a RealSense also delivers depth, aligned to the colour image
    fourcc: format requested from a V4L2 camera, such as MJPG or YUYV; empty for its default
    latency_s: shortest time from exposure to arrival, subtracted from hardware stamps
    """

    source: Literal["realsense", "v4l2", "file"] = "realsense"
    serial: str = ""
    device: str = ""
    path: str = ""
    loop: bool = True
    width: int = number_field(0, 0, 16384)
    height: int = number_field(0, 0, 16384)
    rate_hz: float = number_field(0.0, 0.0, 1000.0)
    depth: bool = False
    fourcc: str = ""
    latency_s: float = number_field(0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.width == 0) != (self.height == 0):
            raise ConfigError(f"give width and height together, got {self.width}x{self.height}")
        if self.fourcc and len(self.fourcc) != 4:
            raise ConfigError(f"fourcc has four letters, such as MJPG, got '{self.fourcc}'")
        if self.source == "file" and not self.path:
            raise ConfigError("source is file: give the parameter path")
        if self.depth and self.source != "realsense":
            raise ConfigError(f"depth comes from a RealSense only, source is {self.source}")


def make_camera(config: CameraConfig, spec: CameraSpec, clock: Clock) -> Camera:
    """The camera for `spec`, not yet open; raises CameraError or ConfigError."""
    wanted = (spec.width, spec.height)
    given = (config.width or spec.width, config.height or spec.height)
    rate_hz, latency_s = config.rate_hz or spec.rate_hz, config.latency_s
    device = config.device or spec.device
    camera: Camera
    if config.source == "realsense":
        serial = config.serial or spec.serial
        camera = RealSenseCamera(serial, given, rate_hz, clock, config.depth, latency_s)
    elif config.source == "file":
        camera = FileCamera(Path(config.path), given, clock, config.rate_hz, config.loop)
    elif device:
        camera = V4l2Camera(device, given, rate_hz, clock, config.fourcc, latency_s)
    else:
        raise ConfigError(
            f"camera {spec.name}: give `device` in the robot's YAML or as a parameter, such as "
            "/dev/video0"
        )
    return camera if given == wanted else ResizedCamera(camera, given, wanted)
