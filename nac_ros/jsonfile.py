"""JSON that nobody vouches for: read within limits of size, depth, numbers and text.

Python's parser takes NaN, numbers of thousands of digits, keys that stand twice and text that no
file can hold. Files that drive a robot may hold none of them.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nac_ros.errors import NacError

MAX_BYTES = 1 << 20  # of a file, unless its reader says otherwise
MAX_DEPTH = 64  # of lists and mappings in one another
MAX_DIGITS = 20  # of a whole number; those of 64 bits have at most as many
SHOWN = 160  # characters of a foreign text in a message


def read_json(
    path: Path, error: type[NacError], max_bytes: int = MAX_BYTES, finite: bool = True
) -> Any:
    """What the JSON file at `path` holds; see `parse_json`. Raises `error`."""
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
        raise error(f"{path} cannot be read: {shorten(cause)}; copy it again") from cause


def parse_json(text: bytes, where: str, error: type[NacError], finite: bool = True) -> Any:
    """The value of a JSON text in UTF-8; raises `error`, with `where` and what is wrong in it.

    finite: whether NaN and Infinity are refused; keys that stand twice, whole numbers of more
        than MAX_DIGITS, NUL, lone surrogates and more than MAX_DEPTH levels always are
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
        raise error(f"{where} is not valid JSON: {shorten(cause)}; copy the file again") from cause
    return value


def shorten(value: Any, most: int = SHOWN) -> str:
    """The first line of `value` as printable text of at most `most` characters, for messages."""
    lines = str(value)[: 4 * most].splitlines()
    text = "".join(c if c.isprintable() else "?" for c in (lines[0] if lines else ""))
    return text if len(text) <= most else f"{text[:most]}..."


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key '{shorten(key, 40)}' is there twice")
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
        raise ValueError(f"the number {shorten(text, 40)} is not finite")
    return value


def _not_finite(name: str) -> float:
    raise ValueError(f"the value {name} is not finite")


def _check_text(text: str) -> None:
    if "\0" in text:
        raise ValueError(f"the text '{shorten(text, 40)}' holds NUL")
    if not text.isascii():
        text.encode()  # raises UnicodeEncodeError, a ValueError, for lone surrogates


def _parts(value: Any) -> Iterator[tuple[int, Any]]:
    """Every value inside `value` and itself, with its depth; keys were looked at before."""
    left = [(1, value)]
    while left:
        depth, part = left.pop()
        yield depth, part
        if depth <= MAX_DEPTH and isinstance(part, (dict, list)):
            items = part.values() if isinstance(part, dict) else part
            left += [(depth + 1, item) for item in items]
