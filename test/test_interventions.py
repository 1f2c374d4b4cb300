"""Interventions of an operator: marked in recordings, kept by conversions, trained on."""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_cli import run
from test_dataset_conversion import check_progress
from test_frames import CAMERAS, add_episodes
from test_lerobot import make_episode
from test_mcap_exporter import write_lerobot

pytest.importorskip("mcap")
pytest.importorskip("rosbags")

from test_resampler import write_recording

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.convert import ConversionConfig, to_lerobot
from nac_ros.datasets.factory import open_dataset
from nac_ros.datasets.frames import load_frames
from nac_ros.datasets.interventions import (
    Interventions,
    find_runs,
    interventions_only,
    sampling_weights,
    split_frames,
)
from nac_ros.datasets.lerobot.schema import OptionalColumns
from nac_ros.datasets.mcap.exporter import to_mcap
from nac_ros.tokenizers import load_tokenizer

TWICE = [(0.0, "policy"), (1.0, "teleop"), (2.5, "policy"), (4.0, "teleop"), (5.5, "policy")]
BIN = ("--tokenizer", "bin", "--model", f"relative={[True] * 7}", "--horizon", 8)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Seven seconds with two interventions of 1.5 s each."""
    place = tmp_path_factory.mktemp("recording")
    write_recording(place / "a", seconds=7.0, modes=TWICE)
    return place


def write_marked(root, marks):
    """A LeRobot folder with an episode for each row of marks, 'x' for an intervention."""
    made = [
        replace(make_episode(k, len(row)), intervention=np.array([c == "x" for c in row]))
        for k, row in enumerate(marks)
    ]
    write_lerobot(root, made, optional=OptionalColumns(interventions=True))
    return root


def test_each_intervention_is_an_episode_of_the_operator_s_frames(recording):
    dataset = open_dataset(recording)
    whole, (view,) = dataset.episode(0), interventions_only([dataset], 32)
    assert [44 <= info.length <= 46 for info in view.episodes] == [True, True]
    for index, (first, end) in enumerate(find_runs(whole.intervention)):
        part = view.episode(index)
        np.testing.assert_array_equal(part.actions, whole.actions[first:end])
        np.testing.assert_array_equal(part.images["scene"], whole.images["scene"][first:end])
        np.testing.assert_array_equal(part.stamps_ns, whole.stamps_ns[first:end])
        assert part.intervention.all() and part.task == whole.task
    assert view.tasks == dataset.tasks and view.names == dataset.names
    with pytest.raises(DatasetError, match="has no episode 2; it has 2, from 0"):
        view.episode(2)


def test_the_intervention_mask_survives_conversion_to_lerobot_and_recordings(recording, tmp_path):
    source = open_dataset(recording)
    wanted = source.episode(0).intervention
    to_lerobot([source], tmp_path / "lerobot", ConversionConfig(), check_progress)
    there = open_dataset(tmp_path / "lerobot")
    assert there.features["intervention"]["dtype"] == "bool"
    to_mcap([there], tmp_path / "mcap", ConversionConfig(), check_progress)
    for dataset in (there, open_dataset(tmp_path / "mcap")):
        np.testing.assert_array_equal(dataset.episode(0).intervention, wanted)
    assert Interventions(there).segments == Interventions(source).segments


def test_a_tokenizer_trains_on_one_intervention_and_is_evaluated_on_the_other(
    recording, tmp_path, capsys
):
    call = ("tokenizer", "train", "--data", recording, *BIN)
    code, out, _ = run(capsys, *call, "--train-on", "interventions", "--out", tmp_path / "run")
    dataset = open_dataset(recording)
    first, second = find_runs(dataset.episode(0).intervention)
    sizes = [end - begin - 7 for begin, end in (first, second)]
    assert code == 0 and f"{sizes[0]} chunks to train on, {sizes[1]} for validation" in out
    tokenizer = load_tokenizer(tmp_path / "run")
    seen = dataset.episode(0).actions[slice(*first)]
    np.testing.assert_allclose(
        tokenizer.absolute_normalizer.half_range, np.ptp(seen, axis=0) / 2, rtol=1e-4
    )


def test_too_few_or_too_short_interventions_are_rejected(recording, tmp_path, capsys):
    call = (
        "tokenizer",
        "train",
        "--tokenizer",
        "bin",
        "--data",
        recording,
        "--train-on",
        "interventions",
        "--out",
        tmp_path / "run",
    )
    code, _, error = run(capsys, *call, "--horizon", 60)
    assert code == 2 and "0 interventions of at least 60 steps" in error


def test_policy_training_uses_frames_whose_chunk_the_operator_drove(tmp_path):
    rows = ["..xxxxx...", "xxx", ".xxxx.xxxx", "xx........"]
    frames = load_frames([write_marked(tmp_path, rows)], [])
    train, validation = split_frames(frames, "interventions", 4)  # the fourth is for test
    assert train.tolist() == [2, 3, 10, 11, 12] and validation.tolist() == [14]
    assert frames.intervention[train].all() and frames.intervention[validation].all()
    with pytest.raises(DatasetError, match="1 interventions of at least 9 steps"):
        split_frames(
            load_frames([write_marked(tmp_path / "b", ["." + 9 * "x" + "."])], []),
            "interventions",
            9,
        )


def test_interventions_are_sampled_by_their_weight(tmp_path):
    frames = load_frames([write_marked(tmp_path, ["..xx."] * 5)], [])
    train, _ = split_frames(frames, "all", 4)
    assert len(train) == 15
    assert sampling_weights(frames, train, 3.0).tolist() == [1, 1, 3, 3, 1] * 3
    alone_ = train[frames.intervention[train]]
    assert sampling_weights(frames, alone_, 3.0).tolist() == [1] * 6


def test_a_folder_without_the_column_has_no_interventions(tmp_path):
    add_episodes(tmp_path, [5] * 5)
    frames = load_frames([tmp_path], [])
    assert not frames.intervention.any() and set(CAMERAS) == {"scene", "wrist"}
    with pytest.raises(DatasetError, match="0 interventions"):
        split_frames(frames, "interventions", 2)


def test_a_policy_trains_on_interventions_only(recording, tmp_path, capsys):
    data, codec, out = tmp_path / "data", tmp_path / "codec", tmp_path / "policy"
    only = ("--train-on", "interventions")
    assert run(capsys, "data", "convert", recording, "--to", "lerobot", "--out", data)[0] == 0
    call = ("tokenizer", "train", "--data", data, "--out", codec, *only)
    assert run(capsys, *call, *BIN)[0] == 0
    sizes = ("dim=32", "n_layers=1", "n_heads=2", "vision_width=32")
    changes = [part for field in sizes for part in ("--model", field)]
    code, _, _ = run(
        capsys,
        "policy",
        "train",
        "--tokenizer",
        codec,
        "--data",
        data,
        "--out",
        out,
        *only,
        "--cameras",
        "scene",
        "--set",
        "steps=2",
        "--set",
        "batch=4",
        "--threads",
        1,
        *changes,
    )
    assert code == 0
    assert json.loads((out / "run.json").read_text())["config"]["train_on"] == "interventions"
