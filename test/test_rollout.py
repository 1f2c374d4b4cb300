"""Rollouts and `nac eval`: experts through guard and controller, baselines, comparison of runs."""

import dataclasses
import json
from typing import get_args

import numpy as np
import pytest

from nac_ros.cli.main import main
from nac_ros.core.errors import ConfigError, DatasetError
from nac_ros.core.types import ActionChunk
from nac_ros.evaluation.baselines import MeanDemonstrationBaseline, mean_demonstration
from nac_ros.evaluation.rollout import (
    Baseline,
    EvaluationConfig,
    Rollout,
    compare_success_rates,
    load_results,
    run_evaluation,
)
from nac_ros.inference.chunk_transition import Transition
from nac_ros.robot.spec import load_robot
from nac_ros.simulation.expert import demonstrate
from nac_ros.simulation.seeds import scene_seed
from nac_ros.simulation.twin import Twin


class ExpertChunks:
    """A policy that cuts the demonstration of the same scene into chunks."""

    cameras = ()
    n_obs_steps, n_past_commands = 1, 0
    n_action_steps = 16

    def __init__(self, spec, actions):
        self._spec, self._actions = spec, actions

    def predict_chunk(self, observation, current=None):
        first = round(observation.stamp * self._spec.action_rate_hz)
        index = np.minimum(first + np.arange(32), len(self._actions) - 1)
        names, rate = self._spec.joint_names, self._spec.action_rate_hz
        return ActionChunk(
            observation.stamp, rate, names, self._actions[index], np.empty(0, np.int64)
        )


def test_an_unknown_baseline_is_rejected_and_the_command_line_offers_only_known_ones(capsys):
    with pytest.raises(ConfigError, match="unknown baseline 'expert'; known are: none"):
        EvaluationConfig(bundle="b", baseline="expert")
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    printed = capsys.readouterr().out
    for known in (Baseline, Transition):
        assert "{" + ",".join(get_args(known)) + "}" in printed


@pytest.mark.parametrize("task", ["weighing", "marker"])
def test_an_experts_chunks_succeed_through_guard_and_controller(task):
    spec, seed = load_robot("vx300s"), scene_seed(task, 7, 0)
    twin = Twin(spec, task, render=False)
    shown = demonstrate(twin, seed, np.random.default_rng(0))
    assert shown.success
    rollout = Rollout(spec, task, ExpertChunks(spec, shown.actions), latency_s=0.0)
    guard = rollout.run_trial(seed)
    assert rollout.twin.outcome().state == "success"
    assert not guard.rejections and not guard.clips.any()


def test_a_trial_of_an_untrained_policy_fails_at_the_time_limit_with_results(
    tiny_bundle, tmp_path
):
    config = EvaluationConfig(bundle=str(tiny_bundle), tasks=("weighing",), trials=1, seed=3)
    results = run_evaluation(config)
    json.dumps(results)
    row = results["tasks"]["weighing"]
    assert row["trials"] == 1 and row["successes"] == 0 and row["wilson95"][0] == 0.0
    assert row["outcomes"][0]["outcome"] == "failure" and row["outcomes"][0]["reason"]
    assert results["chunk_ms"]["p99"] >= results["chunk_ms"]["p50"] > 0
    assert results["decode_ms"]["p50"] > 0


class ExpertChunksWithCamera(ExpertChunks):
    """The same with images of the fixed camera."""

    cameras = ("scene",)
    n_obs_steps, n_past_commands = 2, 0


class ExpertChunksThatSeeCommands(ExpertChunks):
    """The same, and keeps the commands that it observes."""

    n_past_commands = 4

    def predict_chunk(self, observation, current=None):
        self.seen = [*getattr(self, "seen", []), observation]
        return super().predict_chunk(observation, current)


