"""Images as PNG bytes and back, RGB on the outside."""

import struct
from typing import Any, NamedTuple

import cv2
import numpy as np

from nac_ros.core.errors import BadObservation, CameraError, DatasetError

LEVEL = 4  # zlib level: twin frames 15-20 % above the size of level 9 in a fifteenth of its time
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
# PNG's colour type -> channels: grey, RGB, palette, grey and alpha, RGB and alpha
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
# JPEG's markers of a frame's size, and those without a length (ISO/IEC 10918-1, table B.1)
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
BARE_MARKERS = frozenset(range(0xD0, 0xDA)) | {0x01}


class Header(NamedTuple):
    """What an encoded image says of itself; bits: of each channel."""

    height: int
    width: int
    channels: int
    bits: int


def encode_png(image: np.ndarray) -> bytes:
    """uint8 `[H, W, 3]` RGB -> PNG."""
    blue_first = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", blue_first, [cv2.IMWRITE_PNG_COMPRESSION, LEVEL])
    if not done:
        raise DatasetError(f"an image of shape {image.shape} could not be encoded as PNG")
    return data.tobytes()


def decode_into(target: np.ndarray, data: bytes | memoryview, where: str) -> None:
    """PNG (or JPEG) -> uint8 `[H, W, 3]` RGB `target`; `where` names the frame in errors.

    A grey image of 8 bits becomes RGB. Raises DatasetError for one of other than 8 bits, with an
    alpha channel, or of another size, before it is decoded.
    """
    header = read_header(data)
    if header is None:
        raise DatasetError(f"{where}: the image cannot be decoded; run `nac data check`")
    if header.bits > 8 or header.channels in (2, 4):
        raise DatasetError(
            f"{where}: the image has {header.channels} channels of {header.bits} bits, such as "
            "depth; a camera's have 3 of 8 bits"
        )
    if (header.height, header.width) != target.shape[:2]:
        raise DatasetError(
            f"{where}: the image is {header[:2]}, but info.json says {target.shape[:2]}"
        )
    try:
        image = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error:
        image = None
    if image is None or image.shape != target.shape:
        raise DatasetError(f"{where}: the image cannot be decoded; run `nac data check`")
    cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=target)


def read_header(data: bytes | memoryview) -> Header | None:
    """Of PNG or JPEG bytes, without decoding them; None of anything else."""
    data = bytes(data)  # of a view as well
    if data.startswith(PNG) and data[12:16] == b"IHDR" and len(data) >= 26:
        width, height = (int.from_bytes(data[k : k + 4], "big") for k in (16, 20))
        return Header(height, width, PNG_CHANNELS.get(data[25], 0), data[24])
    return _jpeg_header(data) if data.startswith(JPEG) else None


def _jpeg_header(data: bytes) -> Header | None:
    """From the first frame marker."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in FRAME_MARKERS:
            height, width = (int.from_bytes(data[k : k + 2], "big") for k in (at + 5, at + 7))
            return Header(height, width, data[at + 9], data[at + 4])
        if marker == 0xFF:
            at += 1  # a fill byte
        elif marker in BARE_MARKERS:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


QUALITY = 90  # unless a camera is told another
MAX_PIXELS = 1 << 26  # twice those of 8K; a file of a few bytes can stand for any size
HEADER = 1 << 20  # bytes that are searched for the size; a JPEG may have other things before it
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"  # how they begin
PNG_BITS = 24  # which byte of a PNG says how many bits a value has


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
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
    """RGB uint8 `[H, W, 3]` of a JPEG, or a PNG of 8 bits a value; raises BadObservation where it
    is neither, or has more than MAX_PIXELS."""
    flat = np.frombuffer(data, np.uint8)
    width, height = _size(bytes(flat[:HEADER]))
    if width * height > MAX_PIXELS:
        text = (
            f"a picture of {width}x{height} is larger than {MAX_PIXELS} pixels; send a smaller one"
        )
        raise BadObservation(text, "image_size")
    if bytes(flat[:8]) == PNG and len(flat) > PNG_BITS and flat[PNG_BITS] > 8:
        text = f"a PNG of {flat[PNG_BITS]} bits a value, as depth is; colour images have 8"
        raise BadObservation(text, "image_encoding")
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
