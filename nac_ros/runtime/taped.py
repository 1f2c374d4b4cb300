"""A guard with a tape running: each call is written down with what came of it."""

import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nac_ros import config as configs
from nac_ros.robot import RobotSpec
from nac_ros.runtime.guard import Guard
from nac_ros.runtime.memory import remember
from nac_ros.runtime.tape import Tape
from nac_ros.runtime.tick import GuardConfig

KEEP_S, KEEP_RUNS = 600.0, 50
CALLS = (
    "restart", "measure", "beat", "set_mode", "set_speed_scale", "refuse", "stop", "reset", "ramp",
    "accept", "tick", "news", "update_reference", "note_clock_jump",
)  # fmt: skip


def tape_folder(given: str) -> Path | None:
    """Where a node's tape goes: as told, or a new folder below ROS_HOME; None for `none`.

    Below ROS_HOME the newest `KEEP_RUNS` folders stay.
    """
    if given == "none":
        return None
    if given != "auto":
        return Path(given)
    home = Path(os.environ.get("ROS_HOME") or Path.home() / ".ros")
    tapes = home / "nac_ros" / "tapes"
    for old in sorted(tapes.glob("????????-??????"))[: 1 - KEEP_RUNS]:
        shutil.rmtree(old, ignore_errors=True)
    return tapes / time.strftime("%Y%m%d-%H%M%S")


class TapedGuard(Guard):
    """A guard whose calls are on a tape, so that `nac replay` can have them happen again."""

    def __init__(self, spec: RobotSpec, config: GuardConfig, folder: Path | str):
        self._busy = True
        super().__init__(spec, config)
        facts = {"robot": configs.to_plain(spec), "config": asdict(config)}
        self.tape = Tape(folder, "guard", facts, KEEP_S)
        self._busy = False


def told(call: str, result: Any) -> Any:
    """What is written down of a call's result: of news only that there were any, for they are long
    and the set-points of `tick` lie on them."""
    return result is not None if call == "news" else result


def _taped(name: str):
    call = getattr(Guard, name)

    def taped(self: TapedGuard, *args: Any, **named: Any) -> Any:
        if self._busy:  # a call of its own
            return call(self, *args, **named)
        self._busy = True
        memory = remember(self) if self.tape.due else None
        try:
            result = call(self, *args, **named)
        finally:
            self._busy = False
        self.tape.put(name, {"args": args, "named": named, "result": told(name, result)}, memory)
        return result

    taped.__name__, taped.__doc__ = name, call.__doc__
    return taped


for _name in CALLS:
    setattr(TapedGuard, _name, _taped(_name))
