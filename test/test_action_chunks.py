"""Action chunks lie inside episodes, in order, with the state at their first frame."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.action_chunks import (
    ActionChunks,
    concatenate,
    extract_chunks,
    split_chunks,
)
from nac_ros.datasets.episode import Episode, EpisodeInfo
from nac_ros.datasets.factory import open_dataset


class Numbered:
    """Episodes whose action at frame k of episode e is 1000 e + k, and its state the negative."""

    root = Path("numbered")
    names = state_names = ("a", "b")

    def __init__(self, lengths):
        self.episodes = [EpisodeInfo(length, "task") for length in lengths]

    def episode(self, index, images=False):
        values = 1000 * index + np.arange(self.episodes[index].length, dtype=np.float32)
        actions = np.stack([values, values + 0.5], axis=1)
        return Episode(-actions, actions, "task")


lengths_and_horizon = st.tuples(st.lists(st.integers(1, 40), min_size=1), st.integers(1, 20))


@settings(deadline=None)
@given(lengths_and_horizon)
def test_every_chunk_of_every_episode_is_extracted_once(case):
    lengths, horizon = case
    expected = sum(max(0, length - horizon + 1) for length in lengths)
    dataset = Numbered(lengths)
    if not expected:
        with pytest.raises(DatasetError, match=f"{horizon} steps"):
            extract_chunks(dataset, range(len(lengths)), horizon)
        return
    chunks = extract_chunks(dataset, range(len(lengths)), horizon)
    assert chunks.actions.shape == (expected, horizon, 2)
    assert (np.diff(chunks.actions, axis=1) == 1).all()
    np.testing.assert_array_equal(chunks.references, -chunks.actions[:, 0])


@settings(deadline=None)
@given(lengths_and_horizon)
def test_padded_chunks_are_one_per_frame_and_rest_at_the_end(case):
    lengths, horizon = case
    chunks = extract_chunks(Numbered(lengths), range(len(lengths)), horizon, pad_end=True)
    assert len(chunks.actions) == sum(lengths)
    steps = np.diff(chunks.actions[..., 0], axis=1)
    assert np.isin(steps, (0, 1)).all() and (np.diff(steps, axis=1) <= 0).all()
    last = [1000 * index + length - 1 for index, length in enumerate(lengths)]
    np.testing.assert_array_equal(chunks.actions[np.cumsum(lengths) - 1, -1, 0], last)


def test_consecutive_chunks_are_those_one_step_apart_in_an_episode():
    chunks = extract_chunks(Numbered([9, 3, 7]), range(3), 4)  # 6, 0 and 4 chunks
    assert chunks.consecutive.tolist() == [0, 1, 2, 3, 4, 6, 7, 8]
    assert chunks.select(slice(None, None, 2)).consecutive.tolist() == []
    assert ActionChunks(chunks.actions[:, :1], None).consecutive.tolist() == []


def test_joined_chunks_have_references_only_if_all_have_them():
    a = extract_chunks(Numbered([8]), [0], 4)
    b = ActionChunks(a.actions, None)
    assert concatenate([a, a]).references.shape == (10, 2)
    assert concatenate([a, b]).references is None
    with pytest.raises(DatasetError, match="dimensions"):
        concatenate([a, ActionChunks(a.actions[..., :1], None)])


def test_actions_without_a_state_have_no_references(tmp_path):
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        file["data/demo_1/actions"] = np.zeros((40, 7))
    chunks = extract_chunks(open_dataset(tmp_path), [0], 32)
    assert chunks.actions.shape == (9, 32, 7) and chunks.references is None


def split_of(lengths, horizon, pad_end=False, change=None):
    """ChunkSplit of one dataset, and the notices."""
    notices: list[str] = []
    dataset = Numbered(lengths)
    if change:
        whole = dataset.episode
        dataset.episode = lambda index, images=False: change(index, whole(index))
    return split_chunks([dataset], horizon, pad_end, notices.append), notices


def test_all_sides_have_all_chunks_of_their_episodes_without_notices():
    (train, validation, test, constant), notices = split_of([10] * 5, 4)
    assert [len(side.actions) for side in (train, validation, test)] == [3 * 7, 7, 7]
    assert (validation.actions[..., 0] // 1000 == 3).all()
    assert (test.actions[..., 0] // 1000 == 4).all() and not constant and not notices


def test_two_episodes_have_no_test_side():
    (train, validation, test, _), _ = split_of([10, 10], 4)
    assert len(train.actions) == len(validation.actions) == 7 and test is None


def test_short_test_episodes_are_padded_with_pad_end():
    (_, _, test, _), notices = split_of([10, 10, 10, 10, 3] * 2, 4, pad_end=True)
    assert test.actions.shape == (6, 4, 2)
    assert test.actions[1, :, 0].tolist() == [4001, 4002, 4002, 4002]
    (sentence,) = notices
    assert "test episodes 4, 9 are shorter than a chunk of 4 steps: padded" in sentence


def test_short_episodes_are_skipped_while_others_are_left():
    (train, _, test, _), notices = split_of([10, 3, 10, 10, 3] + [10] * 5, 4)
    assert len(train.actions) == 6 * 7 and len(test.actions) == 7
    assert notices == [
        "numbered: training episodes 1 are shorter than a chunk of 4 steps: skipped",
        "numbered: test episodes 4 are shorter than a chunk of 4 steps: skipped",
    ]
    (_, validation, _, _), notices = split_of([10, 10, 10, 3, 10], 4)
    assert len(validation.actions) == 3
    assert "because there are no other validation chunks" in notices[-1]


def test_a_dataset_without_chunks_is_reported_and_left_out():
    notices: list[str] = []
    short, whole = Numbered([2] * 5), Numbered([9] * 5)
    train, validation, _, _ = split_chunks([short, whole], 4, notice=notices.append)
    assert len(train.actions) == 18 and len(validation.actions) == 6
    assert "numbered has no chunk of 4 steps and is left out" in notices
    with pytest.raises(DatasetError, match=r"no chunk of 4 steps fits into the training"):
        split_chunks([short], 4, notice=notices.append)


def test_chunks_with_nan_are_left_out_and_counted():
    def add_nan(index, episode):
        if index == 1:
            episode.actions[5] = np.nan
        return episode

    (train, _, _, _), notices = split_of([10] * 5, 4, change=add_nan)
    assert len(train.actions) == 2 * 7 + 3 and np.isfinite(train.actions).all()
    assert notices == [
        "numbered, training episode 1: 4 of 7 chunks have NaN or inf and are left out"
    ]


@pytest.mark.parametrize("moving", [3, 4])
def test_a_dimension_constant_in_training_is_constant_in_the_other_chunks(moving):
    def still(index, episode):
        length = len(episode.actions)
        episode.actions[:, 1] = np.linspace(7, 9, length) if index == moving else 7.0
        return episode

    (_, validation, test, constant), notices = split_of([10] * 5, 4, change=still)
    for side in (validation, test):
        assert (side.actions[..., 1] == 7).all()
        assert (np.diff(side.actions[..., 0]) == 1).all()
    assert constant == ("b",)
    assert len(notices) == 1 and notices[0].startswith("b never moves in the training episodes")
