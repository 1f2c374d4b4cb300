"""Core values from messages, whoever decoded them: rclpy on the arm, rosbags from a recording.

Whatever a message cannot mean raises, nothing is repaired.
"""

import struct
from collections.abc import Collection, Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from nac_ros.core.errors import BadObservation

NANO = 1_000_000_000
JPEG_FORMAT = "rgb8; jpeg compressed bgr8"  # of a CompressedImage, as image_transport says it
SHOWN = 200  # characters of another node's text in a sentence, at most


class Encoding(NamedTuple):
    """How an image of 8 bits lies in a message: bytes of a pixel, and those of R, G, B."""

    n_bytes: int
    rgb: slice | list[int]


ENCODINGS = {
    "rgb8": Encoding(3, slice(None)),
    "bgr8": Encoding(3, slice(None, None, -1)),
    "rgba8": Encoding(4, slice(3)),
    "bgra8": Encoding(4, slice(2, None, -1)),
    "mono8": Encoding(1, [0, 0, 0]),
}


class ImageHeader(NamedTuple):
    """What a sensor_msgs/Image says of its pixels; n_bytes: length of its data."""

    height: int
    width: int
    encoding: str
    step: int
    n_bytes: int


def to_seconds(stamp: Any, origin_ns: int = 0) -> float:
    """Seconds from a stamp or a duration, after `origin_ns`."""
    return (stamp.sec * NANO + stamp.nanosec - origin_ns) / NANO


def positions_by_name(
    names: Sequence[str], positions: Sequence[float], known: Collection[str]
) -> dict[str, float]:
    """Positions [rad or m] of those joints of a JointState that are `known`, by name.

    Raises BadObservation that names the joint: named twice, without a position, or not finite.
    """
    columns = [i for i, name in enumerate(names) if name in known]
    if columns and len(positions) != len(names):
        raise BadObservation(_wrong_length(names, positions, columns), "joint_names")
    found: dict[str, float] = {}
    for i in columns:
        if names[i] in found:
            text = f"joint_states: {names[i]} is named twice in a message; check the driver"
            raise BadObservation(text, "joint_names")
        found[names[i]] = float(positions[i])
    if bad := [name for name, value in found.items() if not isfinite(value)]:
        text = f"joint_states: not finite at {', '.join(bad)}; check the driver"
        raise BadObservation(text, "not_finite")
    return found


def from_joint_state(message: Any, names: Sequence[str]) -> np.ndarray:
    """Float64 `[D]` of a message that holds all of `names`, in their order; others are left out.

    Raises BadObservation that names the joint, as `positions_by_name` and for missing ones.
    """
    found = positions_by_name(message.name, message.position, names)
    missing = ", ".join(name for name in names if name not in found)
    if missing:
        came = named(message.name)
        text = f"joint_states: {missing} missing; the message holds {came}"
        raise BadObservation(text, "joint_names")
    return np.array([found[name] for name in names])


def named(names: Sequence[str]) -> str:
    """Joint names of a message for a sentence, the first ones where there are many."""
    return ", ".join(names[:32])[:SHOWN] or "no joint"


def from_image(message: Any) -> np.ndarray:
    """RGB uint8 `[H, W, 3]` of a sensor_msgs/Image; raises BadObservation for an encoding other
    than those of `ENCODINGS`, and for data that do not fit its size."""
    height, width = message.height, message.width
    header = ImageHeader(height, width, message.encoding, message.step, len(message.data))
    check_image(header)
    kind = ENCODINGS[message.encoding]
    flat = np.frombuffer(message.data, np.uint8).reshape(height, message.step)
    pixels = flat[:, : kind.n_bytes * width].reshape(height, width, kind.n_bytes)
    return pixels[..., kind.rgb]


def check_image(header: ImageHeader) -> None:
    """Raises BadObservation unless an image with this header can be read as RGB."""
    height, width, encoding, step, n_bytes = header
    if encoding not in ENCODINGS:
        text = (
            f"an image of encoding '{encoding[:SHOWN]}'; known are: {', '.join(ENCODINGS)}; "
            "set the camera driver to one of them"
        )
        raise BadObservation(text, "image_encoding")
    row = ENCODINGS[encoding].n_bytes * width
    if not (height and width) or step < row or n_bytes != step * height:
        text = (
            f"an image of {width}x{height} has {n_bytes} bytes in rows of {step}; wanted {height} "
            f"rows of at least {row} bytes for {encoding}"
        )
        raise BadObservation(text, "image_size")


def image_header(data: bytes) -> ImageHeader:
    """The header of a serialized sensor_msgs/Image (CDR), whose pixels are not touched; raises
    BadObservation for bytes that are no such message."""
    try:
        order = "<" if data[1] & 1 else ">"
        frame = struct.unpack_from(f"{order}I", data, 12)[0]
        at = _aligned(16 + frame)
        height, width, n_letters = struct.unpack_from(f"{order}3I", data, at)
        encoding = bytes(data[at + 12 : at + 12 + n_letters]).rstrip(b"\0").decode()
        step, n_bytes = struct.unpack_from(f"{order}2I", data, _aligned(at + 13 + n_letters))
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise BadObservation(f"{len(data)} bytes are no image message", "shape") from error
    return ImageHeader(height, width, encoding, step, n_bytes)


def _aligned(at: int) -> int:
    """The next place for a number of 4 bytes; 4 bytes of encapsulation change nothing."""
    return -(-at // 4) * 4


def _wrong_length(names: Sequence[str], positions: Sequence[float], columns: list[int]) -> str:
    without = [names[i] for i in columns if i >= len(positions)]
    said = f"joint_states: a message of {len(names)} names has {len(positions)} positions"
    if not without:
        return f"{said}; which belongs to {names[columns[0]]}? check the driver"
    return f"{said}, none for {named(without)}; the driver must publish the position of each"
