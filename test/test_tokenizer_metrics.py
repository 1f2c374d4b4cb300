"""Token overlap of chunks one step apart, for sequences of one and of several lengths."""

import numpy as np
import pytest

from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.tokenizers import make_tokenizer
from nac_ros.tokenizers.grammar import PAD
from nac_ros.training.tokenizer_metrics import evaluate, mean_overlap, overlap_by_position


def test_overlap_is_the_share_of_equal_tokens_of_neighbours():
    tokens = np.array([[1, 2, 3, 4], [1, 2, 0, 4], [9, 2, 9, 9], [9, 2, 9, 9]])
    assert mean_overlap(tokens, np.array([0, 1])) == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert overlap_by_position(tokens, np.array([0, 1])) == [0.5, 1.0, 0.0, 0.5]
    assert mean_overlap(tokens, np.array([2])) == 1.0


def test_positions_of_the_longer_sequence_alone_are_unequal():
    tokens = np.array([[1, 2, PAD, PAD], [1, 2, 3, PAD], [1, 0, 3, PAD]])
    assert mean_overlap(tokens, np.array([0])) == pytest.approx(2 / 3)
    assert mean_overlap(tokens, np.array([0, 1])) == pytest.approx(2 / 3)
    assert overlap_by_position(tokens, np.array([0, 1])) == [1.0, 0.5, 0.5]


def test_pairs_with_a_chunk_without_tokens_are_left_out():
    tokens = np.array([[1, 2], [PAD, PAD], [1, 3], [1, 2]])
    assert mean_overlap(tokens, np.array([0, 1, 2])) == 0.5
    assert mean_overlap(tokens, np.array([0])) is None
    assert mean_overlap(tokens, np.zeros(0, np.int64)) is None


def test_a_slow_motion_has_more_overlap_than_a_fast_one():
    def overlap(steps):
        """Of chunks of a sine with so many steps per period."""
        motion = np.sin(2 * np.pi * np.arange(400) / steps).astype(np.float32)
        actions = motion[np.arange(392)[:, None] + np.arange(8)][..., None]
        tokenizer = make_tokenizer("bin", horizon=8, action_dim=1, n_bins=32).fit(actions)
        return evaluate(tokenizer, ActionChunks(actions, None))["overlap"]

    assert 0 <= overlap(20) + 0.3 < overlap(400) <= 1
