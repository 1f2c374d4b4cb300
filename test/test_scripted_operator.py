"""`nac data demonstrate`: a scripted operator's episodes, recorded over DDS through teleop."""

import importlib.util
import json

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")
pytest.importorskip("mcap")

from nac_ros.cli.main import main
from nac_ros.core.config import config_dir
from nac_ros.datasets.factory import open_dataset
from nac_ros.datasets.mcap import reader
from nac_ros.robot.spec import load_robot

ROOT = config_dir().parent
SPEC = load_robot("vx300s")


@pytest.mark.timeout(300)
def test_a_recorded_episode_contains_the_whole_task(tmp_path, capsys):
    out, results = tmp_path / "episodes", tmp_path / "results.json"
    words = ["data", "demonstrate", "--task", "weighing", "--episodes", "1", "--out", str(out)]
    assert main([*words, "--json", str(results)]) == 0, capsys.readouterr().err
    printed = json.loads(results.read_text())
    assert printed["kept"] == 1 and printed["minutes"] > 0
    kept = [path for path in out.iterdir() if not path.suffix]
    assert len(kept) == 1 and len(list(out.iterdir())) == 1 + printed["discarded"]
    facts = reader.read_metadata(kept[0])
    assert facts["outcome"] == "success" and facts["operator"] == "scripted"
    assert facts["task"] == "Turn on the weighing machine."
    dataset = open_dataset(out)
    longest = max(range(len(dataset.episodes)), key=lambda i: dataset.episodes[i].length)
    episode = dataset.episode(longest)
    assert len(episode) > 60 and not episode.intervention.any()
    assert np.ptp(episode.actions, 0)[SPEC.relative_mask].max() > 0.2  # the arm moved
    speed = np.abs(np.diff(episode.actions, axis=0)) * SPEC.action_rate_hz
    assert (speed <= 1.01 * np.array(SPEC.velocity_limit)).all()
    assert np.ptp(episode.images["scene"].astype(int), 0).max() > 50


def test_an_unknown_task_or_seed_is_rejected_with_one_sentence(tmp_path, capsys):
    words = ["data", "demonstrate", "--out", str(tmp_path / "episodes"), "--task"]
    assert main([*words, "juggling"]) == 2
    assert "juggling" in capsys.readouterr().err
    assert main([*words, "marker", "--seed", "-1"]) == 2
    assert "seed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_tutorial_has_its_blocks_in_order():
    spec = importlib.util.spec_from_file_location("tutorial", ROOT / "tools" / "tutorial.py")
    tutorial = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tutorial)
    morning, noon, evening = tutorial.blocks((ROOT / "docs/tutorial.md").read_text())
    assert "nac data demonstrate" in morning and "runs/tutorial/eval.json" in evening
    verbs = ("convert", "tokenizer train", "policy train", "nac export")
    assert [noon.index(verb) for verb in verbs] == sorted(noon.index(verb) for verb in verbs)
    assert tutorial.blocks("<!-- tutorial -->\n```sh\nls\n```\n```sh\nrm\n```\n") == ["ls\n"]
