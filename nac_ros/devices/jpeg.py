"""Pictures as JPEG, for networks and for machines without room in shared memory."""

import cv2
import numpy as np

from nac_ros.errors import BadObservation, CameraError

QUALITY = 90  # unless a camera is told another


def encode(image: np.ndarray, quality: int) -> bytes:
    """An RGB uint8 `[H, W, 3]` picture at a quality of 1 to 100."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise CameraError(f"a picture of {image.shape} cannot be encoded as JPEG")
    return data.tobytes()


def decode(data: bytes | memoryview) -> np.ndarray:
    """RGB uint8 `[H, W, 3]` of a JPEG or PNG; raises BadObservation where it is neither."""
    flat = np.frombuffer(data, np.uint8)
    image = cv2.imdecode(flat, cv2.IMREAD_COLOR) if len(flat) else None
    if image is None:
        raise BadObservation(f"{len(flat)} bytes are no picture in JPEG or PNG", "image_encoding")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
