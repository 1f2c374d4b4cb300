"""Pictures of trials: a spectator's view with what the policy saw, as H.264 that browsers play."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np

from nac_ros.core.errors import NacError
from nac_ros.datasets.lerobot.video import encode

MARGIN = 8  # [pixels] around insets and caption
CAPTION_HEIGHT, LABEL_HEIGHT = 26, 16  # [pixels]
INK, PAPER = (245, 245, 245), (24, 26, 30)  # RGB
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


def compose(spectator: np.ndarray, insets: Mapping[str, np.ndarray], caption: str) -> np.ndarray:
    """One picture, uint8 RGB with even sides: what the policy saw in a column, caption below.

    spectator: uint8 `[H, W, 3]` RGB; insets: camera -> uint8 `[h, w, 3]` RGB, one above the other
    """
    height, width = spectator.shape[:2]
    size = (height - MARGIN * (len(insets) + 1)) // max(len(insets), 1)
    if size < MARGIN:
        raise NacError(f"{len(insets)} insets do not fit a picture {height} pixels high")
    column = max((_inset_width(image, size) + 2 * MARGIN for image in insets.values()), default=0)
    sides = [side + side % 2 for side in (height + CAPTION_HEIGHT, width + column)]
    picture = np.full((*sides, 3), PAPER, np.uint8)
    picture[:height, :width] = spectator
    for row, (name, image) in enumerate(insets.items()):
        top = MARGIN + row * (size + MARGIN)
        _inset(picture, image, name, top, width + MARGIN, size)
    _write(picture, caption, MARGIN, height + CAPTION_HEIGHT - MARGIN)
    return picture


def title(text: str, size: tuple[int, int], n_frames: int) -> Iterator[np.ndarray]:
    """`n_frames` pictures uint8 `[H, W, 3]` of a line of text on plain ground; size is (H, W)."""
    picture = np.full((*size, 3), PAPER, np.uint8)
    _write(picture, text, 3 * MARGIN, size[0] // 2, scale=0.7)
    for _ in range(n_frames):
        yield picture


def _inset_width(image: np.ndarray, height: int) -> int:
    return round(height * image.shape[1] / image.shape[0])


def _inset(
    picture: np.ndarray, image: np.ndarray, name: str, top: int, left: int, size: int
) -> None:
    width = _inset_width(image, size)
    target = picture[top : top + size, left : left + width]
    cv2.resize(image, (width, size), dst=target, interpolation=cv2.INTER_LINEAR)
    target[-LABEL_HEIGHT:] = PAPER
    _write(picture, name, left, top + size - 4, scale=0.38)


def _write(picture: np.ndarray, text: str, left: int, bottom: int, scale: float = 0.45) -> None:
    cv2.putText(
        picture, text, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, scale, INK, 1, cv2.LINE_AA
    )
