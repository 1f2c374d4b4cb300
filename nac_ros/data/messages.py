"""Serialized messages from core values, where no ROS is, for episodes that were converted."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nac_ros.data.bag import STORE
from nac_ros.data.streams import COMPRESSED, IMAGE, JOINTS, TEXT
from nac_ros.decode import JPEG_FORMAT, NANO
from nac_ros.devices import jpeg

NOTHING = np.zeros(0)


def joint_state(stamp: int, names: Sequence[str], positions: np.ndarray) -> bytes:
    """sensor_msgs/JointState of positions `[D]` at `stamp` [ns]."""
    return _serialized(
        JOINTS, header=_header(stamp, ""), name=list(names), velocity=NOTHING, effort=NOTHING,
        position=np.asarray(positions, np.float64),
    )  # fmt: skip


def image(stamp: int, camera: str, pixels: np.ndarray) -> bytes:
    """sensor_msgs/Image of RGB uint8 `[H, W, 3]` at `stamp` [ns]."""
    height, width, _ = pixels.shape
    return _serialized(
        IMAGE, header=_header(stamp, camera), height=height, width=width, encoding="rgb8",
        is_bigendian=0, step=3 * width, data=np.ascontiguousarray(pixels).reshape(-1),
    )  # fmt: skip


def compressed(stamp: int, camera: str, pixels: np.ndarray) -> bytes:
    """sensor_msgs/CompressedImage, JPEG, of RGB uint8 `[H, W, 3]` at `stamp` [ns]."""
    data = np.frombuffer(jpeg.encode(pixels, jpeg.QUALITY), np.uint8)
    return _serialized(
        COMPRESSED, header=_header(stamp, camera), format=JPEG_FORMAT, data=data
    )  # fmt: skip


def text(said: str) -> bytes:
    """std_msgs/String."""
    return _serialized(TEXT, data=said)


def _header(stamp: int, frame: str) -> Any:
    types = STORE.types
    time = types["builtin_interfaces/msg/Time"](*divmod(stamp, NANO))
    return types["std_msgs/msg/Header"](stamp=time, frame_id=frame)


def _serialized(kind: str, **values: Any) -> bytes:
    return bytes(STORE.serialize_cdr(STORE.types[kind](**values), kind))
