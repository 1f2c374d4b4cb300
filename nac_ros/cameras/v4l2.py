"""V4L2 camera: any camera of the kernel's video interface, through OpenCV."""

import os
from pathlib import Path

import cv2
import numpy as np

from nac_ros.cameras.camera import ArrivalTime, Clock, Frame, check_size, size_error
from nac_ros.cameras.clock_sync import DeviceClock
from nac_ros.core.errors import CameraError
from nac_ros.robot.spec import Intrinsics


class V4l2Camera:
    """The camera at `device`: a path, or the number in /dev/video<number>.

    size: (width, height) [pixels]; fourcc: requested format, such as MJPG; '' = its default
    """

    intrinsics: Intrinsics | None = None

    def __init__(
        self,
        device: str,
        size: tuple[int, int],
        rate_hz: float,
        clock: Clock,
        fourcc: str = "",
        latency_s: float = 0.0,
    ):
        self._path = Path(f"/dev/video{device}" if device.isdigit() else device)
        self.name, self.rate_hz = f"camera {self._path}", rate_hz
        self._size, self._clock, self._fourcc = size, clock, fourcc
        self._device_clock = DeviceClock(latency_s)
        self._video: cv2.VideoCapture | None = None

    def open(self) -> None:
        """Starts streaming; raises CameraError if it is absent, not permitted, in use, or lacks
        the size."""
        _check_access(self._path)
        self._device_clock.reset()
        self._last_stamp = 0.0
        self._video = video = cv2.VideoCapture(str(self._path.resolve()), cv2.CAP_V4L2)
        if not video.isOpened():
            raise CameraError(
                f"{self.name} cannot be opened; is it a camera that no other program uses?"
            )
        if self._fourcc:
            video.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*self._fourcc))
        video.set(cv2.CAP_PROP_FRAME_WIDTH, self._size[0])
        video.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size[1])
        video.set(cv2.CAP_PROP_FPS, self.rate_hz)
        video.set(cv2.CAP_PROP_BUFFERSIZE, 2)  # frames that wait longer are old
        self._check_format(video)

    def read(self, timeout_s: float) -> Frame | None:
        """The next frame; OpenCV ignores the timeout and waits as long as its driver does."""
        assert self._video is not None
        received, bgr = self._video.read()
        arrival = ArrivalTime.now(self._clock)
        if not received:
            _check_access(self._path)
            raise CameraError(f"{self.name} delivered no image; it will be reopened")
        image = to_rgb(bgr, self.name, self._size)
        device_s = 1e-3 * self._video.get(cv2.CAP_PROP_POS_MSEC)
        if device_s <= 0:
            return Frame(image, arrival.wall, "receipt")
        if device_s == self._last_stamp:  # the driver delivered a buffer twice
            return None
        self._last_stamp = device_s
        return Frame(image, self._device_clock.to_host_time(device_s, arrival), "hardware")

    def close(self) -> None:
        """Releases the device."""
        if self._video is not None:
            self._video.release()
            self._video = None

    def _check_format(self, video: cv2.VideoCapture) -> None:
        sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        size = tuple(int(video.get(side)) for side in sides)
        if size != self._size:
            raise size_error(self.name, size, self._size)
        code = int(video.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("latin1")
        if self._fourcc and code != self._fourcc:
            raise CameraError(
                f"{self.name} delivers {code} instead of {self._fourcc}; leave the parameter "
                "fourcc empty, or see `v4l2-ctl --list-formats-ext`"
            )


def to_rgb(bgr: np.ndarray, name: str, size: tuple[int, int]) -> np.ndarray:
    """RGB uint8 `[H, W, 3]`; raises CameraError for another pixel format or size."""
    if bgr.dtype != np.uint8 or bgr.ndim != 3 or bgr.shape[2] != 3:
        raise CameraError(
            f"{name} delivers images of {bgr.dtype} {bgr.shape}, not 8-bit colour; set the "
            "parameter fourcc to YUYV or MJPG"
        )
    check_size(name, bgr, size)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _check_access(path: Path) -> None:
    if not path.exists():
        known = ", ".join(sorted(str(p) for p in Path("/dev").glob("video*"))) or "none"
        raise CameraError(f"there is no camera at {path}; is it plugged in? There are: {known}")
    if not os.access(path, os.R_OK | os.W_OK):
        raise CameraError(
            f"no permission to use {path}; add this user to the group that owns it, usually "
            "video: sudo usermod -aG video $USER, and log in again"
        )
