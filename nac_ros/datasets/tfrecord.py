"""Reads TFRecord files of tf.train.Example without TensorFlow.

File format: https://www.tensorflow.org/tutorials/load_data/tfrecord. A record is a u64 length, its
masked CRC32C, the data, and the data's masked CRC32C. The data is a protobuf message.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import google_crc32c
import numpy as np

from nac_ros.core.errors import DatasetError

HEADER, FOOTER = 12, 4  # [bytes] length and its checksum; checksum of the data
MASK_DELTA = 0xA282EAD8  # added to a rotated checksum before it is stored
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types
EXAMPLE_FEATURES, FEATURES_MAP, MAP_KEY, MAP_VALUE = 1, 1, 1, 2  # field numbers of tf.Example
BYTES_LIST, FLOAT_LIST, INT64_LIST, VALUES = 1, 2, 3, 1
Values: TypeAlias = "list[memoryview] | np.ndarray"


class Span(NamedTuple):
    """Position of a record's data in its file [bytes]."""

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
        self.spans = list(self._find_records())

    def record(self, number: int, check: bool = True) -> memoryview:
        """Data of a record; raises DatasetError if its checksum does not match."""
        start, length = self.spans[number]
        data = self._bytes[start : start + length]
        if check and _checksum(data) != self._u32(start + length):
            raise DatasetError(
                f"{self.path}: record {number} is damaged, its checksum differs; copy the file "
                "again"
            )
        return data

    def _find_records(self) -> Iterator[Span]:
        position, number, size = 0, 0, len(self._bytes)
        while position < size:
            header = self._bytes[position : position + HEADER]
            if len(header) < HEADER or _checksum(header[:8]) != self._u32(position + 8):
                raise DatasetError(
                    f"{self.path} is damaged or no TFRecord at byte {position}, record {number}"
                )
            (length,) = struct.unpack("<Q", header[:8])
            end = position + HEADER + length + FOOTER
            if end > size:
                raise DatasetError(f"{self.path} ends inside record {number}; copy it again")
            yield Span(position + HEADER, length)
            position, number = end, number + 1

    def _u32(self, position: int) -> int:
        return struct.unpack("<I", self._bytes[position : position + 4])[0]


def parse_example(data: memoryview) -> dict[str, Values]:
    """Feature -> its flat values: bytes, float32 or int64; raises ValueError if malformed."""
    # Example { Features features = 1 }, Features { map<string, Feature> feature = 1 }; a map is a
    # repeated message of key and value.
    found: dict[str, Values] = {}
    for number, features in _fields(data):
        if number == EXAMPLE_FEATURES:
            for entry_number, entry in _fields(_as_bytes(features)):
                if entry_number == FEATURES_MAP:
                    key, feature = _map_entry(_as_bytes(entry))
                    found[key] = _values(feature)
    return found


def _map_entry(data: memoryview) -> tuple[str, memoryview]:
    parts = {number: _as_bytes(value) for number, value in _fields(data)}
    return bytes(parts[MAP_KEY]).decode(), parts.get(MAP_VALUE, data[:0])


def _values(feature: memoryview) -> Values:
    """Content of a Feature: a list of bytes, floats or integers. Numbers are packed into one field
    or have a field each."""
    for list_type, content in _fields(feature):
        items = [value for number, value in _fields(_as_bytes(content)) if number == VALUES]
        if list_type == BYTES_LIST:
            return [_as_bytes(item) for item in items]
        if list_type == FLOAT_LIST:
            return np.frombuffer(b"".join(_as_bytes(item) for item in items), "<f4")
        if list_type == INT64_LIST:
            numbers = [n for i in items for n in ([i] if isinstance(i, int) else _varints(i))]
            return np.array(numbers, np.uint64).view(np.int64)
    return []


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and content of each protobuf field: an int for a varint, else the bytes."""
    position, size = 0, len(data)
    while position < size:
        tag, position = _varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire_type not in (FIXED64, BYTES, FIXED32):
            raise ValueError(f"protobuf wire type {wire_type} at byte {position}")
        length = {FIXED64: 8, FIXED32: 4}.get(wire_type, 0)
        if wire_type == BYTES:
            length, position = _varint(data, position)
        if position + length > size:
            raise ValueError(f"a field at byte {position} is longer than its message")
        yield number, data[position : position + length]
        position += length


def _as_bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where bytes were expected")
    return value


def _varints(data: memoryview) -> Iterator[int]:
    position = 0
    while position < len(data):
        number, position = _varint(data, position)
        yield number


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A protobuf varint, 7 bits a byte from the lowest on, and the position after it."""
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise ValueError(f"a number at byte {position} is cut off")
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def _checksum(data: memoryview) -> int:
    """The masked CRC32C."""
    crc = google_crc32c.value(bytes(data))
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF
