"""A video file or a folder of pictures, played at its pace as a camera would give it."""

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from nac_ros.cameras.camera import Clock, EndOfStream, Frame, size_mismatch
from nac_ros.core.errors import CameraError
from nac_ros.robot.spec import Intrinsics

MAX_LATE_S = 0.1  # as long as a camera's driver would keep a picture
KINDS = (".png", ".jpg", ".jpeg")


class FileCamera:
    """Plays `path` at `rate_hz`, or a video at its own rate where that is 0; each picture is
    stamped with the time it was due. Those long overdue are left out, which the numbers show.

    size: width, height [pixels] that its pictures must have
    """

    intrinsics: Intrinsics | None = None

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        clock: Clock,
        rate_hz: float = 0.0,
        loop: bool = True,
    ):
        self.name, self.rate_hz = f"file {path}", rate_hz
        self._path, self._size, self._clock, self._loop = path, size, clock, loop
        self._asked_hz = rate_hz
        if not path.exists():
            raise CameraError(f"there is no file or folder at {path}; give the path of a video")

    def open(self) -> None:
        """From the first picture."""
        kind = Folder if self._path.is_dir() else Video
        self._pictures = kind(self._path)
        self.rate_hz = self._asked_hz or self._pictures.rate_hz
        if not self.rate_hz > 0:
            raise CameraError(f"{self.name} does not say its rate; set the parameter rate_hz")
        self._number, self._began = -1, time.monotonic()

    def read(self, timeout_s: float) -> Frame | None:
        """The picture that is due next."""
        due = self._began + (self._number + 1) / self.rate_hz
        wait_s = due - time.monotonic()
        time.sleep(min(max(wait_s, 0.0), timeout_s))
        if wait_s > timeout_s:
            return None
        late_s = time.monotonic() - due
        overdue = int(late_s * self.rate_hz) if late_s > MAX_LATE_S else 0
        for _ in range(overdue):
            self._next(self._pictures.skip)
        picture = self._next(self._pictures.take)
        assert isinstance(picture, np.ndarray)
        self._check(picture)
        due = self._began + self._number / self.rate_hz
        stamp = self._clock() - (time.monotonic() - due)
        return Frame(picture, stamp, "schedule", self._number)

    def close(self) -> None:
        """Closes the file."""
        if hasattr(self, "_pictures"):
            self._pictures.close()

    def _next(self, step: Callable[[], object]) -> object:
        """What `step` gives, from the first picture again after the last."""
        self._number += 1
        if (found := step()) is not None:
            return found
        if not self._loop:
            raise EndOfStream(f"{self.name} is over after {self._number} pictures")
        self._pictures.rewind()
        if (found := step()) is None:
            raise CameraError(f"{self.name} holds no picture that can be read")
        return found

    def _check(self, picture: np.ndarray) -> None:
        height, width = picture.shape[:2]
        if (width, height) != self._size:
            raise CameraError(size_mismatch(self.name, (width, height), self._size))


class Video:
    """A video file; `take` gives RGB uint8 `[H, W, 3]`, None after the last."""

    def __init__(self, path: Path):
        self._path = path
        self.rewind()
        if not self._video.isOpened():
            raise CameraError(f"{path} cannot be read as a video; is it complete, and an mp4?")
        self.rate_hz = float(self._video.get(cv2.CAP_PROP_FPS))

    def take(self) -> np.ndarray | None:
        """The next picture."""
        there, bgr = self._video.read()
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB) if there else None

    def skip(self) -> bool | None:
        """Passes over the next one, None where there is none."""
        return self._video.grab() or None

    def rewind(self) -> None:
        """Back to the first."""
        self._video = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)

    def close(self) -> None:
        """Lets go of the file."""
        self._video.release()


class Folder:
    """A folder of PNG or JPEG files in the order of their names."""

    rate_hz = 0.0

    def __init__(self, path: Path):
        self._files = sorted(p for p in path.iterdir() if p.suffix.lower() in KINDS)
        self._at = 0
        if not self._files:
            raise CameraError(f"folder {path} holds no picture ({', '.join(KINDS)})")

    def take(self) -> np.ndarray | None:
        """The next picture."""
        if not self.skip():
            return None
        path = self._files[self._at - 1]
        bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if bgr is None:
            raise CameraError(f"{path} cannot be read as a picture; is it complete?")
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

    def skip(self) -> bool | None:
        """Passes over the next one, None where there is none."""
        self._at += 1
        return True if self._at <= len(self._files) else None

    def rewind(self) -> None:
        """Back to the first."""
        self._at = 0

    def close(self) -> None:
        """Nothing is open between pictures."""
