"""Core values from messages, whoever decoded them: rclpy on the arm, rosbags from a recording.

Whatever a message cannot mean raises, nothing is repaired.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nac_ros.errors import BadObservation

NANO = 1_000_000_000
CHANNELS = {"rgb8": slice(None), "bgr8": slice(None, None, -1)}  # encoding -> order that gives RGB
JPEG_FORMAT = "rgb8; jpeg compressed bgr8"  # of a CompressedImage, as image_transport says it


def to_seconds(stamp: Any, origin_ns: int = 0) -> float:
    """Seconds from a stamp or a duration, after `origin_ns`."""
    return (stamp.sec * NANO + stamp.nanosec - origin_ns) / NANO


def from_joint_state(message: Any, names: Sequence[str]) -> np.ndarray:
    """Float64 `[D]` in the order of `names`, whatever the message's; others are left out."""
    found = dict(zip(message.name, message.position))
    missing = ", ".join(name for name in names if name not in found)
    if missing:
        came = ", ".join(message.name) or "no joint"
        text = f"joint_states: {missing} missing; the message holds {came}"
        raise BadObservation(text, "joint_names")
    return np.array([found[name] for name in names])


def from_image(message: Any) -> np.ndarray:
    """RGB uint8 `[H, W, 3]`; raises BadObservation for encodings other than rgb8 and bgr8."""
    if message.encoding not in CHANNELS:
        known = ", ".join(CHANNELS)
        text = f"an image of encoding '{message.encoding}'; known are: {known}"
        raise BadObservation(text, "image_encoding")
    row = 3 * message.width
    if message.step < row or len(message.data) != message.step * message.height:
        text = (
            f"an image of {message.width}x{message.height} has {len(message.data)} bytes in rows "
            f"of {message.step}; wanted rows of at least {row}"
        )
        raise BadObservation(text, "image_size")
    flat = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    pixels = flat[:, :row].reshape(message.height, message.width, 3)
    return pixels[..., CHANNELS[message.encoding]]
