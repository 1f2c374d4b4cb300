"""Replay of call logs: repeats every logged call and compares the results bit for bit."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from nac_ros.control.call_log import GAP, HEAD, LOST, list_segments, to_json
from nac_ros.control.call_log_reader import from_json, read
from nac_ros.control.guard import Guard
from nac_ros.control.logged_guard import CALLS, logged_result, restore
from nac_ros.control.types import GuardConfig, Mode, Source
from nac_ros.core import config as configs
from nac_ros.core.errors import BundleError, DatasetError, NacError, show_text, show_value
from nac_ros.core.types import ActionChunk, Observation
from nac_ros.robot.spec import RobotSpec

PARTS = ("guard", "policy")
SHOWN = 160  # characters of a difference
PREDICT = "predict_chunk"  # the only call of a policy
# Limits that keep a damaged log from occupying the machine.
MAX_RATE_HZ = 10_000.0
MAX_SETPOINTS = 100_000  # of one tick
MAX_THREADS, MAX_SEED = 256, 2**63 - 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# Parameters of the guard's calls, each with the test that its value must pass.
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
class ReplayResult:
    """Comparison of the repeated calls of one part with its log.

    calls: number of results compared; values: floating-point numbers in them
    gaps: places where lines are missing in the log; lost_lines: number of these lines
    differences: results that differ; first_difference: where and how the first one does
    """

    calls: int = 0
    values: int = 0
    gaps: int = 0
    lost_lines: int = 0
    differences: int = 0
    first_difference: str = ""

    def compare(self, where: str, logged: Any, repeated: Any) -> None:
        """Adds one result; `logged` as JSON, `repeated` as the call returned it."""
        self.calls += 1
        self.values += _count_floats(logged)
        before, after = json.dumps(logged), json.dumps(to_json(repeated))
        if before == after:
            return
        self.differences += 1
        if not self.first_difference:
            at = next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), 0)
            part = slice(max(at - 40, 0), max(at - 40, 0) + SHOWN)
            self.first_difference = f"{where}: was ...{before[part]}, is now ...{after[part]}"


def replay(folder: Path, bundle: Path | None = None) -> dict[str, ReplayResult]:
    """Replays the logs of guard and policy that are in `folder`; part -> comparison.

    Raises DatasetError if there is none.
    """
    present = [part for part in PARTS if any(folder.glob(f"{part}-*.jsonl"))]
    if not present:
        list_segments(folder, PARTS[0])  # raises with the reason
    replays = {"guard": replay_guard, "policy": lambda logs: replay_policy(logs, bundle)}
    return {part: replays[part](folder) for part in present}


def replay_guard(folder: Path) -> ReplayResult:
    """Repeats every call of the guard, each segment from the state at its start.

    Raises DatasetError, with file and line, for a damaged log and for a call that a guard does not
    have.
    """
    comparison = ReplayResult()
    for path in list_segments(folder, "guard"):
        guard = None
        for number, row in _rows(path, comparison):
            with _locate_errors(f"{path}, line {number}"):
                if row["call"] == HEAD:
                    guard = _restore_guard(from_json(row))
                elif guard is not None:
                    where = f"{path.name}, line {number}, {row['call']}"
                    comparison.compare(where, row["result"], _repeat_guard_call(guard, row))
    return comparison


def replay_policy(folder: Path, bundle: Path | None = None) -> ReplayResult:
    """Repeats every prediction with the logged bundle, or with `bundle`.

    Raises BundleError if the logged bundle has changed since.
    """
    comparison, engine = ReplayResult(), None
    for path in list_segments(folder, "policy"):
        for number, row in _rows(path, comparison):
            with _locate_errors(f"{path}, line {number}"):
                if row["call"] == HEAD:
                    engine = engine or _make_engine(from_json(row), bundle)
                elif engine is not None:
                    where = f"{path.name}, line {number}, {PREDICT}"
                    comparison.compare(where, row["result"], _repeat_prediction(engine, row))
    return comparison


def _rows(path: Path, comparison: ReplayResult) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered lines of a segment up to its first gap; the state after a gap is unknown."""
    for number, row in enumerate(read(path), 1):
        lost = row.get(LOST) if row.get("call") in (HEAD, GAP) else 0
        if type(lost) is int and lost > comparison.lost_lines:
            comparison.gaps, comparison.lost_lines = comparison.gaps + 1, lost
        if row.get("call") == GAP:
            return
        if not isinstance(row.get("call"), str):
            raise DatasetError(f"{path}, line {number} has no `call`; copy it again")
        yield number, row


@contextmanager
def _locate_errors(where: str) -> Iterator[None]:
    """Turns every error that a damaged line causes into a DatasetError that names the line."""
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
    except Exception as error:  # unchecked values reach numpy, torch and the guard
        what = f"{type(error).__name__} {show_text(error)}"
        raise DatasetError(f"{where} cannot be replayed: {what}; copy the log again") from error


