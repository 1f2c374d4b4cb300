"""Findings of `nac data check` and `nac data info` that would harm a training."""

import numpy as np
import pytest
from test_cli import run
from test_hdf5 import episodes, hdf5_metadata
from test_lerobot import make_episode

from nac_ros.datasets.factory import open_dataset
from nac_ros.datasets.hdf5 import write_hdf5
from nac_ros.datasets.validate import check, degenerate_columns


def findings(tmp_path, made, **changes) -> list[str]:
    path = tmp_path / "demo.hdf5"
    write_hdf5(path, hdf5_metadata(**changes), made)
    return [str(finding) for finding in check(open_dataset(path))]


def test_sound_episodes_have_no_findings(tmp_path):
    assert findings(tmp_path, episodes()) == []


def test_a_constant_dimension_is_a_finding(tmp_path, capsys):
    made = [make_episode(index) for index in range(3)]
    for episode in made:
        episode.actions[:, 1] = 0.25
    (found,) = findings(tmp_path, made)
    assert "action elbow never changes, it is 0.25" in found
    code, out, _ = run(capsys, "data", "info", tmp_path / "demo.hdf5")
    assert code == 0 and "elbow never changes" in out


def test_a_nearly_constant_dimension_is_a_finding(tmp_path):
    made = [make_episode(0, length=1000)]
    made[0].actions[:, 2] *= 1e-4
    made[0].actions[500:505, 2] = 5.0
    (found,) = findings(tmp_path, made)
    assert "gripper is nearly constant" in found and "min and max" in found


def test_a_finding_of_every_episode_is_reported_once(tmp_path):
    made = [make_episode(index) for index in range(4)]
    for episode in made:
        episode.images["wrist"][:] = 0
    made[2].images["scene"][:] = 0
    assert findings(tmp_path, made) == [
        "dataset: in every episode, all images of wrist are black",
        "episode 2: all images of scene are black",
    ]


def moving(n: int = 60):
    episode = make_episode(0, length=n)
    episode.proprio[:] = np.linspace(0, 1, n)[:, None]
    return episode


def test_a_frozen_camera_while_the_arm_moves_is_a_finding(tmp_path):
    episode = moving()
    episode.images["wrist"][20:41] = episode.images["wrist"][20]
    (found,) = findings(tmp_path, [episode])
    assert "wrist shows the same image for 1.4 s from frame 20 on" in found


def test_a_camera_may_repeat_its_image_while_the_arm_rests(tmp_path):
    episode = moving()
    episode.images["wrist"][20:41] = episode.images["wrist"][20]
    episode.proprio[20:41] = episode.proprio[20]
    assert findings(tmp_path, [episode]) == []


@pytest.mark.parametrize(
    ("period_ns", "word"),
    [(50_000_000, "recorded at 20.0 Hz, the dataset says 15"), (0, "do not increase")],
)
def test_true_stamps_off_the_rate_are_a_finding(tmp_path, period_ns, word):
    episode = make_episode(0)
    episode.__dict__["stamps_ns"] = 1_790_000_000_000_000_000 + np.arange(5) * period_ns
    (found,) = findings(tmp_path, [episode])
    assert word in found


def test_an_episode_without_a_task_is_a_finding(tmp_path):
    assert findings(tmp_path, [make_episode(0, task="")]) == ["episode 0: it has no task"]


def test_the_constant_gripper_of_real_data_is_a_finding(nac_data):
    dataset = open_dataset(nac_data / "robosuite_human/door")
    assert degenerate_columns(dataset) == [
        "action actions.6 never changes, it is -1 in all frames"
    ]
