"""Reference images of start positions, and how far a scene differs from its reference."""

import math
import time
from pathlib import Path

import cv2
import numpy as np

from nac_ros.core.errors import BadObservation, TrialError
from nac_ros.core.image_codec import decode_image, encode_png
from nac_ros.trials.schedule import Slot
from nac_ros.trials.trial_log import write_file
from nac_ros.trials.trial_robot import TrialRobot

FOLDER = "references"
WIDTH = 160  # [pixels] of the compared images; at more, camera noise counts
SIGMA = 2.0  # [pixels of WIDTH] of the comparison window; smaller displacements count little
NOISE = 8.0  # [grey levels] contrast that is taken for noise
WORST_SHARE = 0.02  # of the pixels that count, because a displaced object covers few
# Threshold. In images of the twin (96 x 96) a marker displaced by 5 mm gives 0.08 to 0.11,
# by 10 mm 0.30 to 0.60, by 20 mm 0.75 and more; a lamp at 60 % gives 0.12, JPEG 0.02.
MAX_MISMATCH = 0.25
CANNY_THRESHOLDS = (60, 120)  # of the outlines that are drawn over the live image
PERIOD_S = 0.5  # between two comparisons


class ReferenceImages:
    """Reference images in a run's folder, one per start position, or per trial on the twin."""

    def __init__(self, folder: Path):
        self._folder = folder / FOLDER
        self._loaded: dict[Path, np.ndarray] = {}

    def path(self, slot: Slot) -> Path:
        """File of the reference of a slot's start position."""
        return self._folder / f"{slot.task}_{slot.start_position or f'{slot.trial:03d}'}.png"

    def load(self, slot: Slot) -> np.ndarray | None:
        """RGB uint8 `[H, W, 3]`, None before one was saved; raises TrialError if damaged."""
        path = self.path(slot)
        if path not in self._loaded and path.is_file():
            try:
                self._loaded[path] = decode_image(path.read_bytes())
            except (BadObservation, OSError) as error:
                raise TrialError(
                    f"{path} is no image ({error}); remove it, and save a new reference"
                ) from error
        return self._loaded.get(path)

    def save(self, slot: Slot, image: np.ndarray) -> None:
        """Replaces the reference of the slot's start position; raises TrialError."""
        path = self.path(slot)
        write_file(path, encode_png(image))
        self._loaded[path] = image.copy()


def scene_mismatch(reference: np.ndarray, image: np.ndarray) -> float:
    """Difference between two RGB images of a scene, from 0 (same) to 1; 1 if their shapes differ.

    It is one minus the contrast and structure terms of SSIM (Wang et al. 2004), which compare how
    brightness varies around each pixel. The luminance term is left out, so that a brighter lamp
    changes little. The result is the mean over the worst pixels, because one displaced object
    would vanish in the mean over all.
    """
    a, b = _preprocess(reference), _preprocess(image)
    if a.shape != b.shape:
        return 1.0
    mean_a, mean_b = _blur(a, SIGMA), _blur(b, SIGMA)
    var_a, var_b = _blur(a * a, SIGMA) - mean_a**2, _blur(b * b, SIGMA) - mean_b**2
    covariance = _blur(a * b, SIGMA) - mean_a * mean_b
    similarity = (2 * covariance + NOISE**2) / (var_a + var_b + NOISE**2)
    difference = np.sort((1 - similarity).ravel())
    worst = difference[-max(round(WORST_SHARE * difference.size), 1) :]
    return float(np.clip(worst.mean(), 0, 1))


def outlines_png(reference: np.ndarray) -> bytes:
    """Edges of an image as a PNG that is transparent elsewhere, for display over another image."""
    edges = cv2.Canny(cv2.cvtColor(reference, cv2.COLOR_RGB2GRAY), *CANNY_THRESHOLDS)
    drawn = np.zeros((*edges.shape, 4), np.uint8)
    drawn[edges > 0] = (0, 230, 0, 255)  # green, in OpenCV's order BGRA
    done, data = cv2.imencode(".png", drawn)
    if not done:
        raise TrialError(f"the outlines of an image of {reference.shape} cannot be encoded")
    return data.tobytes()


def _preprocess(image: np.ndarray) -> np.ndarray:
    """Float32 grey levels `[h, w]`, scaled to at most WIDTH columns and smoothed."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if (scale := WIDTH / grey.shape[1]) < 1:
        size = (WIDTH, round(grey.shape[0] * scale))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return _blur(grey.astype(np.float32), 1.0)


def _blur(values: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(values, (0, 0), sigma)


class SceneMonitor:
    """Compares the first camera's image with the reference of the current slot.

    mismatch: of the last comparison, None without a reference or an image
    errors: why the last comparison failed
    """

    def __init__(self, folder: Path, robot: TrialRobot):
        self._references, self._robot = ReferenceImages(folder), robot
        self.select(None)

    def select(self, slot: Slot | None) -> None:
        """Sets the slot whose reference is used from now on."""
        self._slot = slot
        self.mismatch: float | None = None
        self.errors: tuple[str, ...] = ()
        self._compared = -math.inf

    def update(self) -> None:
        """Compares again, at most every PERIOD_S."""
        if time.monotonic() - self._compared < PERIOD_S:
            return
        self._compared = time.monotonic()
        try:
            reference, image = self.reference(), self._image()
        except TrialError as error:
            self.errors = (str(error),)
            return
        self.mismatch = None
        if reference is not None and image is not None:
            self.mismatch = scene_mismatch(reference, image)

    def reference(self) -> np.ndarray | None:
        """Reference image of the slot, None without one; raises TrialError if damaged."""
        return None if self._slot is None else self._references.load(self._slot)

    @property
    def has_reference(self) -> bool:
        """Whether the slot's start position has a reference."""
        return self._slot is not None and self._references.path(self._slot).is_file()

    def save_reference(self) -> None:
        """Saves the newest image as reference of the slot's start position; raises TrialError."""
        image = self._image()
        if image is None or self._slot is None:
            raise TrialError("no camera has sent an image yet; check the cameras")
        self._references.save(self._slot, image)
        self.select(self._slot)

    def _image(self) -> np.ndarray | None:
        camera = next(iter(self._robot.image_ages()), None)
        return None if camera is None else self._robot.latest_image(camera)
