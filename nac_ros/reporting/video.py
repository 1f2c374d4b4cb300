"""Videos of trials as H.264 that browsers play: spectator view with the policy's cameras."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np

from nac_ros.core.errors import NacError
from nac_ros.datasets.lerobot.video import encode

MARGIN = 8  # [pixels] around insets and caption
CAPTION_HEIGHT, LABEL_HEIGHT = 26, 16  # [pixels]
FOREGROUND, BACKGROUND = (245, 245, 245), (24, 26, 30)  # RGB
QUALITY = "21"  # x264's constant rate factor: no visible blocks at 480 lines, about 0.1 MB/s


def write_video(path: Path | str, frames: Iterable[np.ndarray], fps: float) -> int:
    """Encodes RGB frames, uint8 `[H, W, 3]`, one by one as mp4; returns their number.

    Raises NacError for odd sides, for frames of several sizes and if there is no frame.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = encode(path, frames, fps, "libx264", {"crf": QUALITY}, {"movflags": "+faststart"})
    if not count:
        path.unlink(missing_ok=True)
        raise NacError(f"no frames for {path}: nothing was recorded")
    return count


def compose_frame(
    spectator: np.ndarray, insets: Mapping[str, np.ndarray], caption: str
) -> np.ndarray:
    """A video frame, uint8 RGB with even sides: spectator view, column of insets, caption below.

    spectator: uint8 `[H, W, 3]` RGB; insets: camera -> uint8 `[h, w, 3]` RGB
    Raises NacError if the insets do not fit.
    """
    height, width = spectator.shape[:2]
    size = (height - MARGIN * (len(insets) + 1)) // max(len(insets), 1)
    if size < MARGIN:
        raise NacError(f"{len(insets)} insets do not fit a frame {height} pixels high")
    column = max((_inset_width(image, size) + 2 * MARGIN for image in insets.values()), default=0)
    sides = [side + side % 2 for side in (height + CAPTION_HEIGHT, width + column)]
    frame = np.full((*sides, 3), BACKGROUND, np.uint8)
    frame[:height, :width] = spectator
    for row, (name, image) in enumerate(insets.items()):
        top = MARGIN + row * (size + MARGIN)
        inset = frame[top : top + size, width + MARGIN :][:, : _inset_width(image, size)]
        cv2.resize(image, inset.shape[1::-1], dst=inset, interpolation=cv2.INTER_LINEAR)
        inset[-LABEL_HEIGHT:] = BACKGROUND
        _draw_text(frame, name, width + MARGIN, top + size - 4, scale=0.38)
    _draw_text(frame, caption, MARGIN, height + CAPTION_HEIGHT - MARGIN)
    return frame


def title_frames(text: str, size: tuple[int, int], n_frames: int) -> Iterator[np.ndarray]:
    """`n_frames` frames uint8 `[H, W, 3]` with a line of text; size is (H, W)."""
    frame = np.full((*size, 3), BACKGROUND, np.uint8)
    _draw_text(frame, text, 3 * MARGIN, size[0] // 2, scale=0.7)
    for _ in range(n_frames):
        yield frame


def _inset_width(image: np.ndarray, height: int) -> int:
    return round(height * image.shape[1] / image.shape[0])


def _draw_text(frame: np.ndarray, text: str, left: int, bottom: int, scale: float = 0.45) -> None:
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(frame, text, (left, bottom), font, scale, FOREGROUND, 1, cv2.LINE_AA)
