"""What an object remembers beside its settings, as plain values: to write down, and to put back.

A class names its attributes in MEMORY; an attribute that has a MEMORY of its own is gone into.
"""

from collections import Counter
from typing import Any

import numpy as np


def remember(thing: Any) -> dict[str, Any]:
    """Attribute -> value, nested; arrays are copies."""
    return {name: _value(getattr(thing, name)) for name in thing.MEMORY}


def recall(thing: Any, memory: dict[str, Any]) -> None:
    """Puts back what `remember` said of another object of the same class and settings."""
    for name, value in memory.items():
        held = getattr(thing, name)
        if isinstance(held, dict) and not isinstance(held, Counter):
            for key, part in value.items():
                recall(held[key], part)
        elif hasattr(held, "MEMORY") and value is not None:
            recall(held, value)
        else:
            setattr(thing, name, Counter(value) if isinstance(held, Counter) else value)


def _value(held: Any) -> Any:
    if isinstance(held, Counter):
        return dict(held)
    if isinstance(held, dict):
        return {key: remember(part) for key, part in held.items()}
    if hasattr(held, "MEMORY"):
        return remember(held)
    return held.copy() if isinstance(held, np.ndarray) else held
