"""`nac replay`: what is on a run's tapes happens again, and must come out the same to the bit."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nac_ros import config as configs
from nac_ros.chunk import Observation
from nac_ros.errors import BundleError
from nac_ros.robot import RobotSpec
from nac_ros.runtime.guard import Guard
from nac_ros.runtime.memory import recall
from nac_ros.runtime.tape import GAP, HEAD, back, plain, read, segments
from nac_ros.runtime.taped import told
from nac_ros.runtime.tick import GuardConfig

PARTS = ("guard", "policy")
SHOWN = 160  # characters of a difference


@dataclass
class Found:
    """What was compared: calls (of a guard, or plans), set-points or actions in them, lines that
    were lost while recording, and the differences, of which the first is told in words."""

    calls: int = 0
    values: int = 0
    gaps: int = 0
    differences: int = 0
    first: str = ""

    def compare(self, where: str, was: Any, now: Any) -> None:
        """Notes one result; `was` as it is on the tape."""
        self.calls += 1
        self.values += _numbers(was)
        before, after = json.dumps(was), json.dumps(plain(now))
        if before == after:
            return
        self.differences += 1
        at = next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), 0)
        first = max(at - 40, 0)
        part = slice(first, first + SHOWN)
        self.first = self.first or f"{where}: was ...{before[part]}, comes ...{after[part]}"


def replay(folder: Path, bundle: Path | None = None) -> dict[str, Found]:
    """Part -> what was found, of the parts that left a tape: guard and policy that were started
    apart have folders of their own. Raises DatasetError where there is none."""
    there = [part for part in PARTS if any(folder.glob(f"{part}-*.jsonl"))]
    if not there:
        segments(folder, PARTS[0])
    ways = {"guard": replay_guard, "policy": lambda place: replay_policy(place, bundle)}
    return {part: ways[part](folder) for part in there}


def replay_guard(folder: Path) -> Found:
    """Every call of the guard again, each segment from what was remembered where it begins."""
    found = Found()
    for path in segments(folder, "guard"):
        guard = None
        for number, row in _rows(path, found):
            if row["what"] == HEAD:
                guard = _guard(back(row))
            elif guard is not None:
                what, args, named = row["what"], back(row["args"]), back(row["named"])
                result = told(what, getattr(guard, what)(*args, **named))
                found.compare(f"{path.name}, line {number}, {what}", row["result"], result)
    return found


def replay_policy(folder: Path, bundle: Path | None = None) -> Found:
    """Every plan again, with the bundle that made it, or with another one.

    Raises BundleError where that is not the same any more.
    """
    from nac_ros.runtime.seams import Underway

    found, engine = Found(), None
    for path in segments(folder, "policy"):
        for number, row in _rows(path, found):
            if row["what"] == HEAD:
                engine = engine or _engine(back(row), bundle)
            elif engine is not None:
                facts = back({key: value for key, value in row.items() if key != "result"})
                observation: Observation = facts["observation"]
                going = facts["underway"] and Underway(*facts["underway"])
                engine.restore(facts["generator"])
                chunk = engine.plan(observation, going)
                found.compare(f"{path.name}, line {number}, plan", row["result"], chunk)
    return found


def _rows(path: Path, found: Found) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines up to the first gap, after which nobody knows what the part remembered."""
    for number, row in enumerate(read(path), 1):
        if row["what"] == GAP:
            found.gaps += 1
            return
        yield number, row


def _guard(head: dict[str, Any]) -> Guard:
    spec = configs.build(RobotSpec, head["robot"], "the tape's robot")
    guard = Guard(spec, configs.build(GuardConfig, head["config"], "the tape's config"))
    guard.measure(0.0, spec.home)  # so that there is a motion to put back
    recall(guard, head["memory"])
    return guard


def _engine(head: dict[str, Any], other: Path | None) -> Any:
    from nac_ros.export.bundle import load_bundle
    from nac_ros.export.manifest import MANIFEST, sha256
    from nac_ros.runtime.engine import Engine
    from nac_ros.runtime.seams import SeamConfig

    path = other or Path(head["bundle"])
    bundle = load_bundle(path)
    if other is None and sha256(path / MANIFEST) != head["manifest"]:
        raise BundleError(
            f"{path} is not the bundle of this run any more; name the right one with --bundle"
        )
    seam = configs.build(SeamConfig, head["seam"], "the tape's seam")
    return Engine(bundle, head["seed"], head["threads"], head["n_action_steps"], seam)


def _numbers(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_numbers, value.values()))
    if isinstance(value, list):
        return sum(map(_numbers, value))
    return int(isinstance(value, float))
