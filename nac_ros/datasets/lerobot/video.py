"""Video files: encodes RGB frames as mp4 and decodes frames by their index."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from nac_ros.core import files
from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError, DatasetError
from nac_ros.datasets.lerobot.tables import CONTENT_ERRORS, short_message

PIXEL_FORMAT = "yuv420p"
BT601, LIMITED_RANGE = 5, 1  # FFmpeg's numbers of the colour space that its RGB conversion makes
SVT_PRIORITY = 99
MAX_STAMP_ERROR = 0.1  # [frame periods]: containers round stamps to 1 ms
MAX_DENOMINATOR = 1_000_000  # of a rate: keeps 29.97 and 30000/1001 apart, fits FFmpeg's int32


class VideoEncoder(NamedTuple):
    """Name of FFmpeg's encoder and its options, in which {threads} is filled in."""

    name: str
    options: dict[str, str]


CODECS = {
    "h264": VideoEncoder(
        "libx264", {"preset": "veryfast", "bf": "0", "x264-params": "threads={threads}"}
    ),
    "av1": VideoEncoder("libsvtav1", {"preset": "8", "svtav1-params": "lp={threads}"}),
}


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """Encoding of camera frames.

    crf: constant rate factor, 0 is best; gop: frames from one key frame to the next
    threads: of each encoder, so that other processes keep their cores
    """

    codec: str = "h264"
    crf: int = number_field(18, 0, 51)
    gop: int = number_field(2, 1, 300)
    threads: int = number_field(1, 1, 64)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.codec not in CODECS:
            raise ConfigError(f"no video codec '{self.codec}'; known are: {', '.join(CODECS)}")

    def feature_info(self, height: int, width: int, fps: float) -> dict[str, Any]:
        """The `info` of a video feature in info.json."""
        return {
            "video.height": height,
            "video.width": width,
            "video.codec": self.codec,
            "video.pix_fmt": PIXEL_FORMAT,
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
            "video.g": self.gop,
            "video.crf": self.crf,
        }


def write_video(path: Path, frames: np.ndarray, fps: float, config: VideoConfig) -> None:
    """Encodes uint8 `[T, H, W, 3]` RGB as an mp4 that is complete or absent."""
    codec = CODECS[config.codec]
    options = {k: text.format(threads=config.threads) for k, text in codec.options.items()}
    options |= {"crf": str(config.crf), "g": str(config.gop)}

    def write(temporary: Path) -> None:
        encode(temporary, frames, fps, codec.name, options)
        with av.open(str(temporary)) as container:
            kept = sum(packet.size > 0 for packet in container.demux(video=0))
        if kept != len(frames):
            raise DatasetError(f"{path}: {kept} of {len(frames)} frames were encoded")

    files.replace_atomically(path, write)


def encode(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: float,
    encoder: str,
    options: Mapping[str, str],
    container_options: Mapping[str, str] | None = None,
) -> int:
    """Encodes RGB frames, uint8 `[H, W, 3]`, one by one as mp4; returns their number.

    Raises DatasetError for odd sides, which yuv420p cannot have, and for frames of several sizes.
    """
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints its settings to stderr otherwise
    rate, count, stream = rate_fraction(fps), 0, None
    extra = dict(container_options or {})
    with av.open(str(path), "w", format="mp4", options=extra) as container:
        for count, array in enumerate(frames, start=1):
            if stream is None:
                stream = _open_stream(container, array.shape, rate, encoder, options)
            if array.shape != (stream.height, stream.width, 3):
                raise DatasetError(
                    f"{path}: frame {count - 1} is {array.shape}, unlike the first of "
                    f"{(stream.height, stream.width, 3)}"
                )
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            frame.pts, frame.time_base = count - 1, 1 / rate
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())
    return count


def _open_stream(
    container: Any,
    shape: tuple[int, ...],
    rate: Fraction,
    encoder: str,
    options: Mapping[str, str],
) -> Any:
    height, width = shape[:2]
    if height % 2 or width % 2:
        raise DatasetError(f"a video needs even sides, the frames are {width} x {height} pixels")
    stream = container.add_stream(encoder, rate=rate, options=dict(options))
    stream.height, stream.width, stream.pix_fmt = height, width, PIXEL_FORMAT
    stream.codec_context.colorspace = BT601
    stream.codec_context.color_range = LIMITED_RANGE
    _open_at_normal_priority(stream)
    return stream


def _open_at_normal_priority(stream: Any) -> None:
    """Opens the encoder and restores the scheduling of its threads and of the caller.

    SVT-AV1 gives both real-time priority 99 if permitted, which would preempt the guard.
    """
    if not hasattr(os, "sched_getscheduler"):
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    stream.codec_context.open()
    for thread in Path("/proc/self/task").iterdir():
        try:
            if os.sched_getparam(int(thread.name)).sched_priority == SVT_PRIORITY:
                os.sched_setscheduler(int(thread.name), *before)
        except ProcessLookupError:  # the thread has ended meanwhile
            continue


def rate_fraction(fps: float) -> Fraction:
    """A rate [Hz] as the fraction of its decimal digits: 2997/100 for 29.97."""
    return Fraction(str(fps)).limit_denominator(MAX_DENOMINATOR)


def read_into(out: np.ndarray, path: Path, first: int, fps: float) -> None:
    """Decodes frames `first` to `first + T` of a file into uint8 `[T, H, W, 3]` RGB `out`.

    Raises DatasetError if the file is missing or damaged, or lacks one of the frames.
    """
    if not path.is_file():
        raise DatasetError(f"{path} is missing; copy the folder again")
    try:
        found = _decode(out, path, first, fps)
    except (av.error.FFmpegError, *CONTENT_ERRORS) as error:
        raise DatasetError(
            f"{path}: the video cannot be decoded ({short_message(error)}); copy it again"
        ) from error
    if found != len(out):
        raise DatasetError(
            f"{path}: frame {first + found} is missing, the episode has frames {first} to "
            f"{first + len(out) - 1}"
        )


def _decode(out: np.ndarray, path: Path, first: int, fps: float) -> int:
    """Number of consecutive frames found."""
    found = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        _check_size((stream.height, stream.width), path, out.shape[1:3])
        if first:  # seek half a frame early, so that a rounded stamp is not skipped
            container.seek(int((first - 0.5) / fps / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            index = float(frame.pts * stream.time_base) * fps - first
            if index < -0.5:  # between the key frame and the first one wanted
                continue
            if found == len(out) or abs(index - found) > MAX_STAMP_ERROR:
                break
            _check_frame(frame, path, out.shape[1:3])
            out[found] = frame.to_ndarray(format="rgb24")
            found += 1
    return found


def _check_frame(frame: Any, path: Path, size: tuple[int, ...]) -> None:
    """Raises DatasetError unless the frame has this size and is colour or 8-bit grey."""
    _check_size((frame.height, frame.width), path, size)
    components = frame.format.components
    if len(components) < 3 and components[0].bits > 8:
        raise DatasetError(
            f"{path}: the pixel format is {frame.format.name}, such as depth; wanted colour images"
        )


def _check_size(found: tuple[int, int], path: Path, size: tuple[int, ...]) -> None:
    if found != tuple(size):
        raise DatasetError(f"{path}: the video is {found}, info.json says {tuple(size)}")
