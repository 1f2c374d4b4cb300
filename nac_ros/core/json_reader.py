"""Reads untrusted JSON, with limits on size, depth, numbers and text.

Python's parser accepts NaN, numbers with thousands of digits, duplicate keys and lone surrogates.
Files that control a robot must contain none of them.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nac_ros.core.errors import NacError, show_text

MAX_BYTES = 1 << 20  # of a file, unless the caller sets another limit
MAX_DEPTH = 64  # of nested lists and mappings
MAX_DIGITS = 20  # of an integer; 64-bit integers have at most 20


def read_json(
    path: Path, error: type[NacError], max_bytes: int = MAX_BYTES, finite: bool = True
) -> Any:
    """The content of the JSON file at `path`; see `parse_json`. Raises `error`."""
    return parse_json(read_bytes(path, error, max_bytes), str(path), error, finite)


def read_bytes(path: Path, error: type[NacError], max_bytes: int) -> bytes:
    """The content of a regular file of at most `max_bytes`; raises `error`."""
    try:
        if not path.is_file():
            raise error(f"{path} is missing or no regular file; copy it again")
        size = path.stat().st_size
        if size > max_bytes:
            raise error(
                f"{path} has {size} bytes, more than the {max_bytes} that such a file may have; "
                "copy it again"
            )
        with path.open("rb") as file:
            return file.read(max_bytes)
    except (OSError, ValueError) as cause:
        raise error(f"{path} cannot be read: {show_text(cause)}; copy it again") from cause


def parse_json(text: bytes, where: str, error: type[NacError], finite: bool = True) -> Any:
    """The value of a JSON text in UTF-8; raises `error` that names `where` and the fault.

    Duplicate keys, integers with more than MAX_DIGITS digits, NUL characters, lone surrogates and
    more than MAX_DEPTH levels are always rejected.
    finite: whether NaN and Infinity are rejected too
    """
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_mapping,
            parse_int=_whole_number,
            parse_float=_number if finite else float,
            parse_constant=_not_finite if finite else float,
        )
        for depth, part in _parts(value):
            if depth > MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
            if isinstance(part, str):
                _check_text(part)
    except RecursionError as cause:
        raise error(f"{where}: it is nested too deeply; copy the file again") from cause
    except ValueError as cause:
        raise error(
            f"{where} is not valid JSON: {show_text(cause)}; copy the file again"
        ) from cause
    return value


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key '{show_text(key, 40)}' occurs twice")
        _check_text(key)
        found[key] = value
    return found


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits, more than {MAX_DIGITS}")
    return int(digits)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {show_text(text, 40)} is not finite")
    return value


def _not_finite(name: str) -> float:
    raise ValueError(f"the value {name} is not finite")


def _check_text(text: str) -> None:
    if "\0" in text:
        raise ValueError(f"the text '{show_text(text, 40)}' contains NUL")
    if not text.isascii():
        text.encode()  # raises UnicodeEncodeError, a ValueError, for lone surrogates


def _parts(value: Any) -> Iterator[tuple[int, Any]]:
    """`value` and every value in it, each with its depth; keys are checked by `_mapping`."""
    left = [(1, value)]
    while left:
        depth, part = left.pop()
        yield depth, part
        if depth <= MAX_DEPTH and isinstance(part, (dict, list)):
            items = part.values() if isinstance(part, dict) else part
            left += [(depth + 1, item) for item in items]
