"""The one split of episodes into training, validation and test, for tokenizers and policies.

Everything is fitted on training episodes, every setting is chosen on validation episodes, and
published figures are of test episodes, which no choice has seen.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nac_ros.core.errors import DatasetError

TEST_EVERY = 5  # episodes with index % 5 == 4 are for test
VALIDATION_EVERY = 10  # those with index % 10 == 3 are for validation, all others for training
VALIDATION_INDEX = 3


class EpisodeSplit(NamedTuple):
    """Episode indices, int64 each, disjoint and together all episodes."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_episodes(counts: Sequence[int]) -> list[EpisodeSplit]:
    """The split of each of several datasets, given their numbers of episodes.

    It depends on the indices alone. A dataset of at least five episodes has all three sides; the
    episodes of smaller datasets are numbered through and split as one. If all datasets together
    have fewer than five episodes, the last one is for test and the one before it for validation;
    of two, the last one is for validation. Raises DatasetError for fewer than two.
    """
    small = [k for k, n in enumerate(counts) if n < TEST_EVERY]
    total = sum(counts[k] for k in small)
    pooled = _split(total)
    if len(small) == len(counts) and total < TEST_EVERY:
        if total < 2:
            raise DatasetError(
                f"{total} episode in all: at least 2 are needed, one is for validation"
            )
        last = max(total - 1, 2)  # of two, none is for test
        index = np.arange(total)
        pooled = EpisodeSplit(index[: last - 1], index[last - 1 : last], index[last:])
    splits, first = [_split(n) for n in counts], 0
    for k in small:
        end = first + counts[k]
        own = [side[(side >= first) & (side < end)] - first for side in pooled]
        splits[k], first = EpisodeSplit(*own), end
    return splits


def _split(n_episodes: int) -> EpisodeSplit:
    index = np.arange(n_episodes)
    test = index % TEST_EVERY == TEST_EVERY - 1
    validation = index % VALIDATION_EVERY == VALIDATION_INDEX
    return EpisodeSplit(index[~test & ~validation], index[validation], index[test])
