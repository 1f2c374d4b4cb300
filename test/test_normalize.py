"""Normalization of actions to [-1, 1] and back, also of constant and relative dimensions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nac_ros.core.errors import BadActions
from nac_ros.core.normalize import FLAT_RANGE, ActionNormalizer

values = arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.integers(1, 9), st.just(4)),
    elements=st.floats(-10, 10, width=32),
)


@given(values)
def test_normalised_training_values_are_between_minus_one_and_one(actions):
    made = ActionNormalizer.fit(actions)
    assert np.abs(made.normalize(actions)).max() <= 1 + 1e-4


@given(values, values)
def test_denormalising_inverts_normalising_also_outside_the_fitted_range(fitted, others):
    made = ActionNormalizer.fit(fitted)
    back = made.denormalize(made.normalize(others))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, others, atol=2e-5)


@given(values)
def test_the_extremes_become_minus_one_and_one(actions):
    made = ActionNormalizer.fit(actions)
    moving = made.high - made.low >= 1e-3
    np.testing.assert_allclose(made.normalize(made.low[None])[0, moving], -1, atol=1e-2)
    np.testing.assert_allclose(made.normalize(made.high[None])[0, moving], 1, atol=1e-2)


def test_a_constant_dimension_is_only_centred():
    actions = np.full((5, 2), 0.3, np.float32)
    actions[:, 1] += np.linspace(0, FLAT_RANGE, 5, dtype=np.float32)
    made = ActionNormalizer.fit(actions)
    np.testing.assert_array_equal(made.half_range, 1)
    assert np.abs(made.normalize(actions)).max() <= FLAT_RANGE


@pytest.mark.parametrize("bad", [np.empty((0, 3)), np.array([[0.0, np.nan]]), [[np.inf, 1.0]]])
def test_statistics_of_no_values_or_of_nan_are_rejected(bad):
    with pytest.raises(BadActions, match="at least one action, all finite"):
        ActionNormalizer.fit(np.asarray(bad))


def test_relative_dimensions_are_normalized_around_the_reference():
    rng = np.random.default_rng(0)
    reference = rng.uniform(-2, 2, (20, 3)).astype(np.float32)
    steps = rng.uniform(-0.1, 0.1, (20, 5, 3)).astype(np.float32)
    actions = reference[:, None] + steps
    made = ActionNormalizer.fit(actions, reference, [True, False, True])
    assert (made.half_range[[0, 2]] < 0.11).all() and made.half_range[1] > 1
    normalized = made.normalize(actions, reference)
    np.testing.assert_allclose(made.denormalize(normalized, reference), actions, atol=1e-6)
    with pytest.raises(BadActions, match="need the joint state as reference"):
        made.normalize(actions)


def test_numpy_arrays_and_tensors_give_the_same_bits():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    actions = rng.uniform(-1, 1, (8, 4, 3)).astype(np.float32)
    actions[..., 1] = 0.25
    reference, relative = actions[:, 0], np.array([True, False, False])
    made = ActionNormalizer.fit(actions, reference, relative)
    tensors = ActionNormalizer(*map(torch.from_numpy, (made.low, made.high, relative)))
    from_numpy = made.normalize(actions, reference)
    from_torch = tensors.normalize(torch.from_numpy(actions), torch.from_numpy(reference))
    np.testing.assert_array_equal(from_torch.numpy(), from_numpy)
    back = tensors.denormalize(from_torch, torch.from_numpy(reference))
    np.testing.assert_array_equal(back.numpy(), made.denormalize(from_numpy, reference))
