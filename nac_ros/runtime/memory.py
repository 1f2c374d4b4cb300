"""What an object remembers beside its settings, as plain values: to write down, and to put back.

A class names its attributes in MEMORY; an attribute that has a MEMORY of its own is gone into.
"""

from collections import Counter
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from nac_ros.errors import DatasetError, show_text, show_value


def remember(thing: Any) -> dict[str, Any]:
    """Attribute -> value, nested; arrays are copies."""
    return {name: _value(getattr(thing, name)) for name in thing.MEMORY}


def recall(thing: Any, memory: dict[str, Any]) -> None:
    """Puts back what `remember` said of another object of the same class and settings.

    Raises DatasetError for a name that is not in MEMORY and for a value of another kind.
    """
    of = type(thing).__name__
    for name, value in _mapping(memory, of).items():
        if name not in thing.MEMORY:
            raise DatasetError(
                f"{of} remembers no '{show_text(name, 40)}'; replay the log with the version that "
                "recorded it"
            )
        held = getattr(thing, name)
        if isinstance(held, dict) and not isinstance(held, Counter):
            for key, part in _mapping(value, f"{of}.{name}").items():
                if key not in held:
                    raise DatasetError(f"{of}.{name} has no '{show_text(key, 40)}'")
                recall(held[key], part)
        elif hasattr(held, "MEMORY") and value is not None:
            recall(held, value)
        elif isinstance(held, Counter):
            setattr(thing, name, _counter(value, f"{of}.{name}"))
        elif held is None or value is None or _kind(held) == _kind(value):
            setattr(thing, name, value)
        else:
            raise DatasetError(
                f"{of}.{name} must be {_kind(held)}, the log has {show_value(value, 60)}"
            )


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DatasetError(f"the memory of {where} must be a mapping, got {show_text(value, 60)}")
    return value


def _counter(value: Any, where: str) -> Counter[str]:
    if not all(type(n) is int for n in _mapping(value, where).values()):
        raise DatasetError(f"{where} must hold whole numbers, the log has {show_text(value, 60)}")
    return Counter(value)


def _kind(value: Any) -> str:
    """What a remembered value is, in a word; whole numbers and floats are both numbers."""
    for kind, types in _KINDS.items():
        if isinstance(value, types):
            return kind
    return type(value).__name__


_KINDS: dict[str, tuple[type, ...]] = {
    "true or false": (bool, np.bool_),
    "a number": (Real,),
    "text": (str,),
    "an array": (np.ndarray,),
    "a list": (list, tuple),
}


def _value(held: Any) -> Any:
    if isinstance(held, Counter):
        return dict(held)
    if isinstance(held, dict):
        return {key: remember(part) for key, part in held.items()}
    if hasattr(held, "MEMORY"):
        return remember(held)
    return held.copy() if isinstance(held, np.ndarray) else held
