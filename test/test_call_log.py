"""Call logs of a guard and an engine: written, read, and replayed with bit-equal results."""

import json
import os
import resource
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from nac_ros.cli.main import main
from nac_ros.control import call_log
from nac_ros.control.call_log import CallLog, list_segments, to_json
from nac_ros.control.call_log_reader import from_json, read
from nac_ros.control.logged_guard import LoggedGuard, call_log_folder
from nac_ros.control.types import GuardConfig
from nac_ros.core.errors import DatasetError, NacError
from nac_ros.core.files import sha256
from nac_ros.core.types import ActionChunk, Observation
from nac_ros.evaluation.log_replay import replay_guard, replay_policy
from nac_ros.export.bundle import load_bundle
from nac_ros.export.manifest import MANIFEST
from nac_ros.inference.chunk_transition import CurrentChunk, TransitionConfig
from nac_ros.inference.engine import Engine
from nac_ros.inference.torch_runtime import TorchRuntime
from nac_ros.robot.spec import load_robot

SPEC = load_robot("vx300s")
PERIOD = 1 / SPEC.guard_rate_hz


def run_logged_guard(folder, seed=0, ticks=400):
    """A logged guard after valid and invalid chunks, joint states and requests."""
    rng = np.random.default_rng(seed)
    guard, now = LoggedGuard(SPEC, GuardConfig(), folder), 50.0
    here = SPEC.home.copy()
    guard.update_joint_state(now, here)
    guard.set_mode("policy")
    for k in range(ticks):
        now += PERIOD * rng.choice([1, 1, 1, 2, 0.5])
        guard.update_joint_state(now, here if k % 97 else here * np.nan)
        if k % 40 == 5:
            walk = 0.01 * rng.standard_normal((32, 7)).cumsum(0) * SPEC.relative_mask
            walk[0] = 0.0
            actions = (here + walk).astype(np.float32)
            chunk = ActionChunk(now - 0.05, 30.0, SPEC.joint_names, actions, np.arange(12))
            guard.accept(chunk, now)
        if k == 200:
            guard.set_speed_scale(0.5)
        if k == 250:
            guard.stop()
        if k == 300:
            guard.reset()
            guard.set_mode("teleop")
        if k > 300 and k % 3 == 0:
            one = (SPEC.home + 0.1 * SPEC.relative_mask).astype(np.float32)[None]
            none = np.empty(0, np.int64)
            guard.accept(ActionChunk(now, 30.0, SPEC.joint_names, one, none), now, "teleop")
        guard.tick(now)
        here = guard.setpoint
    guard.call_log.close()
    return guard


def test_every_logged_call_of_a_guard_gives_the_same_result_again(tmp_path):
    run_logged_guard(tmp_path)
    found = replay_guard(tmp_path)
    assert found.calls > 800 and found.values > 5000
    assert (found.differences, found.gaps, found.first_difference) == (0, 0, "")


def test_a_log_without_its_first_segments_gives_the_same_results(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(
        call_log.time, "monotonic", lambda: clock.__setitem__(0, clock[0] + 1.0) or clock[0]
    )
    run_logged_guard(tmp_path)
    paths = list_segments(tmp_path, "guard")
    assert len(paths) == 11, "ten minutes and the segment being written"
    assert paths[0].name != "guard-00000.jsonl"
    found = replay_guard(tmp_path)
    assert found.calls > 300 and found.differences == 0


def test_a_changed_number_is_found_and_located(tmp_path, capsys):
    run_logged_guard(tmp_path)
    (path,) = list_segments(tmp_path, "guard")
    lines = path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if json.loads(line)["call"] == "tick" and i > 300)
    row = json.loads(lines[at])
    row["result"][0][1]["array"][2] += 1e-15
    lines[at] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")
    found = replay_guard(tmp_path)
    assert found.differences == 1
    assert found.first_difference.startswith(f"guard-00000.jsonl, line {at + 1}, tick: was ...")


def observation(bundle, stamp, seed):
    config, rng = bundle.policy.config, np.random.default_rng(seed)
    size = (config.n_obs_steps, config.image_size, config.image_size, 3)
    images = {name: rng.integers(0, 256, size, dtype=np.uint8) for name in config.cameras}
    proprio = np.repeat(SPEC.home[None].astype(np.float32), config.n_obs_steps, 0)
    return Observation(stamp, images, proprio, "marker")


