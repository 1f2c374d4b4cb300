"""Windows are cut inside episodes, in order, and go with the state at their first frame."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.action_chunks import (
    Windows,
    action_windows,
    benchmark_split,
    concatenate,
    windows_of_sides,
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
def test_every_window_of_every_episode_is_there_once(case):
    lengths, horizon = case
    expected = sum(max(0, length - horizon + 1) for length in lengths)
    dataset = Numbered(lengths)
    if not expected:
        with pytest.raises(DatasetError, match=f"{horizon} steps"):
            action_windows(dataset, range(len(lengths)), horizon)
        return
    windows = action_windows(dataset, range(len(lengths)), horizon)
    assert windows.actions.shape == (expected, horizon, 2)
    assert (np.diff(windows.actions, axis=1) == 1).all()
    np.testing.assert_array_equal(windows.references, -windows.actions[:, 0])


@settings(deadline=None)
@given(lengths_and_horizon)
def test_padded_windows_are_one_per_frame_and_rest_at_the_end(case):
    lengths, horizon = case
    windows = action_windows(Numbered(lengths), range(len(lengths)), horizon, pad_end=True)
    assert len(windows.actions) == sum(lengths)
    steps = np.diff(windows.actions[..., 0], axis=1)
    assert np.isin(steps, (0, 1)).all() and (np.diff(steps, axis=1) <= 0).all()
    last = [1000 * index + length - 1 for index, length in enumerate(lengths)]
    np.testing.assert_array_equal(windows.actions[np.cumsum(lengths) - 1, -1, 0], last)


@given(st.integers(0, 200))
def test_the_benchmark_split_holds_out_every_fifth_episode(n):
    split = benchmark_split(n)
    assert sorted([*split.train, *split.held_out]) == list(range(n))
    assert (split.held_out % 5 == 4).all() and (split.train % 5 != 4).all()


def test_windows_of_several_datasets_are_joined_and_references_only_when_all_have_them():
    a = action_windows(Numbered([8]), [0], 4)
    b = Windows(a.actions, None)
    assert concatenate([a, a]).references.shape == (10, 2)
    assert concatenate([a, b]).references is None
    with pytest.raises(DatasetError, match="dimensions"):
        concatenate([a, Windows(a.actions[..., :1], None)])


def test_actions_without_a_state_have_no_references(tmp_path):
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        file["data/demo_1/actions"] = np.zeros((40, 7))
    windows = action_windows(open_dataset(tmp_path), [0], 32)
    assert windows.actions.shape == (9, 32, 7) and windows.references is None


def sides_of(lengths, horizon, pad_end=False, change=None):
    """Sides of one dataset, and what was told."""
    told: list[str] = []
    dataset = Numbered(lengths)
    if change:
        whole = dataset.episode
        dataset.episode = lambda index, images=False: change(index, whole(index))
    return windows_of_sides([dataset], horizon, pad_end, told.append), told


def test_both_sides_hold_all_windows_of_their_episodes_and_nothing_is_told():
    (train, held_out, constant), told = sides_of([10] * 5, 4)
    assert len(train.actions) == 4 * 7 and len(held_out.actions) == 7
    assert (held_out.actions[..., 0] >= 4000).all() and not constant and not told


def test_held_out_episodes_shorter_than_a_chunk_are_padded_when_ends_are_learned():
    (_, held_out, _), told = sides_of([10, 10, 10, 10, 3] * 2, 4, pad_end=True)
    assert held_out.actions.shape == (6, 4, 2)
    assert held_out.actions[1, :, 0].tolist() == [4001, 4002, 4002, 4002]
    (sentence,) = told
    assert "held-out episodes 4, 9 are shorter than a chunk of 4 steps: padded" in sentence


def test_short_episodes_are_skipped_by_name_as_long_as_others_are_left():
    (train, held_out, _), told = sides_of([10, 3, 10, 10, 3] + [10] * 5, 4)
    assert len(train.actions) == 7 * 7 and len(held_out.actions) == 7
    assert told == [
        "numbered: training episodes 1 are shorter than a chunk of 4 steps: skipped",
        "numbered: held-out episodes 4 are shorter than a chunk of 4 steps: skipped",
    ]
    (_, held_out, _), told = sides_of([10, 10, 10, 10, 3], 4)
    assert len(held_out.actions) == 3 and "for nothing else is held out" in told[-1]


def test_a_dataset_without_any_window_is_named_and_the_rest_goes_on():
    told: list[str] = []
    short, whole = Numbered([2] * 5), Numbered([9] * 5)
    train, held_out, _ = windows_of_sides([short, whole], 4, notice=told.append)
    assert len(train.actions) == 24 and len(held_out.actions) == 6
    assert "numbered has no window of 4 steps and is left out" in told
    with pytest.raises(DatasetError, match=r"no window of 4 steps fits into the training"):
        windows_of_sides([short], 4, notice=told.append)


def test_windows_with_nan_are_left_out_and_counted():
    def spoil(index, episode):
        if index == 1:
            episode.actions[5] = np.nan
        return episode

    (train, _, _), told = sides_of([10] * 5, 4, change=spoil)
    assert len(train.actions) == 3 * 7 + 3 and np.isfinite(train.actions).all()
    assert told == [
        "numbered, training episode 1: 4 of 7 windows hold NaN or inf and are left out"
    ]


def test_a_dimension_that_never_moves_in_training_is_held_in_held_out_windows():
    def still(index, episode):
        episode.actions[:, 1] = 7.0 if index != 4 else np.linspace(7, 9, len(episode.actions))
        return episode

    (_, held_out, constant), told = sides_of([10] * 5, 4, change=still)
    assert constant == ("b",) and (held_out.actions[..., 1] == 7).all()
    assert (np.diff(held_out.actions[..., 0]) == 1).all()
    assert len(told) == 1 and told[0].startswith("b never moves in the training episodes")
