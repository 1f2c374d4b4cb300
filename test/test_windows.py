"""Windows are cut inside episodes, in order, and go with the state at their first frame."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nac_ros.data.datasets import open_dataset
from nac_ros.data.episode import Episode, EpisodeInfo
from nac_ros.data.windows import Windows, action_windows, benchmark_split, concatenate
from nac_ros.errors import DatasetError


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
