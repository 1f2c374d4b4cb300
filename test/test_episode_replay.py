"""`nac data replay`: an episode replayed through guard and twin over DDS."""

import json

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from nac_ros.cli.main import main
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.lerobot.writer import DatasetWriter
from nac_ros.robot.spec import load_robot

SPEC = load_robot("vx300s")


def swayed(folder, names=SPEC.joint_names, away=0.0):
    """A dataset of two seconds of slow motion around home, the waist `away` [rad] from it."""
    times = np.arange(60)[:, None] / 30
    swing = 0.15 * SPEC.relative_mask * (1 - np.cos(2 * times)) / 2 + away * (np.arange(7) == 0)
    actions = (SPEC.home + swing).astype(np.float32)
    writer = DatasetWriter.create_or_resume(
        folder, fps=30, robot_type="vx300s", names=names, cameras={}
    )
    writer.add_episode(Episode(actions, actions, "Sway."))
    writer.close()
    return folder


@pytest.mark.parametrize("away", [0.0, 0.4])
def test_the_commands_follow_the_recorded_episode_from_any_start(tmp_path, away):
    data, out = swayed(tmp_path / "data", away=away), tmp_path / "results.json"
    words = ["data", "replay", str(data), "--out", str(tmp_path / "runs"), "--json", str(out)]
    assert main(words) == 0
    results = json.loads(out.read_text())
    assert max(results["commanded_max"].values()) < 0.01
    assert max(results["measured_rms"].values()) < 0.08  # the twin's servos lag
    assert ("jump" in results["rejections"]) == bool(away)
    assert set(results["holds"]) <= {
        "mode_hold",
        "settling",
        "no_chunk",
        "chunk_ended",
        "no_joint_states",
    }


def test_an_episode_of_other_joints_is_rejected_before_anything_starts(tmp_path, capsys):
    data = swayed(tmp_path / "data", names=[f"j{i}" for i in range(7)])
    assert main(["data", "replay", str(data), "--out", str(tmp_path / "runs")]) == 2
    assert "moves j0, j1, j2" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert main(["data", "replay", str(data), "--speed", "3"]) == 2
    assert "speed" in capsys.readouterr().err
