"""Camera frames as video files: one file per episode and camera, any frame found by its index."""

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from nac_ros.core import files
from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError, DatasetError
from nac_ros.datasets.lerobot.tables import quote

PIXELS = "yuv420p"
BT601, LIMITED_RANGE = 5, 1  # FFmpeg's numbers of the colours that its RGB conversion gives
SVT_PRIORITY = 99
LATE = 0.1  # [frame periods] by which a stamp may miss its frame: containers round to 1 ms

MAX_DENOMINATOR = 1_000_000  # of a rate: keeps 29.97 and 30000/1001 apart, fits FFmpeg's int32
# what FFmpeg and its binding raise about a damaged file
FAULTS = (
    av.error.FFmpegError, MemoryError, LookupError, ValueError, TypeError, ArithmeticError,
    AttributeError,
)  # fmt: skip


class VideoEncoder(NamedTuple):
    """FFmpeg's encoder, its fixed options, and the one that holds its number of threads."""

    encoder: str
    options: dict[str, str]
    threads: str


CODECS = {
    "h264": VideoEncoder("libx264", {"preset": "veryfast", "bf": "0"}, "threads={}"),
    "av1": VideoEncoder("libsvtav1", {"preset": "8"}, "lp={}"),
}


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """How camera frames are encoded.

    crf: constant rate factor, 0 best; gop: frames from one that stands alone to the next;
    threads: of each encoder, so that it leaves cores to whatever else runs
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
        """The `info` of a video feature."""
        return {
            "video.height": height,
            "video.width": width,
            "video.codec": self.codec,
            "video.pix_fmt": PIXELS,
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
            "video.g": self.gop,
            "video.crf": self.crf,
        }


def write_video(path: Path, frames: np.ndarray, fps: float, config: VideoConfig) -> None:
    """uint8 `[T, H, W, 3]` RGB -> mp4 that appears complete or not at all."""
    files.replace_atomically(path, lambda to: _encode(to, frames, fps, config))


def read_into(out: np.ndarray, path: Path, first: int, fps: float) -> None:
    """Frames `first` to `first + T` of the file -> uint8 `[T, H, W, 3]` RGB `out`.

    Raises DatasetError when the file is missing or damaged, or a frame is not where it must be.
    """
    if not path.is_file():
        raise DatasetError(f"{path} is missing; copy the folder again")
    try:
        found = _decode(out, path, first, fps)
    except FAULTS as error:
        raise DatasetError(
            f"{path}: the video cannot be decoded ({quote(error)}); copy it again"
        ) from error
    if found != len(out):
        raise DatasetError(
            f"{path}: frame {first + found} is missing, the episode has frames {first} to "
            f"{first + len(out) - 1}"
        )


def rate_fraction(fps: float) -> Fraction:
    """A rate [Hz] as the fraction that its decimal digits say, 2997/100 for 29.97."""
    return Fraction(str(fps)).limit_denominator(MAX_DENOMINATOR)


def _encode(path: Path, frames: np.ndarray, fps: float, config: VideoConfig) -> None:
    os.environ.setdefault("SVT_LOG", "1")  # its encoder tells every setting on stderr otherwise
    with av.open(str(path), "w", format="mp4") as container:
        stream = _add_stream(container, frames.shape, fps, config)
        _open(stream)
        for k, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = k, 1 / rate_fraction(fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        kept = sum(packet.size > 0 for packet in container.demux(video=0))
    if kept != len(frames):
        raise DatasetError(f"{path}: {kept} of {len(frames)} frames were encoded")


def _add_stream(container: Any, shape: tuple[int, ...], fps: float, config: VideoConfig) -> Any:
    _, height, width, _ = shape
    codec = CODECS[config.codec]
    options = {**codec.options, "crf": str(config.crf), "g": str(config.gop)}
    key = "x264-params" if config.codec == "h264" else "svtav1-params"
    options[key] = codec.threads.format(config.threads)
    stream = container.add_stream(codec.encoder, rate=rate_fraction(fps), options=options)
    stream.height, stream.width, stream.pix_fmt = height, width, PIXELS
    stream.codec_context.colorspace = BT601
    stream.codec_context.color_range = LIMITED_RANGE
    return stream


def _open(stream: Any) -> None:
    """Opens the encoder and takes back the priority that it took.

    SVT-AV1 gives itself and whoever calls it real-time priority 99 where it may, which is before
    any guard.
    """
    if not hasattr(os, "sched_getscheduler"):
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    stream.codec_context.open()
    for thread in Path("/proc/self/task").iterdir():
        try:
            if os.sched_getparam(int(thread.name)).sched_priority == SVT_PRIORITY:
                os.sched_setscheduler(int(thread.name), *before)
        except ProcessLookupError:  # it has ended meanwhile
            continue


def _decode(out: np.ndarray, path: Path, first: int, fps: float) -> int:
    """How many frames were found before one was missing."""
    found = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        _check_size((stream.height, stream.width), path, out.shape[1:3])
        if first:  # half a frame early: whichever way a container rounds, it is not too late
            container.seek(int((first - 0.5) / fps / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            place = float(frame.pts * stream.time_base) * fps - first
            if place < -0.5:
                continue
            if found == len(out) or abs(place - found) > LATE:
                break
            _check_frame(frame, path, out.shape[1:3])
            out[found] = frame.to_ndarray(format="rgb24")
            found += 1
    return found


def _check_frame(frame: Any, path: Path, size: tuple[int, ...]) -> None:
    """Raises DatasetError unless it is a picture in colour, or 8 bits of grey, of the size."""
    _check_size((frame.height, frame.width), path, size)
    components = frame.format.components
    if len(components) < 3 and components[0].bits > 8:
        raise DatasetError(
            f"{path}: the video is {frame.format.name}, such as depth; a camera's is in colour"
        )


def _check_size(found: tuple[int, int], path: Path, size: tuple[int, ...]) -> None:
    if found != tuple(size):
        raise DatasetError(f"{path}: the video is {found}, info.json says {tuple(size)}")
