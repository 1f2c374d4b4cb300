"""File camera: plays a video file or a folder of images at a camera's pace."""

import time
from pathlib import Path

import cv2
import numpy as np

from nac_ros.cameras.camera import Clock, EndOfStream, Frame, check_size
from nac_ros.core.errors import CameraError
from nac_ros.robot.spec import Intrinsics

MAX_LATE_S = 0.1  # about as long as a camera driver keeps a frame
SUFFIXES = (".png", ".jpg", ".jpeg")


class FileCamera:
    """Plays `path` at `rate_hz`, or a video at its own rate if that is 0.

    An image is stamped with the time at which it was due. Images overdue by more than MAX_LATE_S
    are skipped, which shows in the frame numbers.
    size: (width, height) [pixels] that the images must have; loop: whether it starts again
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
        self._requested_hz = rate_hz
        self._reader: VideoReader | FolderReader | None = None
        if not path.exists():
            raise CameraError(f"there is no file or folder at {path}; give the path of a video")

    def open(self) -> None:
        """Opens the file at its first image; raises CameraError."""
        self._reader = (FolderReader if self._path.is_dir() else VideoReader)(self._path)
        self.rate_hz = self._requested_hz or self._reader.rate_hz
        if not self.rate_hz > 0:
            raise CameraError(f"{self.name} states no frame rate; set the parameter rate_hz")
        self._number, self._opened_at = -1, time.monotonic()

    def read(self, timeout_s: float) -> Frame | None:
        """The next image when it is due, None after the timeout; raises EndOfStream."""
        assert self._reader is not None
        due = self._opened_at + (self._number + 1) / self.rate_hz
        wait_s = due - time.monotonic()
        time.sleep(min(max(wait_s, 0.0), timeout_s))
        if wait_s > timeout_s:
            return None
        late_s = time.monotonic() - due
        overdue = int(late_s * self.rate_hz) if late_s > MAX_LATE_S else 0
        for _ in range(overdue + 1):
            self._advance(self._reader)
        image = self._reader.image()
        check_size(self.name, image, self._size)
        due = self._opened_at + self._number / self.rate_hz
        stamp = self._clock() - (time.monotonic() - due)
        return Frame(image, stamp, "schedule", self._number)

    def close(self) -> None:
        """Closes the file."""
        if self._reader is not None:
            self._reader.close()

    def _advance(self, reader: "VideoReader | FolderReader") -> None:
        """Goes to the next image, from the last one to the first."""
        self._number += 1
        if reader.advance():
            return
        if not self._loop:
            raise EndOfStream(f"{self.name} has ended after {self._number} images")
        reader.rewind()
        if not reader.advance():
            raise CameraError(f"{self.name} holds no readable image")


class VideoReader:
    """Steps through the images of a video file."""

    def __init__(self, path: Path):
        self._path = path
        self.rewind()
        if not self._video.isOpened():
            raise CameraError(f"{path} cannot be read as a video; is it a complete mp4?")
        self.rate_hz = float(self._video.get(cv2.CAP_PROP_FPS))

    def advance(self) -> bool:
        """Goes to the next image; False at the end."""
        return self._video.grab()

    def image(self) -> np.ndarray:
        """The current image, uint8 `[H, W, 3]` RGB."""
        decoded, bgr = self._video.retrieve()
        if not decoded:
            raise CameraError(f"{self._path} cannot be decoded; is it complete?")
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

    def rewind(self) -> None:
        """Goes back to before the first image."""
        self._video = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)

    def close(self) -> None:
        """Closes the file."""
        self._video.release()


class FolderReader:
    """Steps through the PNG and JPEG files of a folder in the order of their names."""

    rate_hz = 0.0

    def __init__(self, path: Path):
        self._files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        if not self._files:
            raise CameraError(f"folder {path} holds no image ({', '.join(SUFFIXES)})")
        self.rewind()

    def advance(self) -> bool:
        """Goes to the next image; False at the end."""
        self._index += 1
        return self._index < len(self._files)

    def image(self) -> np.ndarray:
        """The current image, uint8 `[H, W, 3]` RGB."""
        path = self._files[self._index]
        bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if bgr is None:
            raise CameraError(f"{path} cannot be read as an image; is it complete?")
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

    def rewind(self) -> None:
        """Goes back to before the first image."""
        self._index = -1

    def close(self) -> None:
        """Nothing is open between images."""
