"""Decodes the images of a recorded episode frame by frame, so that memory holds only a few."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.mcap.reader import Message
from nac_ros.datasets.mcap.resampler import RecordingResampler, ResampledRecording


def write_images(
    messages: Iterable[Message],
    cutter: RecordingResampler,
    part: int,
    outs: Mapping[str, np.ndarray],
) -> None:
    """Cuts a recording and writes the frames of slice `part` into `outs`.

    outs: camera -> uint8 `[T, H, W, 3]` RGB; T must be the length of the slice
    Raises DatasetError if the recording has another number of frames.
    """
    done = 0  # frames of the slice that were written
    freed: dict[int, int] = {}  # slice -> frames whose images were released
    for message in messages:
        cutter.take(message)
        done = _move(cutter.cut, part, outs, done, freed, keep_last=True)
    done = _move(cutter.cut, part, outs, done, freed, keep_last=False)
    wanted = {len(out) for out in outs.values()}
    if wanted - {done}:
        raise DatasetError(f"the recording gives {done} frames with images, {wanted} were wanted")


def _move(
    cut: ResampledRecording,
    part: int,
    outs: Mapping[str, np.ndarray],
    done: int,
    freed: dict[int, int],
    keep_last: bool,
) -> int:
    """Writes and releases the images of complete frames; `keep_last` keeps the newest frame, to
    which images may still be added."""
    for number in range(max(0, len(cut.slices) - 2), len(cut.slices)):
        frames = cut.slices[number].observations
        newest = keep_last and number == len(cut.slices) - 1
        for k in range(freed.get(number, 0), len(frames) - newest):
            if number == part:
                _write(outs, k, frames[k].images)
                done = k + 1
            frames[k] = replace(frames[k], images={})
            freed[number] = k + 1
    return done


def _write(outs: Mapping[str, np.ndarray], k: int, images: Mapping[str, np.ndarray]) -> None:
    for camera, out in outs.items():
        if k >= len(out):
            raise DatasetError(f"the recording gives more than {len(out)} frames of {camera}")
        out[k] = images[camera][-1]
