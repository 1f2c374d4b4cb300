"""One picture with its time, and the face that every source of pictures shows."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from nac_ros.core.errors import CameraError
from nac_ros.robot.spec import Intrinsics

Clock = Callable[[], float]  # the host's time [s], which stamps are given in


class ArrivalTime(NamedTuple):
    """When something arrived [s]: by the host's clock, and by one that nobody sets."""

    wall: float
    monotonic: float


def arrival_time(clock: Clock) -> ArrivalTime:
    """Now."""
    return ArrivalTime(clock(), time.monotonic())


@dataclass(frozen=True)
class Frame:
    """A picture, uint8 `[H, W, 3]` RGB, taken at `stamp` [s] of the host's clock.

    stamp_source: `hardware` where the device said when, `receipt` where only the arrival is known,
        `schedule` for a file: when the picture was due
    number: the device's count, which shows what was lost; None where it has none
    depth_mm: uint16 `[H, W]` of the same view, 0 = unknown; None where it was not asked for, or
        did not come in time
    """

    image: np.ndarray
    stamp: float
    stamp_source: Literal["hardware", "receipt", "schedule"]
    number: int | None = None
    depth_mm: np.ndarray | None = None


class Camera(Protocol):
    """A camera, or what stands for one; opened and closed as often as needed."""

    @property
    def name(self) -> str:
        """For sentences."""

    @property
    def rate_hz(self) -> float:
        """Promised pictures per second, known once it is open."""

    @property
    def intrinsics(self) -> Intrinsics | None:
        """Of its pictures, known once it is open; None where nobody knows them."""

    def open(self) -> None:
        """Begins to take pictures; raises CameraError."""

    def read(self, timeout_s: float) -> Frame | None:
        """The next picture, None when none comes in time; raises CameraError when it is gone."""

    def close(self) -> None:
        """Lets go of the device, whatever state it is in."""


class EndOfStream(CameraError):
    """A file that is played once is over: nothing to open again."""


def size_mismatch(name: str, given: tuple[int, ...], wanted: tuple[int, int]) -> str:
    """What to do about pictures of `given` width and height."""
    width, height = given
    return (
        f"{name} gives pictures of {width}x{height}, but {wanted[0]}x{wanted[1]} were asked for; "
        f"set width:={width} height:={height} to have them scaled to the robot's YAML"
    )
