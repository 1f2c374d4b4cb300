"""The split of episodes into training, validation and test."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.episode_split import split_episodes

counts_of_datasets = st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(
    lambda counts: sum(counts) >= 2
)


@given(counts_of_datasets)
def test_the_sides_are_disjoint_and_together_all_episodes(counts):
    for n, split in zip(counts, split_episodes(counts)):
        assert sorted(np.concatenate(split).tolist()) == list(range(n))


@given(counts_of_datasets)
def test_there_is_data_for_training_and_validation_and_from_three_episodes_on_for_test(counts):
    splits = split_episodes(counts)
    train, validation, test = (sum(map(len, side)) for side in zip(*splits))
    assert train >= 1
    if max(counts) >= 5 or sum(counts) < 5:
        assert validation >= 1 and (test >= 1) == (sum(counts) > 2)


@given(counts_of_datasets)
def test_every_dataset_of_five_or_more_episodes_is_in_all_sides(counts):
    for n, split in zip(counts, split_episodes(counts)):
        assert n < 5 or all(len(side) for side in split)


def test_the_split_depends_on_the_index_alone():
    (split,) = split_episodes([55])
    assert split.test.tolist() == list(range(4, 55, 5))
    assert split.validation.tolist() == [3, 13, 23, 33, 43, 53]
    assert split_episodes([7, 55])[1].test.tolist() == split.test.tolist()


def test_small_datasets_are_numbered_through():
    splits = split_episodes([1, 1, 1, 1, 1])
    assert [len(s.validation) for s in splits] == [0, 0, 0, 1, 0]
    assert [len(s.test) for s in splits] == [0, 0, 0, 0, 1]
    assert [s.test.tolist() for s in split_episodes([10, 2])] == [[4, 9], []]


@pytest.mark.parametrize(
    ("counts", "validation", "test"),
    [([4], [[2]], [[3]]), ([3], [[1]], [[2]]), ([2], [[1]], [[]]), ([1, 1], [[], [0]], [[], []])],
)
def test_of_very_few_episodes_the_last_ones_are_not_trained_on(counts, validation, test):
    splits = split_episodes(counts)
    assert [s.validation.tolist() for s in splits] == validation
    assert [s.test.tolist() for s in splits] == test


@pytest.mark.parametrize("counts", [[], [1], [0, 1]])
def test_a_single_episode_is_not_enough(counts):
    with pytest.raises(DatasetError, match="at least 2 are needed"):
        split_episodes(counts)
