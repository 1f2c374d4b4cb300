"""Chunk interpolation: due times, smoothness, and blending to a newer chunk."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nac_ros.control.chunk_interpolator import ChunkInterpolator
from nac_ros.control.stopping import MotionState
from nac_ros.core.types import ActionChunk

NAMES = ("a", "b")
SLOPE = np.array([0.01, -0.02])  # a period
RAMP = np.outer(np.arange(1, 9), SLOPE)  # [8, 2], a straight line


def chunk(actions=RAMP, stamp=100.0, rate=30.0):
    return ActionChunk(stamp, rate, NAMES, np.asarray(actions, np.float32), np.empty(0, np.int64))


def moving(positions, velocities=SLOPE * 30, accelerations=(0.0, 0.0)):
    return MotionState(*(np.array(part, float) for part in (positions, velocities, accelerations)))


def started(state=None, now=100.0, speed_scale=1.0, **changes):
    interpolator = ChunkInterpolator(
        0.1, velocity=np.full(2, 3.0), acceleration=np.full(2, 100.0), jerk=np.full(2, 1e5)
    )
    interpolator.accept(chunk(**changes), now, state or moving([0, 0]), speed_scale)
    return interpolator


def assert_consistent(interpolator, times, step=1e-4):
    """Velocities and accelerations are the derivatives of positions and velocities."""
    for t in times:
        before, here, after = (interpolator.state_at(t + k * step) for k in (-1, 0, 1))
        slope = (after.positions - before.positions) / (2 * step)
        np.testing.assert_allclose(here.velocities, slope, atol=1e-4)
        change = (after.velocities - before.velocities) / (2 * step)
        np.testing.assert_allclose(here.accelerations, change, atol=5e-2)


def test_action_i_is_due_i_plus_one_periods_after_the_stamp():
    interpolator = started()
    for i, action in enumerate(RAMP):
        np.testing.assert_allclose(
            interpolator.state_at(100.0 + (i + 1) / 30).positions, action, atol=1e-6
        )


def test_a_straight_line_stays_straight_between_two_actions():
    here = started().state_at(100.0 + 2.25 / 30)
    np.testing.assert_allclose(here.positions, [0.0225, -0.045], atol=1e-6)
    np.testing.assert_allclose(here.velocities, SLOPE * 30, atol=1e-5)
    np.testing.assert_allclose(here.accelerations, 0, atol=1e-3)


def test_a_bend_is_smoothed_and_missed_by_little():
    t = np.arange(1, 33) / 30
    bend = np.stack([0.1 * np.cos(3 * t), 0.1 * np.sin(3 * t)], 1)  # 0.9 rad/s^2
    interpolator = started(moving([0.1, 0.0], [0, 0.3], [-0.9, 0]), actions=bend)
    for due, action in zip(100 + t[4:-1], bend[4:-1]):
        np.testing.assert_allclose(
            interpolator.state_at(due).positions, action, atol=0.9 / 5400 * 1.1
        )
    assert_consistent(interpolator, np.arange(100.01, 101, 0.0137))


def test_a_new_chunk_begins_at_the_commanded_state():
    state = moving([0.03, 0.05], [-0.2, 0.4], [3.0, -2.0])
    for found, expected in zip(started(state).state_at(100.0), state):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_actions_due_before_the_chunk_arrived_are_skipped():
    interpolator = started(moving(RAMP[4]), now=100.0 + 5 / 30)
    np.testing.assert_allclose(interpolator.state_at(100.0 + 5 / 30).positions, RAMP[4], atol=1e-6)
    np.testing.assert_allclose(interpolator.state_at(100.0 + 6 / 30).positions, RAMP[5], atol=1e-6)


def test_a_scale_below_one_stretches_the_chunk_from_its_stamp():
    interpolator = started(speed_scale=0.5, state=moving([0, 0], SLOPE * 15))
    assert interpolator.end == pytest.approx(100.0 + 16 / 30)
    here = interpolator.state_at(100.0 + 8 / 30)
    np.testing.assert_allclose(here.positions, RAMP[3], atol=1e-6)
    np.testing.assert_allclose(here.velocities, SLOPE * 15, atol=1e-5)


def test_without_a_chunk_the_end_is_minus_infinity():
    interpolator = started()
    assert interpolator.end == pytest.approx(100.0 + 8 / 30)
    interpolator.clear()
    assert interpolator.chunk is None and interpolator.end == -np.inf


def test_a_chunk_of_one_action_is_a_constant_reference():
    interpolator = started(moving([0, 0]), actions=[[0.01, 0.02]])
    assert interpolator.end == pytest.approx(100.0 + 1 / 30)
    np.testing.assert_allclose(interpolator.state_at(100.2).positions, [0.01, 0.02])


parts = st.lists(st.floats(-1, 1), min_size=2, max_size=2)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 0.1), parts, parts, parts)
def test_a_transition_is_smooth_and_complete_after_the_blend(delay, offset, turn, push):
    interpolator, now = started(), 100.0 + delay
    here = interpolator.state_at(now)
    state = MotionState(
        here.positions + 0.05 * np.array(offset),
        here.velocities + 0.5 * np.array(turn),
        here.accelerations + 5 * np.array(push),
    )
    interpolator.accept(chunk(RAMP + 0.02, stamp=100.001), now, state)
    for found, expected in zip(interpolator.state_at(now), state):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert_consistent(interpolator, now + np.arange(0.01, 0.1, 0.0171))
    wanted = RAMP[0] + 0.02 + (now + 0.1 - 100.001 - 1 / 30) * SLOPE * 30
    np.testing.assert_allclose(interpolator.state_at(now + 0.1).positions, wanted, atol=1e-6)


def test_a_blend_over_a_large_offset_takes_as_long_as_the_limits_require():
    interpolator, still = started(), np.zeros((8, 2))
    interpolator.accept(chunk(still, stamp=100.1), 100.1, moving([1.5, 0.0], [0, 0]))
    blend = [interpolator.state_at(t) for t in np.arange(100.1, 102, 0.01)]
    assert max(np.abs(state.velocities).max() for state in blend) == pytest.approx(3.0, rel=1e-3)
    assert max(np.abs(state.accelerations).max() for state in blend) < 100.0
    np.testing.assert_allclose(blend[-1].positions, 0, atol=1e-9)
