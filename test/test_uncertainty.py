"""Chunks of low confidence."""

import numpy as np
import pytest

from nac_ros.core.errors import ConfigError
from nac_ros.core.types import ActionChunk
from nac_ros.inference.engine import Confidence
from nac_ros.inference.uncertainty import LowConfidenceConfig, time_stretched

NAMES = ("a", "b")


def test_by_default_no_confidence_is_too_low():
    assert LowConfidenceConfig().low_confidence_reason(Confidence(9.0, 0.0)) == ""


def test_high_entropy_or_a_small_margin_is_reported_with_its_value():
    config = LowConfidenceConfig(max_entropy=1.5, min_margin=0.1)
    assert config.low_confidence_reason(Confidence(1.0, 0.5)) == ""
    assert (
        config.low_confidence_reason(Confidence(1.6, 0.5))
        == "low confidence: entropy 1.60 nats, above 1.5"
    )
    assert (
        config.low_confidence_reason(Confidence(1.0, 0.05))
        == "low confidence: margin 0.050, below 0.1"
    )


def test_without_sampled_tokens_confidence_is_never_low():
    assert (
        LowConfidenceConfig(max_entropy=0.1, min_margin=1.0).low_confidence_reason(Confidence())
        == ""
    )


def test_a_stretched_chunk_follows_the_same_path_at_a_share_of_the_speed():
    line = np.arange(1, 33)[:, None] * [0.1, -0.2]
    chunk = ActionChunk(5.0, 30.0, NAMES, line.astype(np.float32), np.empty(0, np.int64))
    slow = time_stretched(chunk, np.zeros(2), 0.25)
    np.testing.assert_allclose(slow.actions, line / 4, atol=1e-6)
    assert (slow.stamp, slow.rate_hz) == (5.0, 30.0) and slow.actions.dtype == np.float32


def test_a_stretched_chunk_starts_at_the_arms_position():
    chunk = ActionChunk(5.0, 30.0, NAMES, np.ones((4, 2), np.float32), np.empty(0, np.int64))
    slow = time_stretched(chunk, np.zeros(2), 0.5)
    np.testing.assert_allclose(slow.actions[:, 0], [0.5, 1.0, 1.0, 1.0])


def test_a_zero_slow_scale_is_rejected():
    with pytest.raises(ConfigError, match=r"slow_scale must be in 0\.05"):
        LowConfidenceConfig(slow_scale=0.0)
