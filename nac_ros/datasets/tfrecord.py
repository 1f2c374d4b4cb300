"""TFRecord files of tf.Example, read without TensorFlow: frames, checksums, and fields."""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import google_crc32c
import numpy as np

from nac_ros.core.errors import DatasetError

HEADER, FOOTER = 12, 4  # [bytes] u64 length and its u32 checksum; the data's u32 checksum
MASK_DELTA = 0xA282EAD8  # TFRecord rotates a checksum and adds this before it is stored
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types
EXAMPLE_FEATURES, FEATURES_MAP, MAP_KEY, MAP_VALUE = 1, 1, 1, 2  # field numbers of tf.Example
BYTES_LIST, FLOAT_LIST, INT64_LIST, VALUES = 1, 2, 3, 1
Values: TypeAlias = "list[memoryview] | np.ndarray"


class Span(NamedTuple):
    """Where a record's data lies in its file [bytes]."""

    start: int
    length: int


class RecordFile:
    """One file, mapped into memory; `spans` are its records."""

    def __init__(self, path: Path):
        self.path = path
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise DatasetError(f"{path} is empty; copy the file again")
            self._bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self.spans = list(self._scan())

    def record(self, number: int, check: bool = True) -> memoryview:
        """Data of a record; raises DatasetError when its checksum is another."""
        start, length = self.spans[number]
        data = self._bytes[start : start + length]
        if check and _checksum(data) != self._u32(start + length):
            raise DatasetError(
                f"{self.path}: record {number} is damaged, its checksum differs; copy the file "
                "again"
            )
        return data

    def _scan(self) -> Iterator[Span]:
        place, number, size = 0, 0, len(self._bytes)
        while place < size:
            header = self._bytes[place : place + HEADER]
            if len(header) < HEADER or _checksum(header[:8]) != self._u32(place + 8):
                raise DatasetError(
                    f"{self.path} is damaged or no TFRecord at byte {place}, record {number}"
                )
            (length,) = struct.unpack("<Q", header[:8])
            if place + HEADER + length + FOOTER > size:
                raise DatasetError(f"{self.path} ends inside record {number}; copy it again")
            yield Span(place + HEADER, length)
            place, number = place + HEADER + length + FOOTER, number + 1

    def _u32(self, place: int) -> int:
        return struct.unpack("<I", self._bytes[place : place + 4])[0]


def example(data: memoryview) -> dict[str, Values]:
    """Feature -> its flat values: bytes, float32 or int64; raises ValueError if malformed."""
    found: dict[str, Values] = {}
    for number, features in _fields(data):
        if number == EXAMPLE_FEATURES:
            for entry_number, entry in _fields(_sized(features)):
                if entry_number == FEATURES_MAP:
                    key, feature = _map_entry(_sized(entry))
                    found[key] = _values(feature)
    return found


def _map_entry(data: memoryview) -> tuple[str, memoryview]:
    parts = {number: _sized(value) for number, value in _fields(data)}
    return bytes(parts[MAP_KEY]).decode(), parts.get(MAP_VALUE, data[:0])


def _values(feature: memoryview) -> Values:
    for kind, content in _fields(feature):
        items = [value for number, value in _fields(_sized(content)) if number == VALUES]
        if kind == BYTES_LIST:
            return [_sized(item) for item in items]
        if kind == FLOAT_LIST:  # packed, or one after the other
            return np.frombuffer(b"".join(_sized(item) for item in items), "<f4")
        if kind == INT64_LIST:
            numbers = [n for i in items for n in ([i] if isinstance(i, int) else _varints(i))]
            return np.array(numbers, np.uint64).view(np.int64)
    return []


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field number and content: an int of a varint, else the bytes."""
    place, size = 0, len(data)
    while place < size:
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire not in (FIXED64, BYTES, FIXED32):
            raise ValueError(f"protobuf wire type {wire} at byte {place}")
        length = {FIXED64: 8, FIXED32: 4}.get(wire, 0)
        if wire == BYTES:
            length, place = _varint(data, place)
        if place + length > size:
            raise ValueError(f"a field at byte {place} is longer than its message")
        yield number, data[place : place + length]
        place += length


def _sized(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where bytes were expected")
    return value


def _varints(data: memoryview) -> list[int]:
    numbers, place = [], 0
    while place < len(data):
        number, place = _varint(data, place)
        numbers.append(number)
    return numbers


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise ValueError(f"a number at byte {place} is cut off")
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def _checksum(data: memoryview) -> int:
    crc = google_crc32c.value(bytes(data))
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF
