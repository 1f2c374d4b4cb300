"""`nac replay`: what is on a run's tapes happens again, and must come out the same to the bit."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from nac_ros.control.call_log import GAP, HEAD, LOST, segments, to_json
from nac_ros.control.call_log_reader import from_json, read
from nac_ros.control.guard import Guard
from nac_ros.control.logged_guard import CALLS, restore, told
from nac_ros.control.types import GuardConfig, Mode, Source
from nac_ros.core import config as configs
from nac_ros.core.errors import BundleError, DatasetError, NacError, show_text, show_value
from nac_ros.core.types import ActionChunk, Observation
from nac_ros.robot.spec import RobotSpec

PARTS = ("guard", "policy")
SHOWN = 160  # characters of a difference
PLAN = "plan"  # the only call of a policy
MAX_RATE_HZ = 10_000.0  # no guard ticks faster
MAX_SETPOINTS = 100_000  # of one tick
MAX_THREADS, MAX_SEED = 256, 2**63 - 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# What a guard may be told: its parameters by name, with what a value has to be.
ARGUMENTS: dict[str, Callable[[Any], bool]] = {
    "now": _is_number,
    "stamp": _is_number,
    "scale": _is_number,
    "positions": lambda value: isinstance(value, np.ndarray) and value.dtype.kind in "fiu",
    "chunk": lambda value: isinstance(value, ActionChunk) and value.actions.dtype.kind in "fiu",
    "mode": lambda value: isinstance(value, str) and value in get_args(Mode),
    "source": lambda value: isinstance(value, str) and value in get_args(Source),
    "reason": lambda value: isinstance(value, str),
    "text": lambda value: isinstance(value, str),
}


@dataclass
class Found:
    """What was compared: calls (of a guard, or plans), set-points or actions in them, and the
    differences, of which the first is told in words.

    gaps: places where the log is incomplete; lost: lines that were never written
    """

    calls: int = 0
    values: int = 0
    gaps: int = 0
    lost: int = 0
    differences: int = 0
    first: str = ""

    def compare(self, where: str, was: Any, now: Any) -> None:
        """Notes one result; `was` as it is on the tape."""
        self.calls += 1
        self.values += _numbers(was)
        before, after = json.dumps(was), json.dumps(to_json(now))
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
    """Every call of the guard again, each segment from what was remembered where it begins.

    Raises DatasetError, with file and line, for a log that is damaged or holds a call that no
    guard has.
    """
    found = Found()
    for path in segments(folder, "guard"):
        guard = None
        for number, row in _rows(path, found):
            with _named(f"{path}, line {number}"):
                if row["what"] == HEAD:
                    guard = _guard(from_json(row))
                elif guard is not None:
                    where = f"{path.name}, line {number}, {row['what']}"
                    found.compare(where, row["result"], _call(guard, row))
    return found


def replay_policy(folder: Path, bundle: Path | None = None) -> Found:
    """Every plan again, with the bundle that made it, or with another one.

    Raises BundleError where that is not the same any more.
    """
    found, engine = Found(), None
    for path in segments(folder, "policy"):
        for number, row in _rows(path, found):
            with _named(f"{path}, line {number}"):
                if row["what"] == HEAD:
                    engine = engine or _engine(from_json(row), bundle)
                elif engine is not None:
                    where = f"{path.name}, line {number}, {PLAN}"
                    found.compare(where, row["result"], _plan(engine, row))
    return found


def _rows(path: Path, found: Found) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines up to the first gap, after which nobody knows what the part remembered."""
    for number, row in enumerate(read(path), 1):
        lost = row.get(LOST) if row.get("what") in (HEAD, GAP) else 0
        if type(lost) is int and lost > found.lost:
            found.gaps, found.lost = found.gaps + 1, lost
        if row.get("what") == GAP:
            return
        if not isinstance(row.get("what"), str):
            raise DatasetError(f"{path}, line {number} does not say `what` it is; copy it again")
        yield number, row


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Whatever a damaged line leads to becomes a DatasetError that names it."""
    try:
        yield
    except BundleError:
        raise
    except NacError as error:
        raise DatasetError(f"{where}: {show_text(error, 400)}") from error
    except KeyError as error:
        raise DatasetError(
            f"{where}: it lacks {show_text(error, 60)}; copy the log again"
        ) from error
    except Exception as error:  # numpy, torch and the guard meet values that nobody checked
        what = f"{type(error).__name__} {show_text(error)}"
        raise DatasetError(f"{where} cannot be replayed: {what}; copy the log again") from error


def _call(guard: Guard, row: Mapping[str, Any]) -> Any:
    """One call of CALLS again; raises DatasetError for another, or an argument it cannot have."""
    what, args, named = row["what"], from_json(row["args"]), from_json(row["named"])
    if what not in CALLS:
        raise DatasetError(
            f"a guard has no call '{show_text(what, 40)}'; known: {', '.join(CALLS)}"
        )
    if not isinstance(args, list) or not isinstance(named, dict):
        raise DatasetError(f"{what}: args must be a list and named a mapping")
    call = getattr(guard, what)
    try:
        bound = inspect.signature(call).bind(*args, **named)
    except TypeError as error:
        raise DatasetError(f"{what}: {show_text(error)}") from error
    for name, value in bound.arguments.items():
        if name not in ARGUMENTS or not ARGUMENTS[name](value):
            raise DatasetError(f"{what}: {name} cannot be {show_value(value, 60)}")
    if what == "tick":
        _check_backlog(guard, bound.arguments["now"])
    return told(what, call(*bound.args, **bound.kwargs))


def _check_backlog(guard: Guard, now: float) -> None:
    """Raises DatasetError where a tick at `now` [s] would have to make up for too many others."""
    state, generator = vars(guard), guard.generator
    last = state["_last_tick"]
    skipped = np.isfinite(last) and not 0 < now - last <= guard.config.max_gap_s
    if not generator.initialized or skipped or not np.isfinite(now):
        return
    due = (generator.commit_time(now) - generator.origin) / guard.period
    if generator.commanded and not abs(due - vars(generator)["_n_final"]) <= MAX_SETPOINTS:
        raise DatasetError(f"a tick at {now:g} s leaves more than {MAX_SETPOINTS} set-points open")


def _plan(engine: Any, row: Mapping[str, Any]) -> ActionChunk:
    from nac_ros.inference.chunk_transition import CurrentChunk

    if row["what"] != PLAN:
        raise DatasetError(f"a policy has no call '{show_text(row['what'], 40)}', only {PLAN}")
    facts = from_json({key: value for key, value in row.items() if key != "result"})
    observation, going, generator = facts["observation"], facts["underway"], facts["generator"]
    if not isinstance(observation, Observation) or not isinstance(generator, np.ndarray):
        raise DatasetError("a plan needs an observation and the generator's state")
    if going is not None:
        if not isinstance(going, list) or len(going) != 2 or not ARGUMENTS["chunk"](going[0]):
            raise DatasetError(f"underway cannot be {show_value(going, 60)}")
        if not _is_number(going[1]):
            raise DatasetError(f"underway until {show_value(going[1], 60)} is no time")
        going = CurrentChunk(*going)
    engine.restore(generator)
    return engine.predict_chunk(observation, going)


def _guard(head: dict[str, Any]) -> Guard:
    spec = configs.build(RobotSpec, head["robot"], "the tape's robot")
    if not spec.guard_rate_hz <= MAX_RATE_HZ:
        raise DatasetError(f"guard_rate_hz {spec.guard_rate_hz:g} is beyond {MAX_RATE_HZ:g}")
    guard = Guard(spec, configs.build(GuardConfig, head["config"], "the tape's config"))
    guard.update_joint_state(0.0, spec.home)  # so that there is a motion to put back
    restore(guard, head["memory"])
    return guard


def _engine(head: dict[str, Any], other: Path | None) -> Any:
    from nac_ros.core.files import sha256
    from nac_ros.export.bundle import load_bundle
    from nac_ros.export.manifest import MANIFEST
    from nac_ros.inference.chunk_transition import TransitionConfig
    from nac_ros.inference.engine import Engine

    seed, threads, steps = head["seed"], head["threads"], head["n_action_steps"]
    for what, value, most in (
        ("seed", seed, MAX_SEED),
        ("threads", 1 if threads is None else threads, MAX_THREADS),
        ("n_action_steps", 1 if steps is None else steps, MAX_SETPOINTS),
    ):
        if type(value) is not int or not 0 <= value <= most:
            raise DatasetError(f"{what} must be in 0 .. {most}, got {show_value(value, 60)}")
    if not isinstance(head["bundle"], str):
        raise DatasetError(f"bundle must be a folder, got {show_value(head['bundle'], 60)}")
    path = other or Path(head["bundle"])
    bundle = load_bundle(path)
    if other is None and sha256(path / MANIFEST) != head["manifest"]:
        raise BundleError(
            f"{path} is not the bundle of this run any more; name the right one with --bundle"
        )
    transition = configs.build(TransitionConfig, head["transition"], "the tape's seam")
    return Engine(bundle, seed, threads, steps, transition)


def _numbers(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_numbers, value.values()))
    if isinstance(value, list):
        return sum(map(_numbers, value))
    return int(isinstance(value, float))