@pytest.mark.parametrize("transition", ["blend", "best-of-n", "constrained"])
def test_every_logged_prediction_gives_the_same_chunk_again(sampling_bundle, tmp_path, transition):
    bundle = load_bundle(sampling_bundle)
    config = TransitionConfig(transition=transition, candidates=3)
    engine = Engine(TorchRuntime(bundle), seed=5, transition=config)
    manifest = sha256(sampling_bundle / MANIFEST)
    facts = {"bundle": str(sampling_bundle), "manifest": manifest, "seed": 5}
    facts |= {"runtime": "torch", "threads": 1, "n_action_steps": None, "transition": vars(config)}
    facts |= {"device": "cpu", "precision": "fp32"}
    engine.call_log, chunk = CallLog(tmp_path, "policy", facts, 60.0), None
    for k in range(3):
        current = chunk and CurrentChunk(chunk, 50.1 + k)
        chunk = engine.predict_chunk(observation(bundle, 50.0 + k, k), current)
    engine.call_log.close()
    found = replay_policy(tmp_path)
    assert found.calls == 3 and found.differences == 0


def test_an_observation_with_environment_state_and_past_commands_is_logged_exactly():
    rng = np.random.default_rng(0)
    optional = (rng.standard_normal((2, 5)), rng.standard_normal((3, 7)).astype(np.float32))
    logged = Observation(1.0, {}, np.zeros((2, 7), np.float32), "marker", *optional)
    again = from_json(json.loads(json.dumps(to_json(logged))))
    np.testing.assert_array_equal(again.environment_state, logged.environment_state)
    np.testing.assert_array_equal(again.past_commands, logged.past_commands)


def test_values_are_logged_exactly():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    for array in (rng.standard_normal((4, 7)), rng.standard_normal(3).astype(np.float32), image):
        again = from_json(json.loads(json.dumps(to_json(array))))
        assert again.dtype == array.dtype
        np.testing.assert_array_equal(again, array)
    assert from_json(json.loads(json.dumps(to_json({"a": [np.inf, None, np.float64(0.1)]})))) == {
        "a": [np.inf, None, 0.1]
    }


def test_a_truncated_last_line_is_skipped_and_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "guard-00000.jsonl"
    path.write_text('{"call": "head", "format": 2}\n{"call": "ti')
    assert [row["call"] for row in read(path)] == ["head"]
    path.write_text('{"call": "head", "format": 2}\n{"call": "ti\n{"call": "tick"}\n')
    with pytest.raises(DatasetError, match="line 2 is damaged"):
        list(read(path))


@pytest.mark.parametrize("head", ['{"what": "head"}', '{"call": "head", "format": 1}', "{}"])
def test_a_log_of_another_format_is_rejected(tmp_path, head):
    (tmp_path / "guard-00000.jsonl").write_text(head + "\n")
    with pytest.raises(DatasetError, match="this version reads format 2; use the version"):
        replay_guard(tmp_path)


def test_a_full_disk_is_reported_and_stops_no_guard(tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file in place of the folder")
    guard = run_logged_guard(blocked / "call_log", ticks=30)
    assert guard.setpoint is not None
    assert guard.call_log.lost >= 30 and "blocked" in guard.call_log.problem
    assert "free space or set another folder" in guard.call_log.problem


def test_after_a_full_disk_the_remaining_log_can_be_replayed(tmp_path, monkeypatch):
    monkeypatch.setattr(call_log, "RETRY_S", 0.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))  # largest size of a file
    try:
        run_logged_guard(tmp_path, ticks=120)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(list_segments(tmp_path, "guard")) > 1
    found = replay_guard(tmp_path)
    assert found.differences == 0 and found.calls > 60


def test_a_failed_write_removes_no_older_segment(tmp_path):
    log = CallLog(tmp_path, "guard", {}, 60.0)
    log.append("one", {}, {})
    log.close()
    kept = list_segments(tmp_path, "guard")
    again = CallLog(tmp_path / "guard-00000.jsonl", "guard", {}, 60.0)  # a file, no folder
    again.append("two", {}, {})
    again.close()
    assert list_segments(tmp_path, "guard") == kept and "guard-00000" in again.problem