def test_a_policy_sees_the_commands_that_the_guard_executed():
    spec, seed = load_robot("vx300s"), scene_seed("weighing", 7, 0)
    shown = demonstrate(Twin(spec, "weighing", render=False), seed, np.random.default_rng(0))
    policy = ExpertChunksThatSeeCommands(spec, shown.actions)
    Rollout(spec, "weighing", policy, latency_s=0.0).run_trial(seed)
    first, later = policy.seen[0], policy.seen[3]
    rest = np.repeat([first.reference], 4, 0)
    np.testing.assert_allclose(first.past_commands, rest, atol=5e-3)
    # Later the arm follows the demonstration: the newest command is the action that is due then.
    step = round(later.stamp * spec.action_rate_hz)
    np.testing.assert_allclose(later.past_commands, shown.actions[step - 4 : step], atol=0.02)
    assert np.ptp(later.past_commands, 0).max() > 1e-3


def test_a_constant_image_of_a_fixed_camera_does_not_stop_a_trial(monkeypatch):
    spec, seed = load_robot("vx300s"), scene_seed("weighing", 7, 0)
    shown = demonstrate(Twin(spec, "weighing", render=False), seed, np.random.default_rng(0))
    rollout = Rollout(spec, "weighing", ExpertChunksWithCamera(spec, shown.actions), latency_s=0.0)
    read, first_images = rollout.twin.read, {}

    def unchanged():
        reading = read()
        for name, (_, image) in reading.images.items():
            first_images.setdefault(name, image)
        images = {name: (reading.stamp, image) for name, image in first_images.items()}
        return dataclasses.replace(reading, images=images)

    monkeypatch.setattr(rollout.twin, "read", unchanged)
    rollout.run_trial(seed)
    assert rollout.twin.outcome().state == "success"


def test_the_mean_demonstration_is_replayed_by_the_time_since_the_start():
    spec = load_robot("vx300s")
    actions = np.linspace(0, 1, 40)[:, None] * np.ones(spec.action_dim)
    baseline = MeanDemonstrationBaseline(spec, actions, horizon=32, n_action_steps=16)

    class LateObservation:
        stamp = 0.5  # 15 control periods after the start of the trial

    chunk = baseline.predict_chunk(LateObservation())
    assert np.allclose(chunk.actions[0], actions[15]) and np.allclose(
        chunk.actions[-1], actions[39]
    )


def test_mean_demonstration_needs_demonstrations_of_the_task(tmp_path):
    with pytest.raises(DatasetError):
        mean_demonstration([tmp_path], "Juggle.")


@pytest.mark.parametrize(
    "bad", [{"trials": 0}, {"latency_ms": -1.0}, {"baseline": "mean-demonstration"}]
)
def test_invalid_evaluations_are_rejected(bad):
    with pytest.raises(ConfigError):
        EvaluationConfig(bundle="x", **bad)


def results_of(seed, **outcomes):
    rows = {
        task: {"outcomes": [{"trial": i, "outcome": o} for i, o in enumerate(several)]}
        for task, several in outcomes.items()
    }
    return {"seed": seed, "randomization": "nominal", "tasks": rows}


def test_runs_on_the_same_scenes_are_compared_trial_by_trial(tmp_path):
    ours = results_of(7, marker=["success", "failure", "success", "success"])
    theirs = results_of(7, marker=["failure", "failure", "success"], weighing=["success"])
    row = compare_success_rates(ours, theirs, "old.json")["marker"]
    assert row["trials"] == 3 and row["difference"] == pytest.approx(1 / 3)
    assert row["difference95"][0] < 1 / 3 < row["difference95"][1]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(results_of(8)))
    with pytest.raises(ConfigError, match=r"old\.json has seed 8, this run 7"):
        load_results(path, 7, "nominal")
    assert load_results(path, 8, "nominal")["tasks"] == {}
    with pytest.raises(ConfigError, match=r"old\.json has randomization nominal, this run varied"):
        load_results(path, 8, "varied")
    path.write_text("{}")
    for wrong in (path, tmp_path / "none.json"):
        with pytest.raises(ConfigError, match="holds no results of `nac eval --json`"):
            load_results(wrong, 7, "nominal")
    with pytest.raises(ConfigError, match="has no trial of marker"):
        compare_success_rates(ours, results_of(7, weighing=["success"]), "old.json")
