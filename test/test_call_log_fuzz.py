"""Damaged or forged call logs are replayed, or rejected with file and line."""

import base64
import json
import random
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fuzz import HOSTILE_VALUES, damage_bytes, damage_tree, nested, pickle_payload, run_cases
from test_call_log import observation, run_logged_guard

from nac_ros.cli.main import main
from nac_ros.control.call_log import CallLog, to_json
from nac_ros.control.call_log_reader import MAX_ARRAYS, from_json, read
from nac_ros.control.logged_guard import snapshot
from nac_ros.core.config import config_dir
from nac_ros.core.errors import DatasetError
from nac_ros.core.files import sha256
from nac_ros.evaluation.log_replay import replay, replay_guard
from nac_ros.export.bundle import load_bundle
from nac_ros.export.manifest import MANIFEST
from nac_ros.inference.chunk_transition import CurrentChunk, TransitionConfig
from nac_ros.inference.engine import Engine
from nac_ros.inference.torch_runtime import TorchRuntime

LOG = "guard-00000.jsonl"
BOMB = base64.b64encode(zlib.compress(bytes(1 << 27), 9)).decode()  # 128 MiB of zeros
ATTACKS = (
    {"packed": BOMB, "dtype": "uint8", "shape": [1 << 27]},
    {"packed": BOMB, "dtype": "uint8", "shape": [1]},
    {"packed": "", "dtype": "float64", "shape": [1 << 40, 1 << 40]},
    {"array": [], "dtype": "object", "shape": [0]},
    {"array": [1e300], "dtype": "int8", "shape": [1]},
    {"array": [0.0] * 7, "dtype": "float64", "shape": [7, 1]},
    {"ActionChunk": {}},
    {"Observation": {"stamp": 0}},
)

SHIPPED = config_dir().parent / "models" / "default"


def run_logged_engine(folder: Path) -> None:
    """Logs two predictions of the shipped bundle."""
    bundle, config = load_bundle(SHIPPED), TransitionConfig(transition="best-of-n", candidates=2)
    engine = Engine(TorchRuntime(bundle), seed=5, transition=config)
    facts = {"bundle": str(SHIPPED), "manifest": sha256(SHIPPED / MANIFEST), "seed": 5}
    facts |= {"runtime": "torch", "threads": 1, "n_action_steps": None, "transition": vars(config)}
    facts |= {"device": "cpu", "precision": "fp32"}
    engine.call_log, chunk = CallLog(folder, "policy", facts, 60.0), None
    for k in range(2):
        current = chunk and CurrentChunk(chunk, 50.1 + k)
        chunk = engine.predict_chunk(observation(bundle, 50.0 + k, k), current)
    engine.call_log.close()


def damage_line(line: str, rng: random.Random) -> str:
    """A line with values replaced, mostly by valid arguments of a call."""
    row = json.loads(line)
    values = (
        *HOSTILE_VALUES,
        *ATTACKS,
        "tick",
        "stop",
        "_set_fault",
        "__init__",
        "spec",
        "generator",
    )
    if rng.random() < 0.2:
        row["call"] = rng.choice(
            ("__init__", "_set_fault", "spec", "config", "stop", "tick", "head")
        )
    return json.dumps(damage_tree(row, rng, values))


def damage_log(content: bytes, folder: Path, rng: random.Random) -> bytes:
    kind = rng.random()
    if kind < 0.35:
        return damage_bytes(content, rng)
    if kind < 0.4:
        return rng.choice((b"", pickle_payload(folder / "executed"), nested(100_000).encode()))
    lines = content.decode().splitlines()
    for _ in range(rng.choice((1, 1, 4))):
        at = 0 if rng.random() < 0.4 else rng.randrange(len(lines))
        lines[at] = damage_line(lines[at], rng)
    return ("\n".join(lines) + "\n").encode()


def guard_cases(folder: Path, seed: int, count: int):
    rng, path = random.Random(seed), folder / "log" / LOG
    whole = path.read_bytes()
    replay_guard(path.parent)
    for n in range(count):
        path.write_bytes(damage_log(whole, folder, rng))
        yield f"case {n}", partial(replay_guard, path.parent)
    path.write_bytes(whole)


def policy_cases(folder: Path, seed: int, count: int):
    """Fewer cases, because each one loads the bundle that the log names."""
    rng, path = random.Random(seed), folder / "log" / "policy-00000.jsonl"
    whole = path.read_bytes()
    replay(path.parent)
    for n in range(count):
        path.write_bytes(damage_log(whole, folder, rng))
        yield f"case {n}", partial(replay, path.parent)


@pytest.mark.timeout(300)
def test_500_damaged_guard_logs_are_rejected_or_replayed(tmp_path):
    run_logged_guard(tmp_path / "log", ticks=60)
    result = run_cases(__file__, "guard_cases", tmp_path)
    assert result["rejected"] > 200
    assert not (tmp_path / "executed").exists()


