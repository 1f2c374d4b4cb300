"""Cameras that show one picture again and again, told from cameras whose pictures have no noise.

Successive pictures of a real sensor differ by noise. A camera is judged by its content only after
it has shown that: its pictures differed one by one while the arm was at rest. Rendered or
compressed pictures may be equal to the bit for as long as nothing in view moves; such a camera is
judged by its stamps alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from nac_ros.robot import RobotSpec

FROZEN_S = 0.3  # the same picture for longer,
FROZEN_IMAGES = 3  # and so many times again
NOISE_PAIRS = 10  # successive pictures at rest that all differ: the sensor has noise
REST_S = 0.2  # the arm is at rest when no joint moved for so long
REST_MOVE = {"rad": 0.004, "m": 0.0005}  # by more; two to three steps of a servo's encoder


@dataclass
class _Content:
    """Of one camera: the first of the newest equal pictures, and what is known of its noise."""

    image: np.ndarray | None = None
    since: float = -inf  # stamp [s] of the first of the equal pictures
    newest: float = -inf  # stamp [s] of the newest picture
    equal: int = 0  # pictures equal to it that followed
    differed: int = 0  # pairs of successive pictures at rest that differed, without a break
    has_noise: bool = False


class FrozenImageDetector:
    """Judges the pictures of several cameras, with the arm's joint positions beside them.

    A verdict is not latched: it ends with the first picture that differs.
    """

    def __init__(self, spec: RobotSpec, cameras: Sequence[str]):
        self._tolerance = np.array([REST_MOVE[unit] for unit in spec.units])
        self._contents = {name: _Content() for name in cameras}
        self.clear()

    def clear(self) -> None:
        """Forgets the arm's motion, for a new episode or a clock that was set back; what is known
        of the cameras stays."""
        self._place: np.ndarray | None = None  # where the arm has been since `_rested`
        self._rested, self._measured = inf, -inf  # stamps [s]

    def push_joints(self, stamp: float, positions: np.ndarray) -> None:
        """Joint positions `[D]` [rad or m] at `stamp` [s]; one that is before the last one begins
        anew."""
        if stamp < self._measured:
            self.clear()
        self._measured = stamp
        if self._place is None or (np.abs(positions - self._place) > self._tolerance).any():
            self._place, self._rested = positions, stamp

    def push_image(self, camera: str, stamp: float, image: np.ndarray) -> None:
        """A picture uint8 `[H, W, 3]` taken at `stamp` [s], in the order of stamps."""
        content = self._contents[camera]
        differs = content.image is None or not np.array_equal(content.image, image)
        if differs:
            content.image = image
        self.push_content(camera, stamp, differs)

    def push_content(self, camera: str, stamp: float, differs: bool) -> None:
        """The same for whoever compares the pictures: whether the one taken at `stamp` [s] differs
        from the one before it; the first one does."""
        content = self._contents[camera]
        if self._is_at_rest(content.newest, stamp):
            content.differed = content.differed + 1 if differs else 0
            content.has_noise |= content.differed >= NOISE_PAIRS
        else:
            content.differed = 0
        if differs or stamp < content.newest:
            content.since, content.equal = stamp, 0
        else:
            content.equal += 1
        content.newest = stamp

    def has_noise(self, camera: str) -> bool:
        """Whether a camera has shown noise, so that its content is checked."""
        return self._contents[camera].has_noise

    def frozen_s(self, camera: str) -> float:
        """For how long [s] a camera with noise has shown one picture; 0 while it is not frozen."""
        content = self._contents[camera]
        seconds = content.newest - content.since if content.has_noise else 0.0
        return seconds if seconds > FROZEN_S and content.equal >= FROZEN_IMAGES else 0.0

    @property
    def unchecked(self) -> list[str]:
        """Cameras that have not shown noise, whose content is not checked."""
        return [name for name, content in self._contents.items() if not content.has_noise]

    def _is_at_rest(self, before: float, stamp: float) -> bool:
        """Whether the arm rested from the picture `before` to the one at `stamp` [s]."""
        return self._rested + REST_S <= before and stamp - self._measured <= REST_S
