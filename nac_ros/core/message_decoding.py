"""Joint states and images from ROS messages, live or recorded, without rclpy.

An invalid message raises BadObservation; nothing is repaired.
"""

import struct
from collections.abc import Collection, Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from nac_ros.core.errors import BadObservation

NANO = 1_000_000_000
JPEG_FORMAT = "rgb8; jpeg compressed bgr8"  # of a CompressedImage from image_transport
MAX_TEXT = 200  # characters of another node's text in a message


class Encoding(NamedTuple):
    """Layout of an image with 8 bits per channel: bytes of a pixel, and those of R, G, B."""

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
    """Fields of a sensor_msgs/Image; step: bytes of a row; n_bytes: length of its data."""

    height: int
    width: int
    encoding: str
    step: int
    n_bytes: int


def to_seconds(stamp: Any, origin_ns: int = 0) -> float:
    """Seconds of a ROS time stamp or duration, counted from `origin_ns`."""
    return (stamp.sec * NANO + stamp.nanosec - origin_ns) / NANO


def positions_by_name(
    names: Sequence[str], positions: Sequence[float], known: Collection[str]
) -> dict[str, float]:
    """Positions [rad or m] of those joints of a JointState that are `known`, by name.

    Raises BadObservation that names the joint if it is named twice, has no position, or is not
    finite.
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
    """Float64 `[D]` of a JointState that has all of `names`, in this order; others are ignored.

    Raises BadObservation like `positions_by_name`, and for missing joints.
    """
    found = positions_by_name(message.name, message.position, names)
    missing = ", ".join(name for name in names if name not in found)
    if missing:
        text = f"joint_states: {missing} missing; the message holds {format_names(message.name)}"
        raise BadObservation(text, "joint_names")
    return np.array([found[name] for name in names])


def format_names(names: Sequence[str]) -> str:
    """Joint names of a message as a text of at most MAX_TEXT characters."""
    return ", ".join(names[:32])[:MAX_TEXT] or "no joint"


def from_image(message: Any) -> np.ndarray:
    """RGB uint8 `[H, W, 3]` of a sensor_msgs/Image.

    Raises BadObservation for an encoding that is not in ENCODINGS, and if the data do not fit the
    size.
    """
    height, width = message.height, message.width
    header = ImageHeader(height, width, message.encoding, message.step, len(message.data))
    check_image(header)
    encoding = ENCODINGS[message.encoding]
    rows = np.frombuffer(message.data, np.uint8).reshape(height, message.step)
    pixels = rows[:, : encoding.n_bytes * width].reshape(height, width, encoding.n_bytes)
    return pixels[..., encoding.rgb]


def check_image(header: ImageHeader) -> None:
    """Raises BadObservation unless an image with this header can be read as RGB."""
    height, width, encoding, step, n_bytes = header
    if encoding not in ENCODINGS:
        text = (
            f"an image of encoding '{encoding[:MAX_TEXT]}'; known are: {', '.join(ENCODINGS)}; "
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
    """The header of a serialized sensor_msgs/Image (CDR), without reading its pixels.

    Raises BadObservation for bytes that are no such message.
    """
    # CDR: 4 bytes of encapsulation, then the stamp (8 bytes) and the frame id with its length in
    # front; numbers of 4 bytes are aligned to 4, to which the encapsulation adds nothing.
    try:
        order = "<" if data[1] & 1 else ">"
        frame_length = struct.unpack_from(f"{order}I", data, 12)[0]
        at = _aligned(16 + frame_length)
        height, width, n_letters = struct.unpack_from(f"{order}3I", data, at)
        encoding = bytes(data[at + 12 : at + 12 + n_letters]).rstrip(b"\0").decode()
        # is_bigendian takes one byte between the encoding and the step
        step, n_bytes = struct.unpack_from(f"{order}2I", data, _aligned(at + 13 + n_letters))
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise BadObservation(f"{len(data)} bytes are no image message", "shape") from error
    return ImageHeader(height, width, encoding, step, n_bytes)


def _aligned(at: int) -> int:
    """The next multiple of 4."""
    return -(-at // 4) * 4


def _wrong_length(names: Sequence[str], positions: Sequence[float], columns: list[int]) -> str:
    without = [names[i] for i in columns if i >= len(positions)]
    counts = f"joint_states: a message has {len(names)} names and {len(positions)} positions"
    if not without:
        return f"{counts}; which position is that of {names[columns[0]]}? check the driver"
    return f"{counts}, none for {format_names(without)}; the driver must publish one for each"
