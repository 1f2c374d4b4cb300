"""The twin on a wall clock: it keeps up, ends trials where they end, and remembers them."""

import json

import numpy as np
import pytest

pytest.importorskip("mujoco")

from nac_ros.core.errors import DatasetError, UnknownName
from nac_ros.core.types import Trajectory, TrajectoryPoint
from nac_ros.robot.spec import load_robot
from nac_ros.simulation.domain_randomization import load_randomization
from nac_ros.simulation.realtime_twin import CameraThread, RealtimeTwin
from nac_ros.simulation.state_log import StateLog
from nac_ros.simulation.tasks.base import HORIZON

START = 1.7e9  # [s] a wall clock


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    made = RealtimeTwin(load_robot("vx300s"), tmp_path_factory.mktemp("trials"))
    made.prepare("weighing")
    return made


def test_physics_follows_the_clock_it_is_told(live):
    live.start_trial("weighing", 0, 0, START)
    for elapsed in (0.011, 0.02, 0.5):
        live.advance(START + elapsed)
        assert live.stamp == pytest.approx(START + elapsed, abs=2e-3)


def test_a_trajectory_counts_from_when_it_came_not_from_when_it_was_looked_at(live):
    live.start_trial("weighing", 0, 0, START)
    goal = live.twin.proprio() + np.array([0.1, 0, 0, 0, 0, 0, 0])
    live.send_trajectory(
        Trajectory(live.spec.joint_names, [TrajectoryPoint(goal, 0.2)]), START + 0.1
    )
    live.advance(START + 0.3)
    assert live.twin.setpoint()[0] == pytest.approx(goal[0], abs=1e-6)


def test_the_horizon_ends_a_trial_in_its_last_step_even_after_a_pause(live):
    live.start_trial("weighing", 3, 7, START)
    assert live.advance(START + HORIZON / 30 + 5)
    assert live.trial.state == "failure" and live.trial.steps == HORIZON
    assert not live.advance(START + HORIZON / 30 + 6)
    recording = StateLog.load(live.trial.state_log)
    assert (recording.trial["task"], recording.trial["trial"]) == ("weighing", 7)
    assert recording.commanded.shape == recording.measured.shape == (len(recording.stamps), 7)
    assert (np.diff(recording.stamps) > 0).all()
    assert recording.stamps[-1] - START == pytest.approx(HORIZON / 30, abs=0.1)
    assert len(recording.states) == len(recording.state_stamps) > 400


def test_a_reset_records_the_running_trial_as_aborted(live):
    live.start_trial("weighing", 0, 1, START)
    live.advance(START + 0.3)
    live.start_trial("weighing", 0, 2, START + 1)
    path = live._log_folder / "weighing-0-001.npz"
    assert StateLog.load(path).trial["state"] == "aborted"
    assert live.trial.state == "running" and live.trial.trial == 2


def test_cameras_show_the_recorded_scene_with_its_stamp(live):
    seen = []
    cameras = CameraThread(live.spec, lambda stamp, images: seen.append((stamp, images)))
    cameras.prepare("weighing")
    for trial in (0, 1):
        live.start_trial("weighing", 0, trial, START)
        cameras.render("weighing", START + trial, live.twin.snapshot())
        cameras._rendering.result()
    cameras.close()
    (first, a), (second, b) = seen
    assert (first, second) == (START, START + 1)
    assert a["scene"].shape == (96, 96, 3) and a["scene"].dtype == np.uint8
    assert (a["scene"] != b["scene"]).any(), "another trial has another scene"


def test_scenes_vary_as_they_are_told_to_and_objects_stay_where_they_are(live):
    states = []
    for scenes in ("nominal", "varied", "nominal"):
        live.start_trial("weighing", 0, 3, START, load_randomization(scenes))
        states.append(live.twin.snapshot())
    plain, varied, again = states
    assert (plain.appearance != varied.appearance).any() and (
        plain.physics == varied.physics
    ).all()
    assert (plain.appearance == again.appearance).all()


def test_a_task_that_the_twin_cannot_play_is_refused(live):
    with pytest.raises(UnknownName, match="weighing"):
        live.prepare("chess_boxing")


def test_a_file_that_is_no_recording_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, trial=json.dumps({}))
    with pytest.raises(DatasetError, match=r"x\.npz is no state log"):
        StateLog.load(path)
