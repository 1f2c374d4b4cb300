"""Reads an untrusted call log line by line, within size limits.

A compressed array can expand to gigabytes, and a mapping could name any object. So the length of a
line and the total size of its arrays are limited, and only arrays, chunks and observations are
constructed.
"""

import base64
import zlib
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from nac_ros.control.call_log import FORMAT
from nac_ros.core.errors import DatasetError, NacError, show_text, show_value
from nac_ros.core.json_reader import parse_json
from nac_ros.core.types import ActionChunk, Observation

MAX_LINE = 32 << 20  # bytes of a line; the images of an observation are compressed
MAX_ARRAYS = 128 << 20  # bytes of all arrays of one line
MAX_POINTS = 10_000  # of a chunk
MAX_DIMENSIONS = 8  # of an array
NUMBERS = ("int8", "int16", "int32", "int64", "float16", "float32", "float64")
DTYPES = ("bool", "uint8", "uint16", "uint32", "uint64", *NUMBERS)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a segment as JSON values, as `to_json` wrote them; skips a truncated last line.

    Raises DatasetError if a line is not a mapping or is longer than MAX_LINE, and if the segment
    has another format than FORMAT.
    """
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}, line {number}"
        try:
            row = parse_json(line, where, DatasetError, finite=False)
        except DatasetError as error:
            if line.endswith(b"\n") or len(line) > MAX_LINE:
                raise DatasetError(f"{where} is damaged: {show_text(error, 400)}") from error
            return
        if not isinstance(row, dict):
            raise DatasetError(f"{where} is damaged: it holds {show_text(row, 60)}, no mapping")
        if number == 1 and row.get("format") != FORMAT:
            raise DatasetError(
                f"{path} is a call log of format {show_value(row.get('format'), 20)}, but this "
                f"version reads format {FORMAT}; use the version that recorded it"
            )
        yield row


def _lines(path: Path) -> Iterator[bytes]:
    try:
        if not path.is_file():
            raise DatasetError(f"{path} is no file; name the folder of a run")
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE + 1):
                yield line
                if len(line) > MAX_LINE:
                    raise DatasetError(f"{path} has a line of more than {MAX_LINE} bytes")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; copy it again") from error


def from_json(value: Any) -> Any:
    """The inverse of `call_log.to_json`; tuples become lists.

    Raises DatasetError for an invalid array, chunk or observation, and for arrays of more than
    MAX_ARRAYS bytes in total.
    """
    return _from_json(value, [MAX_ARRAYS])


def _from_json(value: Any, left: list[int]) -> Any:
    """left: one number, the bytes that arrays may still use."""
    if isinstance(value, list):
        return [_from_json(item, left) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value or "packed" in value:
        return _array(value, left)
    facts = {key: _from_json(item, left) for key, item in value.items()}
    if "ActionChunk" in facts:
        return _chunk(facts["ActionChunk"])
    return _observation(facts["Observation"]) if "Observation" in facts else facts


def _array(facts: dict[str, Any], left: list[int]) -> np.ndarray:
    dtype, shape = facts.get("dtype"), facts.get("shape")
    if dtype not in DTYPES:
        raise DatasetError(f"an array of {show_text(dtype, 40)}; known are: {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise DatasetError(f"an array of shape {show_text(shape, 60)}; wanted whole numbers")
    size = np.dtype(dtype).itemsize * prod(shape)
    left[0] -= size
    if len(shape) > MAX_DIMENSIONS or left[0] < 0:
        raise DatasetError(
            f"an array of shape {show_text(shape, 60)}; all arrays of a line have at most "
            f"{MAX_ARRAYS} bytes, and an array has at most {MAX_DIMENSIONS} dimensions"
        )
    try:
        if "array" in facts:
            return np.array(_numbers(facts["array"]), dtype).reshape(shape)
        decompressor = zlib.decompressobj()
        packed = base64.b64decode(facts["packed"], validate=True)
        raw = decompressor.decompress(packed, size + 1)
        return np.frombuffer(raw, dtype).reshape(shape).copy()
    except (ArithmeticError, TypeError, ValueError, zlib.error) as error:
        raise DatasetError(
            f"an array of {dtype} {shape} is damaged: {show_text(error)}"
        ) from error


def _numbers(values: Any) -> list[Any]:
    if not isinstance(values, list) or not all(isinstance(v, (int, float)) for v in values):
        raise ValueError("it must be a list of numbers")
    return values


def _chunk(facts: Any) -> ActionChunk:
    """A logged chunk; its values may be invalid, as the guard logs rejected chunks too."""
    _check_fields(facts, "chunk", _CHUNK)
    if len(facts["actions"]) > MAX_POINTS or not all(isinstance(n, str) for n in facts["names"]):
        raise DatasetError(
            f"a chunk of {len(facts['actions'])} points for {show_text(facts['names'], 200)}; "
            f"wanted at most {MAX_POINTS} points and joint names"
        )
    try:
        return ActionChunk(**{**facts, "names": tuple(facts["names"])})
    except NacError as error:
        raise DatasetError(show_text(error)) from error


def _observation(facts: Any) -> Observation:
    _check_fields(facts, "observation", _OBSERVATION)
    if not all(isinstance(image, np.ndarray) for image in facts["images"].values()):
        raise DatasetError("the images of an observation must be arrays")
    return Observation(**facts)


def _check_fields(facts: Any, kind: str, fields: Mapping[str, tuple[type, ...]]) -> None:
    if not isinstance(facts, dict) or set(facts) != set(fields):
        raise DatasetError(f"{kind} must have {', '.join(fields)}, got {show_text(facts, 60)}")
    for name, types in fields.items():
        if not isinstance(facts[name], types) or isinstance(facts[name], bool):
            raise DatasetError(f"{name} of a {kind} cannot be {show_value(facts[name], 60)}")
        is_array = isinstance(facts[name], np.ndarray)
        if is_array and np.ndarray in types and facts[name].ndim != _DIMENSIONS[name]:
            raise DatasetError(f"{name} of a {kind} cannot have the shape {facts[name].shape}")


_NUMBER = (int, float)
_CHUNK = {
    "stamp": _NUMBER,
    "rate_hz": _NUMBER,
    "names": (list,),
    "actions": (np.ndarray,),
    "tokens": (np.ndarray,),
}
_OBSERVATION = {
    "stamp": _NUMBER,
    "images": (dict,),
    "proprio": (np.ndarray,),
    "task": (str,),
    "environment_state": (np.ndarray, type(None)),
    "past_commands": (np.ndarray, type(None)),
}
_DIMENSIONS = {
    "actions": 2,
    "tokens": 1,
    "proprio": 2,
    "environment_state": 2,
    "past_commands": 2,
}
