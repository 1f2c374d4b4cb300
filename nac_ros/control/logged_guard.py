"""A guard that appends every call and its result to a call log; snapshot and restore of its state.

A class lists its mutable attributes in STATE_FIELDS; attributes that have STATE_FIELDS themselves
are handled recursively.
"""

import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from inspect import isfunction
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

KEEP_S = 600.0  # of a guard's calls
KEEP_RUNS = 50  # folders below ROS_HOME
QUERIES = ("is_at_rest", "ages", "reference_known", "trajectory")
# Methods of a guard that are logged: all public ones that may change its state.
CALLS = tuple(
    name
    for name, method in vars(Guard).items()
    if isfunction(method) and not name.startswith("_") and name not in QUERIES
)


def snapshot(owner: Any) -> dict[str, Any]:
    """The state of an object with STATE_FIELDS: attribute -> value, nested; arrays are copies."""
    return {name: _snapshot_value(getattr(owner, name)) for name in owner.STATE_FIELDS}


def _snapshot_value(value: Any) -> Any:
    if isinstance(value, Counter):
        return dict(value)
    if isinstance(value, dict):
        return {key: snapshot(part) for key, part in value.items()}
    if hasattr(value, "STATE_FIELDS"):
        return snapshot(value)
    return value.copy() if isinstance(value, np.ndarray) else value


def restore(owner: Any, state: dict[str, Any]) -> None:
    """Sets the state of an object to a `snapshot` of another one of the same class and settings.

    Raises DatasetError for a name that is not in STATE_FIELDS and for a value of another kind.
    """
    kind = type(owner).__name__
    for name, value in _mapping(state, kind).items():
        if name not in owner.STATE_FIELDS:
            raise DatasetError(
                f"{kind} has no state '{show_text(name, 40)}'; use the version that recorded the "
                "log"
            )
        where, present = f"{kind}.{name}", getattr(owner, name)
        if isinstance(present, Counter):
            setattr(owner, name, _counter(value, where))
        elif isinstance(present, dict):
            for key, part in _mapping(value, where).items():
                if key not in present:
                    raise DatasetError(f"{where} has no '{show_text(key, 40)}'")
                restore(present[key], part)
        elif hasattr(present, "STATE_FIELDS") and value is not None:
            restore(present, value)
        elif present is None or value is None or _kind(present) == _kind(value):
            setattr(owner, name, value)
        else:
            raise DatasetError(f"{where} must be {_kind(present)}, got {show_value(value, 60)}")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DatasetError(f"the state of {where} must be a mapping, got {show_text(value, 60)}")
    return value


def _counter(value: Any, where: str) -> Counter[str]:
    if not all(type(n) is int for n in _mapping(value, where).values()):
        raise DatasetError(f"{where} must hold whole numbers, got {show_text(value, 60)}")
    return Counter(value)


_KINDS: dict[str, tuple[type, ...]] = {
    "true or false": (bool, np.bool_),
    "a number": (Real,),
    "text": (str,),
    "an array": (np.ndarray,),
    "a list": (list, tuple),
}


def _kind(value: Any) -> str:
    """The kind of a value for messages; integers and floats are both numbers."""
    for kind, types in _KINDS.items():
        if isinstance(value, types):
            return kind
    return type(value).__name__


def call_log_folder(parameter: str) -> Path | None:
    """The folder of a node's call log: `auto` is a new one below ROS_HOME, `none` is None.

    Below ROS_HOME the newest KEEP_RUNS folders are kept.
    """
    if parameter == "none":
        return None
    if parameter != "auto":
        return Path(parameter)
    home = Path(os.environ.get("ROS_HOME") or Path.home() / ".ros")
    logs = home / "nac_ros" / "call_logs"
    for old in sorted(logs.glob("????????-??????"))[: 1 - KEEP_RUNS]:
        shutil.rmtree(old, ignore_errors=True)
    return logs / time.strftime("%Y%m%d-%H%M%S")


class LoggedGuard(Guard):
    """A guard whose CALLS are logged, so that `nac verify-log` can repeat them."""

    def __init__(self, spec: RobotSpec, config: GuardConfig, folder: Path | str):
        self._in_call = True
        super().__init__(spec, config)
        facts = {"robot": configs.to_plain(spec), "config": asdict(config)}
        self.call_log = CallLog(folder, "guard", facts, KEEP_S)
        self._in_call = False


def logged_result(call: str, result: Any) -> Any:
    """The part of a call's result that is logged: of a trajectory update only whether there was
    one, because trajectories are long and the set-points of `tick` are on them."""
    return result is not None if call == "trajectory_update" else result


def _logged(name: str):
    call = getattr(Guard, name)

    def logged(self: LoggedGuard, *args: Any, **kwargs: Any) -> Any:
        if self._in_call:  # the guard calls itself
            return call(self, *args, **kwargs)
        self._in_call = True
        state = snapshot(self) if self.call_log.segment_due else None
        try:
            result = call(self, *args, **kwargs)
        finally:
            self._in_call = False
        facts = {"args": args, "kwargs": kwargs, "result": logged_result(name, result)}
        self.call_log.append(name, facts, state)
        return result

    logged.__name__, logged.__doc__ = name, call.__doc__
    return logged


for _name in CALLS:
    setattr(LoggedGuard, _name, _logged(_name))
