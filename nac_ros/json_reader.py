"""Reads JSON that others may have written: finite numbers, no key twice, limited in depth."""

import json
import math
from typing import Any, NoReturn

from nac_ros.errors import show_text

MAX_DEPTH = 40  # of nesting; what the package writes has less than 10


def parse_json(text: str) -> Any:
    """The content of a JSON text; raises ValueError for what is no JSON, NaN, a number beyond the
    range of a float, a key that an object holds twice, and deeper nesting than MAX_DEPTH."""
    try:
        content = json.loads(
            text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique
        )
    except RecursionError as error:
        raise ValueError(str(error)) from error
    _check_depth(content, MAX_DEPTH)
    return content


def _refuse(number: str) -> NoReturn:
    raise ValueError(f"{number} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{show_text(text, 30)} is beyond the range of numbers")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in content if keys.count(key) > 1)
        raise ValueError(f"key '{show_text(twice)}' is there twice")
    return content


def _check_depth(content: Any, left: int) -> None:
    if isinstance(content, (dict, list)):
        if left == 0:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
        for item in content.values() if isinstance(content, dict) else content:
            _check_depth(item, left - 1)
