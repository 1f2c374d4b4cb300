"""Whether a scene is set up as the last time: a reference picture of each place, and a number."""

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from nac_ros.core.errors import TrialError
from nac_ros.core.files import replace_with
from nac_ros.trials.schedule import Slot
from nac_ros.trials.trial_robot import TrialRobot

PLACES = "places"
WIDTH = 160  # [pixels] that pictures are compared at: finer, and the noise of a camera counts
SPREAD = 2.0  # [pixels] of WIDTH: what moved less than about this is the same
NOISE = 8.0  # [grey levels] of contrast that mean nothing
WORST = 0.02  # share of the picture that counts, since a moved thing is small in it
# The pass mark. In pictures of the twin (96 x 96) a marker 5 mm off its place gives 0.08 to 0.11,
# 10 mm 0.30 to 0.60, 20 mm 0.75 and more; a lamp at 60 % gives 0.12, JPEG 0.02.
MAX_MISMATCH = 0.25
EDGES = (60, 120)  # thresholds of Canny's detector, for the eye alone


class ReferenceImages:
    """Reference pictures in the folder of a run, one a place, or a trial's scene on the twin."""

    def __init__(self, folder: Path):
        self._folder = folder / PLACES
        self._read: dict[Path, np.ndarray] = {}

    def path(self, slot: Slot) -> Path:
        """Where the reference of a slot's place lies."""
        return self._folder / f"{slot.task}_{slot.place or f'{slot.trial:03d}'}.png"

    def reference(self, slot: Slot) -> np.ndarray | None:
        """RGB uint8 `[H, W, 3]`; None before one was kept. Raises TrialError for a damaged one."""
        path = self.path(slot)
        if path not in self._read and path.is_file():
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is None:
                raise TrialError(f"{path} is no picture; remove it, and keep a new reference")
            self._read[path] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return self._read.get(path)

    def keep(self, slot: Slot, image: np.ndarray) -> None:
        """`image` is what the place looks like from now on; raises TrialError."""
        path = self.path(slot)
        done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        try:
            if not done:
                raise OSError("it cannot be encoded")
            replace_with(path, lambda to: to.write_bytes(data.tobytes()))
        except OSError as error:
            raise TrialError(f"{path} cannot be written: {error.strerror or error}") from error
        self._read[path] = image.copy()


def mismatch(reference: np.ndarray, image: np.ndarray) -> float:
    """How unlike two pictures of a place are, 0 (the same) to 1.

    Contrast and structure of SSIM (Wang and others 2004) without its luminance: what is compared
    around each pixel is how brightness varies there, so a brighter lamp changes little. Of the
    picture only the worst hundredths count: a cube that lies elsewhere is no more than that.
    """
    a, b = _grey(reference), _grey(image)
    if a.shape != b.shape:
        return 1.0
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    shared = _blur(a * b) - mean_a * mean_b
    like = (2 * shared + NOISE**2) / (var_a + var_b + NOISE**2)
    unlike = np.sort((1 - like).ravel())
    worst = unlike[-max(round(WORST * unlike.size), 1) :]
    return float(np.clip(worst.mean(), 0, 1))


def edges(reference: np.ndarray) -> bytes:
    """The outlines of a picture as a PNG that is clear elsewhere, to be laid over another one."""
    found = cv2.Canny(cv2.cvtColor(reference, cv2.COLOR_RGB2GRAY), *EDGES)
    shown = np.zeros((*found.shape, 4), np.uint8)
    shown[found > 0] = (0, 230, 0, 255)  # green, in OpenCV's order
    done, data = cv2.imencode(".png", shown)
    if not done:
        raise TrialError(f"the outlines of a picture of {reference.shape} cannot be encoded")
    return data.tobytes()


def _grey(image: np.ndarray) -> np.ndarray:
    """Float32 `[h, w]` of at most WIDTH columns."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if (scale := WIDTH / grey.shape[1]) < 1:
        size = (WIDTH, round(grey.shape[0] * scale))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return _blur(grey.astype(np.float32), 1.0)


def _blur(values: np.ndarray, spread: float = SPREAD) -> np.ndarray:
    return cv2.GaussianBlur(values, (0, 0), spread)


LOOK_S = 0.5  # between looks


class Scene:
    """The first camera's view of a place.

    mismatch: at the last look, None without a reference or a picture
    trouble: why there was no look
    """

    def __init__(self, folder: Path, arm: TrialRobot, clock: Callable[[], float]):
        self._places, self._arm, self._clock = ReferenceImages(folder), arm, clock
        self.turn_to(None)

    def turn_to(self, slot: Slot | None) -> None:
        """The place of this slot is looked at from now on."""
        self._slot = slot
        self.mismatch: float | None = None
        self.trouble: tuple[str, ...] = ()
        self._looked = -math.inf

    def look(self) -> None:
        """Compares anew, at most twice a second."""
        if self._clock() - self._looked < LOOK_S:
            return
        self._looked = self._clock()
        try:
            reference, image = self.reference(), self._image()
        except TrialError as error:
            self.trouble = (str(error),)
            return
        unknown = reference is None or image is None
        self.mismatch = None if unknown else mismatch(reference, image)

    def reference(self) -> np.ndarray | None:
        """What the place is to look like; raises TrialError for a damaged file."""
        return None if self._slot is None else self._places.reference(self._slot)

    @property
    def known(self) -> bool:
        """Whether the place has a reference."""
        return self._slot is not None and self._places.path(self._slot).is_file()

    def keep(self) -> None:
        """What is seen now is the reference of the place; raises TrialError."""
        image = self._image()
        if image is None or self._slot is None:
            raise TrialError("no camera has sent a picture yet")
        self._places.keep(self._slot, image)
        self.turn_to(self._slot)

    def _image(self) -> np.ndarray | None:
        camera = next(iter(self._arm.ages()), None)
        return None if camera is None else self._arm.picture(camera)
