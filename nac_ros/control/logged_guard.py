"""What an object remembers beside its settings, as plain values: to write down, and to put back.

A class names its attributes in STATE_FIELDS; an attribute that has a STATE_FIELDS of its own is gone into.
"""

import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from nac_ros.control.call_log import CallLog
from nac_ros.control.guard import Guard
from nac_ros.control.types import GuardConfig
from nac_ros.core import config as configs
from nac_ros.core.errors import DatasetError, show_text, show_value
from nac_ros.robot.spec import RobotSpec


def snapshot(thing: Any) -> dict[str, Any]:
    """Attribute -> value, nested; arrays are copies."""
    return {name: _value(getattr(thing, name)) for name in thing.STATE_FIELDS}


def restore(thing: Any, memory: dict[str, Any]) -> None:
    """Puts back what `remember` said of another object of the same class and settings.

    Raises DatasetError for a name that is not in STATE_FIELDS and for a value of another kind.
    """
    of = type(thing).__name__
    for name, value in _mapping(memory, of).items():
        if name not in thing.STATE_FIELDS:
            raise DatasetError(
                f"{of} remembers no '{show_text(name, 40)}'; replay the log with the version that "
                "recorded it"
            )
        held = getattr(thing, name)
        if isinstance(held, dict) and not isinstance(held, Counter):
            for key, part in _mapping(value, f"{of}.{name}").items():
                if key not in held:
                    raise DatasetError(f"{of}.{name} has no '{show_text(key, 40)}'")
                restore(held[key], part)
        elif hasattr(held, "STATE_FIELDS") and value is not None:
            restore(held, value)
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
        return {key: snapshot(part) for key, part in held.items()}
    if hasattr(held, "STATE_FIELDS"):
        return snapshot(held)
    return held.copy() if isinstance(held, np.ndarray) else held


KEEP_S, KEEP_RUNS = 600.0, 50
CALLS = (
    "restart", "update_joint_state", "heartbeat", "set_mode", "set_speed_scale", "reject", "stop", "reset", "approach",
    "accept", "tick", "trajectory_update", "update_reference", "handle_clock_jump",
)  # fmt: skip


def call_log_folder(given: str) -> Path | None:
    """Where a node's tape goes: as told, or a new folder below ROS_HOME; None for `none`.

    Below ROS_HOME the newest `KEEP_RUNS` folders stay.
    """
    if given == "none":
        return None
    if given != "auto":
        return Path(given)
    home = Path(os.environ.get("ROS_HOME") or Path.home() / ".ros")
    tapes = home / "nac_ros" / "call_logs"
    for old in sorted(tapes.glob("????????-??????"))[: 1 - KEEP_RUNS]:
        shutil.rmtree(old, ignore_errors=True)
    return tapes / time.strftime("%Y%m%d-%H%M%S")


class LoggedGuard(Guard):
    """A guard whose calls are on a tape, so that `nac replay` can have them happen again."""

    def __init__(self, spec: RobotSpec, config: GuardConfig, folder: Path | str):
        self._busy = True
        super().__init__(spec, config)
        facts = {"robot": configs.to_plain(spec), "config": asdict(config)}
        self.call_log = CallLog(folder, "guard", facts, KEEP_S)
        self._busy = False


def told(call: str, result: Any) -> Any:
    """What is written down of a call's result: of news only that there were any, for they are long
    and the set-points of `tick` lie on them."""
    return result is not None if call == "trajectory_update" else result


def _taped(name: str):
    call = getattr(Guard, name)

    def taped(self: LoggedGuard, *args: Any, **named: Any) -> Any:
        if self._busy:  # a call of its own
            return call(self, *args, **named)
        self._busy = True
        memory = snapshot(self) if self.call_log.due else None
        try:
            result = call(self, *args, **named)
        finally:
            self._busy = False
        self.call_log.put(name, {"args": args, "named": named, "result": told(name, result)}, memory)
        return result

    taped.__name__, taped.__doc__ = name, call.__doc__
    return taped


for _name in CALLS:
    setattr(LoggedGuard, _name, _taped(_name))
