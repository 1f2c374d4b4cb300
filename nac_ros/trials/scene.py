"""How the scene in front of an arm compares with the reference of its place."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nac_ros.errors import TrialError
from nac_ros.trials.arm import Arm
from nac_ros.trials.overlay import Places, mismatch
from nac_ros.trials.plan import Slot

LOOK_S = 0.5  # between looks


class Scene:
    """The first camera's view of a place.

    mismatch: at the last look, None without a reference or a picture
    trouble: why there was no look
    """

    def __init__(self, folder: Path, arm: Arm, clock: Callable[[], float]):
        self._places, self._arm, self._clock = Places(folder), arm, clock
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
