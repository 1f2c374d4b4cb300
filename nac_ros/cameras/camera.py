"""Camera interface: a frame with its time, and the protocol that every camera implements."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from nac_ros.core.errors import CameraError
from nac_ros.robot.spec import Intrinsics

Clock = Callable[[], float]  # the host's time [s], in which frames are stamped
StampSource = Literal["hardware", "receipt", "schedule"]


class ArrivalTime(NamedTuple):
    """Time of arrival [s] on the host's clock, which may be set, and on the monotonic clock."""

    wall: float
    monotonic: float

    @classmethod
    def now(cls, clock: Clock) -> "ArrivalTime":
        return cls(clock(), time.monotonic())


@dataclass(frozen=True)
class Frame:
    """An image, uint8 `[H, W, 3]` RGB, taken at `stamp` [s] of the host's clock.

    stamp_source: `hardware` for the device's clock, `receipt` for the time of arrival, `schedule`
        for the time at which an image of a file was due
    number: the device's frame counter, which reveals lost frames; None if it has none
    depth_mm: uint16 `[H, W]` aligned to the image, 0 = unknown; None if not requested or late
    """

    image: np.ndarray
    stamp: float
    stamp_source: StampSource
    number: int | None = None
    depth_mm: np.ndarray | None = None


class Camera(Protocol):
    """A camera or a file played as one; can be opened and closed repeatedly."""

    @property
    def name(self) -> str:
        """Name in messages."""

    @property
    def rate_hz(self) -> float:
        """Nominal frame rate, known once it is open."""

    @property
    def intrinsics(self) -> Intrinsics | None:
        """Intrinsics of the images, known once it is open; None without a calibration."""

    def open(self) -> None:
        """Starts streaming; raises CameraError."""

    def read(self, timeout_s: float) -> Frame | None:
        """The next frame, None after the timeout; raises CameraError if the device is lost."""

    def close(self) -> None:
        """Releases the device in any state."""


class EndOfStream(CameraError):
    """A file that is played once has ended; it is not opened again."""


def check_size(name: str, image: np.ndarray, size: tuple[int, int]) -> None:
    """Raises CameraError unless the image `[H, W, 3]` has this `size`, (width, height)."""
    if image.shape[1::-1] != size:
        raise size_error(name, image.shape[1::-1], size)


def size_error(name: str, found: tuple[int, ...], wanted: tuple[int, int]) -> CameraError:
    """Error for images of another (width, height), with the remedy."""
    width, height = found
    return CameraError(
        f"{name} delivers images of {width}x{height}, but {wanted[0]}x{wanted[1]} were requested; "
        f"set width:={width} height:={height} to resize them to the size in the robot's YAML"
    )
