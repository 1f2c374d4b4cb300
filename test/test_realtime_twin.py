"""The twin on the wall clock: physics keeps up, trials end in time, state logs are written."""

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

START = 1.7e9  # [s] on the wall clock


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    made = RealtimeTwin(load_robot("vx300s"), tmp_path_factory.mktemp("trials"))
    made.prepare("weighing")
    return made


def test_physics_advances_to_the_given_time(live):
    live.start_trial("weighing", 0, 0, START)
    for elapsed in (0.011, 0.02, 0.5):
        live.advance(START + elapsed)
        assert live.stamp == pytest.approx(START + elapsed, abs=2e-3)


def test_a_trajectory_starts_at_its_arrival_not_at_the_next_advance(live):
    live.start_trial("weighing", 0, 0, START)
    target = live.twin.proprio() + np.array([0.1, 0, 0, 0, 0, 0, 0])
    live.send_trajectory(
        Trajectory(live.spec.joint_names, [TrajectoryPoint(target, 0.2)]), START + 0.1
    )
    live.advance(START + 0.3)
    assert live.twin.setpoint()[0] == pytest.approx(target[0], abs=1e-6)


def test_the_horizon_ends_a_trial_at_its_last_step_even_after_a_pause(live):
    live.start_trial("weighing", 3, 7, START)
    assert live.advance(START + HORIZON / 30 + 5)
    assert live.trial.state == "failure" and live.trial.steps == HORIZON
    assert not live.advance(START + HORIZON / 30 + 6)
    log = StateLog.load(live.trial.state_log)
    assert (log.trial["task"], log.trial["trial"]) == ("weighing", 7)
    assert log.commanded.shape == log.measured.shape == (len(log.stamps), 7)
    assert (np.diff(log.stamps) > 0).all()
    assert log.stamps[-1] - START == pytest.approx(HORIZON / 30, abs=0.1)
    assert len(log.states) == len(log.state_stamps) > 400


def test_a_new_trial_logs_the_running_one_as_aborted(live):
    live.start_trial("weighing", 0, 1, START)
    live.advance(START + 0.3)
    live.start_trial("weighing", 0, 2, START + 1)
    path = live._log_folder / "weighing-0-001.npz"
    assert StateLog.load(path).trial["state"] == "aborted"
    assert live.trial.state == "running" and live.trial.trial == 2


def test_cameras_publish_the_snapshot_with_its_stamp(live):
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


def test_randomization_changes_the_appearance_and_not_the_objects(live):
    states = []
    for name in ("nominal", "varied", "nominal"):
        live.start_trial("weighing", 0, 3, START, load_randomization(name))
        states.append(live.twin.snapshot())
    plain, varied, again = states
    assert (plain.appearance != varied.appearance).any() and (
        plain.physics == varied.physics
    ).all()
    assert (plain.appearance == again.appearance).all()


def test_an_unknown_task_is_rejected(live):
    with pytest.raises(UnknownName, match="weighing"):
        live.prepare("chess_boxing")


def test_a_file_that_is_no_state_log_is_rejected(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, trial=json.dumps({}))
    with pytest.raises(DatasetError, match=r"x\.npz is no state log"):
        StateLog.load(path)
