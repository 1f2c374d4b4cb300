"""Encodes RGB images as PNG or JPEG and decodes them, checking the header first."""

from typing import Any, NamedTuple

import cv2
import numpy as np

from nac_ros.core.errors import BadObservation, CameraError, DatasetError, NacError

PNG_LEVEL = (
    4  # of zlib: twin images are 15-20 % larger than at level 9, in a fifteenth of the time
)
JPEG_QUALITY = 90  # default
MAX_PIXELS = 1 << 26  # twice those of 8K; a file of a few bytes can declare any size
HEADER_BYTES = 1 << 20  # in which the size is searched; a JPEG may have other segments before it
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"  # signatures
# PNG's colour type -> channels: grey, RGB, palette, grey and alpha, RGB and alpha
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
# JPEG's markers of a frame's size, and those without a length (ISO/IEC 10918-1, table B.1)
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
BARE_MARKERS = frozenset(range(0xD0, 0xDA)) | {0x01}


class Header(NamedTuple):
    """Size and channels that an encoded image declares; bits: of each channel."""

    height: int
    width: int
    channels: int
    bits: int


def encode_png(image: np.ndarray) -> bytes:
    """PNG of an RGB uint8 image `[H, W, 3]`."""
    return _encode(image, ".png", [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL], DatasetError)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """JPEG of an RGB uint8 image `[H, W, 3]` at a quality of 1 to 100."""
    return _encode(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality], CameraError)


def _encode(image: np.ndarray, suffix: str, options: list[int], error: type[NacError]) -> bytes:
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise error(f"an image of shape {image.shape} cannot be encoded as {suffix[1:]}")
    return data.tobytes()


def decode_into(target: np.ndarray, data: bytes | memoryview, where: str) -> None:
    """Decodes a PNG or JPEG into the RGB uint8 array `target` `[H, W, 3]`.

    where: names the frame in errors

    A grey image becomes RGB. Raises DatasetError, before decoding, for an image with more than
    8 bits per channel, with an alpha channel, or of another size.
    """
    header = read_header(data)
    if header is None:
        raise DatasetError(f"{where}: the image cannot be decoded; run `nac data check`")
    if header.bits > 8 or header.channels in (2, 4):
        raise DatasetError(
            f"{where}: the image has {header.channels} channels of {header.bits} bits, such as "
            "depth; a camera image has 3 of 8 bits"
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


def decode_compressed_image(message: Any) -> np.ndarray:
    """RGB uint8 `[H, W, 3]` of a sensor_msgs/CompressedImage; raises BadObservation."""
    return decode_image(message.data)


def decode_image(data: bytes | memoryview) -> np.ndarray:
    """RGB uint8 `[H, W, 3]` of a JPEG or PNG with 8 bits per channel; raises BadObservation for
    other data and for more than MAX_PIXELS."""
    flat = np.frombuffer(data, np.uint8)
    header = read_header(bytes(flat[:HEADER_BYTES])) or Header(0, 0, 0, 0)
    n_pixels = header.width * header.height
    if n_pixels > MAX_PIXELS:
        raise BadObservation(
            f"an image of {header.width}x{header.height} is larger than {MAX_PIXELS} pixels; send "
            "a smaller one",
            "image_size",
        )
    if header.bits > 8:
        text = f"an image with {header.bits} bits per channel, such as depth; wanted 8"
        raise BadObservation(text, "image_encoding")
    image = cv2.imdecode(flat, cv2.IMREAD_COLOR) if n_pixels else None
    if image is None:
        raise BadObservation(f"{len(flat)} bytes are no JPEG or PNG image", "image_encoding")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_header(data: bytes | memoryview) -> Header | None:
    """Header of PNG or JPEG data, without decoding it; None for other data."""
    data = bytes(data)
    if data.startswith(PNG) and data[12:16] == b"IHDR" and len(data) >= 26:
        width, height = (int.from_bytes(data[k : k + 4], "big") for k in (16, 20))
        return Header(height, width, PNG_CHANNELS.get(data[25], 0), data[24])
    return _jpeg_header(data) if data.startswith(JPEG) else None


def _jpeg_header(data: bytes) -> Header | None:
    """Header from the first frame marker."""
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