@pytest.mark.timeout(300)
def test_damaged_policy_logs_are_rejected_or_replayed(tmp_path):
    run_logged_engine(tmp_path / "log")
    result = run_cases(__file__, "policy_cases", tmp_path, count=60)
    assert result["rejected"] > 20
    assert not (tmp_path / "executed").exists()


def altered(folder: Path, change) -> Path:
    """A guard log whose first line for which `change(row)` is true was changed by it."""
    run_logged_guard(folder, ticks=20)
    path = folder / LOG
    lines = path.read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    at = next(i for i, row in enumerate(rows) if change(row))
    lines[at] = json.dumps(rows[at])
    path.write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    "name", ["__init__", "_set_fault", "spec", "setpoint", "__class__", "trajectory"]
)
def test_a_log_can_call_only_logged_methods_of_a_guard(tmp_path, name):
    def change(row):
        if row["call"] == "tick":
            row["call"] = name
            return True
        return False

    with pytest.raises(DatasetError, match=rf"line \d+: a guard has no call '{name}'"):
        replay_guard(altered(tmp_path, change))


@pytest.mark.parametrize(
    ("call", "args"),
    [
        ("tick", ["soon"]),
        ("tick", [True]),
        ("tick", []),
        ("tick", [1.0, 2.0]),
        ("set_mode", ["run_logged_guard"]),
        ("set_mode", [["hold"]]),
        ("update_joint_state", [0.0, [0.0] * 7]),
        ("accept", [{"stamp": 0.0}, 1.0]),
        ("set_speed_scale", ["1"]),
    ],
)
def test_a_call_with_an_invalid_argument_is_rejected(tmp_path, call, args):
    def change(row):
        if row["call"] == "tick":
            row.update(call=call, args=args)
            return True
        return False

    with pytest.raises(DatasetError, match=rf"{LOG}, line \d+: {call}"):
        replay_guard(altered(tmp_path, change))


@pytest.mark.parametrize("name", ["spec", "__class__", "tick", "config", "_find_hold_reason"])
def test_a_log_can_set_only_state_fields(tmp_path, name):
    def change(row):
        row["state"][name] = {}
        return True

    with pytest.raises(DatasetError, match=f"line 1: Guard has no state '{name}'"):
        replay_guard(altered(tmp_path, change))


def test_a_state_with_a_huge_backlog_of_setpoints_is_rejected(tmp_path):
    guard = run_logged_guard(tmp_path, ticks=60)
    path = tmp_path / LOG
    head = json.loads(path.read_text().splitlines()[0])
    state = to_json(snapshot(guard))
    now = state["_last_tick"] + 1 / guard.spec.guard_rate_hz
    tick = {"call": "tick", "args": [now], "kwargs": {}, "result": []}

    def write(count):
        state["generator"] |= {"commanded": True, "_n_final": count}
        rows = [{**head, "state": state}, tick]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write(state["generator"]["_n_final"])
    assert replay_guard(tmp_path).calls == 1
    write(-(10**12))
    with pytest.raises(DatasetError, match="leaves more than 100000 set-points open"):
        replay_guard(tmp_path)


def test_dropped_lines_make_a_log_incomplete(tmp_path, capsys):
    run_logged_guard(tmp_path)
    path = tmp_path / LOG
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:200], '{"call": "gap", "lost": 7}', *lines[250:]]) + "\n")
    found = replay_guard(tmp_path)
    assert (found.gaps, found.lost_lines, found.calls, found.differences) == (1, 7, 199, 0)
    assert main(["verify-log", str(tmp_path)]) == 0
    assert "the log is incomplete: 1 gaps, 7 lines lost" in capsys.readouterr().out


def attack_cases(folder: Path, seed: int, count: int):
    for attack in ATTACKS:
        row = {"call": "predict_chunk", "observation": [attack] * 50}
        yield str(attack)[:80], lambda row=row: from_json(row)


def test_compressed_arrays_stay_within_the_memory_limit_of_a_line(tmp_path):
    result = run_cases(__file__, "attack_cases", tmp_path, count=0)
    assert result["rejected"] == len(ATTACKS) - 1  # arrays of 7 x 1 are arrays


def test_a_line_without_an_end_is_rejected(tmp_path):
    path = tmp_path / LOG
    with path.open("wb") as file:
        file.truncate(MAX_ARRAYS)
    with pytest.raises(DatasetError, match=r"line 1 is damaged|more than"):
        list(read(path))
    path.unlink()
    path.mkdir()
    with pytest.raises(DatasetError, match="is no file"):
        list(read(path))
    assert np.isnan(from_json({"array": [float("nan")], "dtype": "float64", "shape": [1]})).all()
