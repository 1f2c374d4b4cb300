"""Chunks by time: when each action is due, who takes over, and that nothing jumps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nac_ros.chunk import Chunk
from nac_ros.runtime.playback import Playback

NAMES = ("a", "b")
RAMP = np.outer(np.arange(1, 9), [0.01, -0.02])  # [8, 2], a straight line


def chunk(actions=RAMP, stamp=100.0, rate=30.0):
    return Chunk(stamp, rate, NAMES, np.asarray(actions, np.float32), np.empty(0, np.int64))


def started(setpoint=(0.01, -0.02), now=100.0, **changes):
    playback = Playback(blend_s=0.1)
    playback.accept(chunk(**changes), now, np.array(setpoint))
    return playback


def test_action_i_is_due_i_plus_one_periods_after_the_stamp():
    playback = started()
    for i, action in enumerate(RAMP):
        np.testing.assert_allclose(playback.at(100.0 + (i + 1) / 30), action, atol=1e-6)


def test_between_two_actions_lies_a_straight_line():
    playback = started()
    np.testing.assert_allclose(playback.at(100.0 + 2.25 / 30), [0.0225, -0.045], atol=1e-6)


def test_before_the_first_action_the_set_point_leaves_from_where_it_was():
    playback = started(setpoint=(0.03, 0.05))
    np.testing.assert_allclose(playback.at(100.0), [0.03, 0.05], atol=1e-6)


def test_points_that_were_due_before_it_arrived_are_dropped():
    playback = started(setpoint=RAMP[4], now=100.0 + 5 / 30)
    np.testing.assert_allclose(playback.at(100.0 + 5 / 30), RAMP[4], atol=1e-6)
    np.testing.assert_allclose(playback.at(100.0 + 6 / 30), RAMP[5], atol=1e-6)


def test_after_the_last_action_there_is_nothing():
    playback = started()
    assert playback.at(playback.chunk.end) is not None
    assert playback.at(playback.chunk.end + 0.001) is None
    assert len(playback.sample(playback.chunk.end + np.array([-0.01, 0.01]))) == 1


def test_without_a_chunk_there_is_nothing():
    playback = started()
    playback.clear()
    assert playback.at(100.1) is None and len(playback.sample(np.array([100.1]))) == 0


def test_the_newest_stamp_wins():
    playback = started(stamp=100.0)
    assert not playback.accept(chunk(stamp=99.9), 100.1, np.zeros(2))
    assert not playback.accept(chunk(stamp=100.0), 100.1, np.zeros(2))
    assert playback.chunk.stamp == 100.0
    assert playback.accept(chunk(stamp=100.05), 100.1, np.zeros(2))
    assert playback.chunk.stamp == 100.05


def test_a_chunk_of_one_action_is_a_single_set_point():
    playback = started(setpoint=(0.0, 0.0), actions=[[1.0, 2.0]])
    np.testing.assert_allclose(playback.at(playback.chunk.end), [1, 2], atol=2)
    assert playback.at(playback.chunk.end + 0.01) is None


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 0.2), st.lists(st.floats(-0.05, 0.05), min_size=2, max_size=2))
def test_a_seam_never_jumps_and_is_gone_after_the_blend(delay, offset):
    playback, now = started(), 100.0 + delay
    before = playback.at(now) + np.array(offset)
    playback.accept(chunk(RAMP + 0.02, stamp=100.001), now, before)
    np.testing.assert_allclose(playback.at(now), before, atol=1e-6)
    times = now + np.arange(0, 0.1, 0.001)
    steps = np.abs(np.diff(playback.sample(times), axis=0)).max()
    assert steps <= 0.001 * (0.6 + 1.9 * (np.abs(offset).max() + 0.03) / 0.1) + 1e-9


def test_times_may_be_asked_for_together_or_one_by_one():
    playback = started(setpoint=(0.3, 0.1))
    times = 100.0 + np.linspace(0, 0.2, 9)
    together = playback.sample(times)
    for t, row in zip(times, together):
        assert playback.at(t) == pytest.approx(row)