def test_only_the_logs_that_exist_are_replayed(tmp_path, capsys):
    run_logged_guard(tmp_path)
    assert main(["verify-log", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "guard" in printed and "0 differ" in printed and "policy" not in printed


def test_below_ros_home_the_oldest_runs_are_removed(monkeypatch, tmp_path):
    monkeypatch.setenv("ROS_HOME", str(tmp_path))
    home = tmp_path / "nac_ros" / "call_logs"
    for n in range(60):
        (home / f"20260101-0000{n:02d}").mkdir(parents=True)
    (home / "no run").mkdir()
    new = call_log_folder("auto")
    left = sorted(path.name for path in home.iterdir())
    assert len(left) == 50 and left[0] == "20260101-000011" and "no run" in left
    assert new.name > left[-2]


def test_lost_lines_end_the_replay_of_their_segment(tmp_path):
    run_logged_guard(tmp_path)
    (path,) = list_segments(tmp_path, "guard")
    lines = path.read_text().splitlines()
    gap = json.dumps({"call": "gap", "lost": 3})
    path.write_text("\n".join([*lines[:200], gap, *lines[250:]]) + "\n")
    found = replay_guard(tmp_path)
    assert found.gaps == 1 and found.differences == 0 and found.calls == 199


def test_lines_that_are_lost_to_a_slow_disk_are_counted_and_marked(tmp_path, monkeypatch):
    monkeypatch.setattr(call_log, "MAX_WAITING_LINES", 50)
    slow, kept = tmp_path / "slow", tmp_path / "kept"
    slow.mkdir(), kept.mkdir()
    os.mkfifo(slow / "guard-00000.jsonl")  # blocks until it is read
    guard, now = LoggedGuard(SPEC, GuardConfig(), slow), 50.0
    for _ in range(100):
        now += PERIOD
        guard.update_joint_state(now, SPEC.home)
        guard.tick(now)
    assert guard.call_log.lost > 100
    pipe, file = slow / "guard-00000.jsonl", kept / "guard-00000.jsonl"
    copy = Thread(target=lambda: file.write_bytes(pipe.read_bytes()))
    copy.start()
    deadline = time.monotonic() + 20
    while guard.call_log.waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(10):
        now += PERIOD
        guard.tick(now)
    guard.call_log.close()
    copy.join(20)
    found = replay_guard(kept)
    assert found.gaps == 1 and found.differences == 0 and 0 < found.calls <= 60


def test_closing_does_not_wait_for_a_blocked_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(call_log, "MAX_WAITING_LINES", 5)
    monkeypatch.setattr(call_log, "CLOSE_S", 0.1)
    os.mkfifo(tmp_path / "guard-00000.jsonl")
    log = CallLog(tmp_path, "guard", {}, 60.0)
    for n in range(20):
        log.append("one", {"n": n}, {} if n == 0 else None)
    log.close()  # returns
    assert log.lost > 0


def test_later_changes_of_appended_values_do_not_reach_the_log(tmp_path):
    log, values = CallLog(tmp_path, "guard", {}, 60.0), np.zeros(3)
    log.append("one", {"values": values, "more": [values, {"a": values}]}, {})
    values += 1
    log.close()
    *_, row = read(list_segments(tmp_path, "guard")[0])
    assert row["values"]["array"] == [0, 0, 0] and row["more"][1]["a"]["array"] == [0, 0, 0]


def test_the_command_names_what_is_missing(tmp_path, capsys):
    assert main(["verify-log", str(tmp_path)]) == 2
    assert "holds no call log of guard" in capsys.readouterr().err
    with pytest.raises(NacError, match="no call log of policy"):
        replay_policy(tmp_path)


def test_the_log_folder_is_the_given_one_or_below_ros_home(monkeypatch, tmp_path):
    monkeypatch.setenv("ROS_HOME", str(tmp_path))
    assert call_log_folder("none") is None
    assert call_log_folder("x/y") == Path("x/y")
    assert call_log_folder("auto").parent == tmp_path / "nac_ros" / "call_logs"
