"""Detects frozen cameras, which repeat one image, by the absence of sensor noise.

Successive images of a real sensor differ by noise. The content of a camera is checked only after
the camera has shown noise: its successive images differed while the arm was at rest. Rendered or
compressed images may be bit-identical while nothing in view moves; for such a camera only the
stamps are checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from nac_ros.robot.spec import RobotSpec

FROZEN_S = 0.3  # frozen: the same image for longer than this,
FROZEN_IMAGES = 3  # and repeated at least this often
NOISE_PAIRS = 10  # successive image pairs at rest that all differ: the sensor has noise
REST_S = 0.2  # the arm is at rest when for this long no joint moved
REST_MOVE = {"rad": 0.004, "m": 0.0005}  # by more; two to three steps of a servo's encoder


@dataclass
class _Content:
    """State of one camera: the first of the newest equal images, and statistics of its noise."""

    image: np.ndarray | None = None
    since: float = -inf  # stamp [s] of the first of the equal images
    newest: float = -inf  # stamp [s] of the newest image
    equal: int = 0  # number of equal images after the first
    differed: int = 0  # successive image pairs at rest that differed
    has_noise: bool = False


class FrozenImageDetector:
    """Detects frozen cameras from their images and the arm's joint positions.

    The result is not latched: it ends with the first image that differs.
    """

    def __init__(self, spec: RobotSpec, cameras: Sequence[str]):
        self._tolerance = np.array([REST_MOVE[unit] for unit in spec.units])
        self._contents = {name: _Content() for name in cameras}
        self.clear()

    def clear(self) -> None:
        """Forgets the arm's motion, for a new episode or a clock that was set back; keeps what is
        known about the cameras."""
        self._rest_positions: np.ndarray | None = None  # of the arm, since `_rested_since`
        self._rested_since, self._measured_at = inf, -inf  # stamps [s]

    def add_joint_state(self, stamp: float, positions: np.ndarray) -> None:
        """Adds joint positions `[D]` [rad or m] at `stamp` [s]; a stamp before the last one calls
        `clear` first."""
        if stamp < self._measured_at:
            self.clear()
        self._measured_at = stamp
        if (
            self._rest_positions is None
            or (np.abs(positions - self._rest_positions) > self._tolerance).any()
        ):
            self._rest_positions, self._rested_since = positions, stamp

    def add_image(self, camera: str, stamp: float, image: np.ndarray) -> None:
        """Adds an image, uint8 `[H, W, 3]`, taken at `stamp` [s], in order of stamps."""
        content = self._contents[camera]
        differs = content.image is None or not np.array_equal(content.image, image)
        if differs:
            content.image = image
        self.add_comparison(camera, stamp, differs)

    def add_comparison(self, camera: str, stamp: float, differs: bool) -> None:
        """Like `add_image`, for callers that compare images themselves.

        differs: whether the image at `stamp` [s] differs from the previous one; True for the first
        """
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
        """Whether a camera has shown noise and its content is checked."""
        return self._contents[camera].has_noise

    def frozen_s(self, camera: str) -> float:
        """How long [s] a camera with noise has repeated one image; 0 while it is not frozen."""
        content = self._contents[camera]
        seconds = content.newest - content.since if content.has_noise else 0.0
        return seconds if seconds > FROZEN_S and content.equal >= FROZEN_IMAGES else 0.0

    @property
    def unchecked(self) -> list[str]:
        """Cameras that have not shown noise; their content is not checked."""
        return [name for name, content in self._contents.items() if not content.has_noise]

    def _is_at_rest(self, before: float, stamp: float) -> bool:
        """Whether the arm was at rest from the image at `before` to the one at `stamp` [s]."""
        return self._rested_since + REST_S <= before and stamp - self._measured_at <= REST_S
