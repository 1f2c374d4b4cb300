"""Generated datasets: equal bytes for any number of workers, resumable, without failures."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from nac_ros.core.errors import ConfigError, DatasetError, SimulationError
from nac_ros.core.types import ActionChunk
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.lerobot.reader import LeRobotDataset
from nac_ros.datasets.validate import check
from nac_ros.demonstrations import dagger
from nac_ros.demonstrations import generate as module
from nac_ros.demonstrations.generate import Attempt, GenerateConfig, Progress, generate
from nac_ros.evaluation.rollout import Rollout
from nac_ros.robot.spec import load_robot

CONFIG = GenerateConfig(task="weighing", disturbed_share=0.5)


def digests(root):
    files = sorted((root / "data").rglob("*.parquet"))
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def scripted_attempt(config, trial):
    """Replaces the simulator; every third trial fails."""
    if trial % 3 == 2:
        return Attempt(None, "The marker fell.")
    rng = np.random.default_rng([config.seed, trial])
    spec = load_robot(config.robot)
    joints = rng.normal(size=(4, spec.action_dim)).astype(np.float32)
    images = {
        camera.name: rng.integers(0, 256, (4, camera.height, camera.width, 3)).astype(np.uint8)
        for camera in spec.cameras
    }
    return Attempt(Episode(joints, joints, "Do it.", images, success=True), "Done.")


def test_one_worker_and_two_after_resuming_write_the_same_bytes(tmp_path):
    pytest.importorskip("mujoco")
    generate(CONFIG, 3, tmp_path / "one", workers=1)
    generate(CONFIG, 1, tmp_path / "two", workers=1)
    generate(CONFIG, 3, tmp_path / "two", workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    dataset = LeRobotDataset.open(tmp_path / "one")
    assert check(dataset) == [] and all(dataset.episode(i, False).success for i in range(3))
    assert dataset.names == load_robot("vx300s").joint_names and dataset.units[0] == "rad"


def test_failed_trials_are_left_out_and_counted_also_after_resuming(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "attempt_demonstration", scripted_attempt)
    first = generate(CONFIG, 3, tmp_path, workers=1)
    assert (first.kept, first.failed) == (3, 1)
    second = generate(CONFIG, 6, tmp_path, workers=1)
    assert (second.kept, second.failed) == (6, 2)
    for index, trial in enumerate([0, 1, 3, 4, 6, 7]):
        wanted = scripted_attempt(CONFIG, trial).episode.actions
        np.testing.assert_array_equal(LeRobotDataset.open(tmp_path).episode(index).actions, wanted)


def test_a_complete_dataset_is_left_unchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "attempt_demonstration", scripted_attempt)
    generate(CONFIG, 2, tmp_path, workers=1)
    before = digests(tmp_path)
    assert generate(CONFIG, 2, tmp_path, workers=1).kept == 2
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    "other",
    [
        GenerateConfig(task="marker", disturbed_share=0.5),
        GenerateConfig(task="weighing", disturbed_share=0.5, seed=1),
        GenerateConfig(task="weighing", disturbed_share=0.0),
    ],
)
def test_resuming_with_other_options_is_rejected(tmp_path, monkeypatch, other):
    monkeypatch.setattr(module, "attempt_demonstration", scripted_attempt)
    generate(CONFIG, 1, tmp_path, workers=1)
    with pytest.raises(DatasetError, match=r"task|seed|disturbed_share"):
        generate(other, 2, tmp_path, workers=1)


def test_an_expert_that_never_succeeds_ends_the_run(tmp_path, monkeypatch):
    def fail(config, trial):
        return scripted_attempt(config, 2)

    monkeypatch.setattr(module, "attempt_demonstration", fail)
    with pytest.raises(SimulationError, match=r"in a row failed.*The marker fell"):
        generate(CONFIG, 1, tmp_path, workers=1)


def test_an_object_out_of_reach_is_a_failed_demonstration(monkeypatch):
    def refuse(*_, **__):
        raise SimulationError("the arm cannot point down at [9, 9, 9] m")

    monkeypatch.setattr(module, "demonstrate", refuse)
    assert module.attempt_demonstration(CONFIG, 0) == (
        None,
        "the arm cannot point down at [9, 9, 9] m",
    )


def test_options_out_of_range_are_rejected():
    with pytest.raises(ConfigError, match="disturbed_share"):
        GenerateConfig(task="marker", disturbed_share=2.0)
    with pytest.raises(ConfigError, match="workers"):
        generate(CONFIG, 1, "unused", workers=0)


def test_the_progress_line_has_rate_and_remaining_time():
    line = Progress(kept=30, wanted=60, failed=2, episodes_per_s=0.5).line()
    assert line == "30/60 episodes, 2 failed, 30.0 per minute, 60 s left"


class WaistPolicy:
    """A policy that turns the waist at 0.3 rad/s."""

    n_obs_steps, n_past_commands, n_action_steps, cameras = 1, 0, 16, ("scene", "wrist")

    def predict_chunk(self, observation, current=None):
        spec = load_robot("vx300s")
        ramp = 0.01 * np.arange(32)[:, None] * (np.arange(spec.action_dim) == 0)
        actions = (observation.reference + ramp).astype(np.float32)
        return ActionChunk(observation.stamp, 30.0, spec.joint_names, actions, None)


def test_dagger_demonstrations_start_where_the_policy_ended(tmp_path, monkeypatch):
    spec = load_robot("vx300s")
    rollout = Rollout(spec, "weighing", WaistPolicy(), latency_s=0.1)
    monkeypatch.setattr(dagger, "POLICY_STEPS", (30, 31))
    monkeypatch.setattr(dagger, "_make_rollout", lambda *_: rollout)
    config = GenerateConfig(task="weighing", seed=4, bundle="turning")
    made = dagger.dagger_attempt(config, 0)
    assert made.reason == "the display is on and the arm has retracted"
    plain = module.attempt_demonstration(replace(config, bundle="", disturbed_share=0.0), 0)
    turned = made.episode.proprio[0] - plain.episode.proprio[0]
    assert 0.1 < turned[0] < 0.3 and np.abs(turned[1:6]).max() < 0.05
    speed = np.abs(np.diff(made.episode.actions, axis=0)).max(0) * spec.action_rate_hz
    assert (speed < spec.velocity_limit).all()
    again = dagger.dagger_attempt(config, 0)
    np.testing.assert_array_equal(again.episode.actions, made.episode.actions)
    generate(config, 1, tmp_path, workers=1, attempt=dagger.dagger_attempt)
    with pytest.raises(DatasetError, match="bundle"):
        generate(replace(config, bundle=""), 2, tmp_path, workers=1)
