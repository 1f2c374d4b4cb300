"""Pictures as JPEG, for networks and for machines without room in shared memory."""

import struct

import cv2
import numpy as np

from nac_ros.errors import BadObservation, CameraError

QUALITY = 90  # unless a camera is told another
MAX_PIXELS = 1 << 26  # twice those of 8K; a file of a few bytes can stand for any size
HEADER = 1 << 20  # bytes that are searched for the size; a JPEG may have other things before it
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"


def encode(image: np.ndarray, quality: int) -> bytes:
    """An RGB uint8 `[H, W, 3]` picture at a quality of 1 to 100."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise CameraError(f"a picture of {image.shape} cannot be encoded as JPEG")
    return data.tobytes()


def decode(data: bytes | memoryview) -> np.ndarray:
    """RGB uint8 `[H, W, 3]` of a JPEG or PNG; raises BadObservation where it is neither, or has
    more than MAX_PIXELS."""
    flat = np.frombuffer(data, np.uint8)
    width, height = _size(bytes(flat[:HEADER]))
    if width * height > MAX_PIXELS:
        text = (
            f"a picture of {width}x{height} is larger than {MAX_PIXELS} pixels; send a smaller one"
        )
        raise BadObservation(text, "image_size")
    image = cv2.imdecode(flat, cv2.IMREAD_COLOR) if width * height else None
    if image is None:
        raise BadObservation(f"{len(flat)} bytes are no picture in JPEG or PNG", "image_encoding")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _size(data: bytes) -> tuple[int, int]:
    """Width and height [pixels] that a PNG or JPEG says it has; (0, 0) where it is neither."""
    if data.startswith(PNG) and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    at = 2 if data.startswith(JPEG) else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        filler = marker == 0xFF
        at += 1 if filler else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0, 0
