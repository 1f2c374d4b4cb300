"""ActionChunk and Observation: due times, shapes and immutability."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nac_ros.core.errors import BadActions
from nac_ros.core.types import ActionChunk, Observation

NAMES = ("waist", "gripper")


def chunk(actions, stamp=0.0, rate=30.0):
    return ActionChunk(stamp, rate, NAMES, np.asarray(actions, np.float32), np.empty(0, np.int64))


@given(
    steps=st.integers(1, 64),
    stamp=st.floats(0, 2e9, allow_nan=False),
    rate=st.sampled_from([10.0, 30.0, 50.0]),
)
def test_action_i_is_due_i_plus_one_periods_after_the_stamp(steps, stamp, rate):
    made = chunk(np.zeros((steps, 2)), stamp, rate)
    assert made.times.shape == (steps,)
    assert made.times.dtype == np.float64
    np.testing.assert_allclose(made.times - stamp, np.arange(1, steps + 1) / rate, atol=1e-6)
    assert made.end == made.times[-1]


@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (0, 2), (8,), (1, 4, 2)])
def test_actions_of_another_shape_than_the_joints_are_rejected(shape):
    with pytest.raises(BadActions, match=r"wanted|must have the shape \[T >= 1, 2\], got"):
        chunk(np.zeros(shape))


def test_the_reference_is_the_newest_joint_state():
    proprio = np.array([[0.0, 1.0], [2.0, 3.0]], np.float32)
    np.testing.assert_array_equal(Observation(0.0, {}, proprio, "marker").reference, [2, 3])


def test_a_chunk_is_immutable():
    with pytest.raises(AttributeError):
        chunk(np.zeros((2, 2))).stamp = 1.0
