"""Pictures scaled to the size that a robot's YAML promises, where that was asked for."""

from dataclasses import replace

import cv2

from nac_ros.devices.frame import Frame, FrameSource
from nac_ros.robot import Intrinsics


class Scaled:
    """Another source's pictures at `width` x `height`, each axis by its own factor.

    Colours are averaged over areas; depths are picked, since a mean of two surfaces lies on none.
    """

    def __init__(self, source: FrameSource, given: tuple[int, int], wanted: tuple[int, int]):
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