def _repeat_guard_call(guard: Guard, row: Mapping[str, Any]) -> Any:
    """Repeats one of CALLS; raises DatasetError for another call or an invalid argument."""
    name, args, kwargs = row["call"], from_json(row["args"]), from_json(row["kwargs"])
    if name not in CALLS:
        raise DatasetError(
            f"a guard has no call '{show_text(name, 40)}'; known: {', '.join(CALLS)}"
        )
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise DatasetError(f"{name}: args must be a list and kwargs a mapping")
    call = getattr(guard, name)
    try:
        bound = inspect.signature(call).bind(*args, **kwargs)
    except TypeError as error:
        raise DatasetError(f"{name}: {show_text(error)}") from error
    for argument, value in bound.arguments.items():
        if argument not in ARGUMENTS or not ARGUMENTS[argument](value):
            raise DatasetError(f"{name}: {argument} cannot be {show_value(value, 60)}")
    if name == "tick":
        _check_backlog(guard, bound.arguments["now"])
    return logged_result(name, call(*bound.args, **bound.kwargs))


def _check_backlog(guard: Guard, now: float) -> None:
    """Raises DatasetError if a tick at `now` [s] would have to compute too many set-points."""
    state, generator = vars(guard), guard.generator
    last = state["_last_tick"]
    skipped = np.isfinite(last) and not 0 < now - last <= guard.config.max_gap_s
    if not generator.initialized or skipped or not np.isfinite(now):
        return
    due = (generator.commit_time(now) - generator.origin) / guard.period
    if generator.commanded and not abs(due - vars(generator)["_n_final"]) <= MAX_SETPOINTS:
        raise DatasetError(f"a tick at {now:g} s leaves more than {MAX_SETPOINTS} set-points open")


def _repeat_prediction(engine: Any, row: Mapping[str, Any]) -> ActionChunk:
    from nac_ros.inference.chunk_transition import CurrentChunk

    if row["call"] != PREDICT:
        raise DatasetError(f"a policy has no call '{show_text(row['call'], 40)}', only {PREDICT}")
    facts = from_json({key: value for key, value in row.items() if key != "result"})
    observation, current, generator = facts["observation"], facts["current"], facts["generator"]
    if not isinstance(observation, Observation) or not isinstance(generator, np.ndarray):
        raise DatasetError(f"{PREDICT} needs an observation and the generator's state")
    if current is not None:
        is_pair = isinstance(current, list) and len(current) == 2
        if not is_pair or not ARGUMENTS["chunk"](current[0]) or not _is_number(current[1]):
            raise DatasetError(
                f"current must be a chunk and a time, got {show_value(current, 60)}"
            )
        current = CurrentChunk(*current)
    engine.set_generator_state(generator)
    return engine.predict_chunk(observation, current)


def _restore_guard(head: dict[str, Any]) -> Guard:
    spec = configs.build(RobotSpec, head["robot"], "robot of the call log")
    if not spec.guard_rate_hz <= MAX_RATE_HZ:
        raise DatasetError(f"guard_rate_hz {spec.guard_rate_hz:g} is beyond {MAX_RATE_HZ:g}")
    guard = Guard(spec, configs.build(GuardConfig, head["config"], "config of the call log"))
    guard.update_joint_state(0.0, spec.home)  # creates the objects whose state is restored
    restore(guard, head["state"])
    return guard


def _make_engine(head: dict[str, Any], other: Path | None) -> Any:
    from nac_ros.core.device import DeviceConfig, resolve_device
    from nac_ros.core.files import sha256
    from nac_ros.export.manifest import MANIFEST
    from nac_ros.inference.chunk_transition import TransitionConfig
    from nac_ros.inference.engine import Engine
    from nac_ros.inference.load_runtime import load_runtime
    from nac_ros.inference.policy_runtime import RuntimeConfig

    seed, threads, steps = head["seed"], head["threads"], head["n_action_steps"]
    for name, value, limit in (
        ("seed", seed, MAX_SEED),
        ("threads", threads, MAX_THREADS),
        ("n_action_steps", 1 if steps is None else steps, MAX_SETPOINTS),
    ):
        if type(value) is not int or not 0 <= value <= limit:
            raise DatasetError(f"{name} must be in 0 .. {limit}, got {show_value(value, 60)}")
    if not isinstance(head["bundle"], str):
        raise DatasetError(f"bundle must be a folder, got {show_value(head['bundle'], 60)}")
    path = other or Path(head["bundle"])
    wanted = {key: head[key] for key in ("device", "precision")}
    device = resolve_device(configs.build(DeviceConfig, wanted, "device of the call log"))
    facts = {"runtime": head["runtime"], "threads": threads}
    policy = load_runtime(path, configs.build(RuntimeConfig, facts, "call log"), device=device)
    if other is None and sha256(path / MANIFEST) != head["manifest"]:
        raise BundleError(
            f"{path} has changed since this run; give the bundle of the run with --bundle"
        )
    transition = configs.build(TransitionConfig, head["transition"], "transition of the call log")
    return Engine(policy, seed, steps, transition)


def _count_floats(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_count_floats, value.values()))
    if isinstance(value, list):
        return sum(map(_count_floats, value))
    return int(isinstance(value, float))
