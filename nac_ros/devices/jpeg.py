"""Pictures as JPEG, for networks and for machines without room in shared memory."""

from typing import Any

import cv2
import numpy as np

from nac_ros.errors import BadObservation, CameraError

QUALITY = 90  # unless a camera is told another
PNG = b"\x89PNG"  # how a PNG begins
PNG_BITS = 24  # which of its bytes says how many bits a value has


def encode(image: np.ndarray, quality: int) -> bytes:
    """An RGB uint8 `[H, W, 3]` picture at a quality of 1 to 100."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise CameraError(f"a picture of {image.shape} cannot be encoded as JPEG")
    return data.tobytes()


def from_compressed(message: Any) -> np.ndarray:
    """RGB uint8 `[H, W, 3]` of a sensor_msgs/CompressedImage; raises BadObservation."""
    return decode(message.data)


def decode(data: bytes | memoryview) -> np.ndarray:
    """RGB uint8 `[H, W, 3]` of a JPEG, or a PNG of 8 bits; raises BadObservation otherwise."""
    flat = np.frombuffer(data, np.uint8)
    if bytes(flat[:4]) == PNG and len(flat) > PNG_BITS and flat[PNG_BITS] > 8:
        text = f"a PNG of {flat[PNG_BITS]} bits a value, as depth is; colour images have 8"
        raise BadObservation(text, "image_encoding")
    image = cv2.imdecode(flat, cv2.IMREAD_COLOR) if len(flat) else None
    if image is None:
        raise BadObservation(f"{len(flat)} bytes are no picture in JPEG or PNG", "image_encoding")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
