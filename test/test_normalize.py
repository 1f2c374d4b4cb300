"""Normalisation to [-1, 1] and back without loss, also of constant dimensions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nac_ros.core.errors import BadActions
from nac_ros.core.normalize import FLAT_RANGE, LinearNormalizer

values = arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.integers(1, 9), st.just(4)),
    elements=st.floats(-10, 10, width=32),
)


@given(values)
def test_normalised_training_values_are_between_minus_one_and_one(actions):
    made = LinearNormalizer.fit(actions)
    assert np.abs(made.normalize(actions)).max() <= 1 + 1e-4


@given(values, values)
def test_denormalising_inverts_normalising_also_outside_the_fitted_range(fitted, others):
    made = LinearNormalizer.fit(fitted)
    back = made.denormalize(made.normalize(others))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, others, atol=2e-5)


@given(values)
def test_the_extremes_become_minus_one_and_one(actions):
    made = LinearNormalizer.fit(actions)
    moving = made.high - made.low >= 1e-3
    np.testing.assert_allclose(made.normalize(made.low)[moving], -1, atol=1e-2)
    np.testing.assert_allclose(made.normalize(made.high)[moving], 1, atol=1e-2)


def test_a_constant_dimension_is_only_centred():
    actions = np.full((5, 2), 0.3, np.float32)
    actions[:, 1] += np.linspace(0, FLAT_RANGE, 5, dtype=np.float32)
    made = LinearNormalizer.fit(actions)
    np.testing.assert_array_equal(made.half_range, 1)
    assert np.abs(made.normalize(actions)).max() <= FLAT_RANGE


@pytest.mark.parametrize("bad", [np.empty((0, 3)), np.array([[0.0, np.nan]]), [[np.inf, 1.0]]])
def test_statistics_of_no_values_or_of_nan_are_rejected(bad):
    with pytest.raises(BadActions, match="at least one value, all finite"):
        LinearNormalizer.fit(np.asarray(bad))
