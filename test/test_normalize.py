"""Normalization of actions to [-1, 1] and back, also of constant and relative dimensions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.errors import BadActions, ConfigError
from nac_ros.core.normalize import (
    FLAT_RANGE,
    ActionNormalizer,
    NormalizerConfig,
    min_half_range_of,
)

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
    tensors = ActionNormalizer(*map(torch.from_numpy, (made.low, made.high, relative)), True)
    from_numpy = made.normalize(actions, reference)
    from_torch = tensors.normalize(torch.from_numpy(actions), torch.from_numpy(reference))
    np.testing.assert_array_equal(from_torch.numpy(), from_numpy)
    back = tensors.denormalize(from_torch, torch.from_numpy(reference))
    np.testing.assert_array_equal(back.numpy(), made.denormalize(from_numpy, reference))


def test_the_jitter_of_a_resting_joint_stays_small_with_the_floor_of_its_range():
    rng = np.random.default_rng(0)
    jitter = rng.uniform(-1e-5, 1e-5, (500, 32, 1)).astype(np.float32)  # [rad]
    assert ActionNormalizer.fit(jitter).normalize(jitter).std() == pytest.approx(0.58, abs=0.01)
    floor = min_half_range_of(np.array([-np.pi]), np.array([np.pi]))
    made = ActionNormalizer.fit(jitter, config=NormalizerConfig(min_half_range=floor))
    assert made.half_range == pytest.approx(0.0126, abs=1e-4)
    assert made.normalize(jitter).std() < 1e-3
    np.testing.assert_allclose(made.denormalize(made.normalize(jitter)), jitter, atol=1e-8)


def test_the_floor_leaves_a_moving_joint_alone():
    actions = np.random.default_rng(0).uniform(-0.3, 0.5, (100, 8, 2)).astype(np.float32)
    plain = ActionNormalizer.fit(actions)
    made = ActionNormalizer.fit(actions, config=NormalizerConfig(min_half_range=(0.1, 2.0)))
    assert (made.low[0], made.high[0]) == (plain.low[0], plain.high[0])
    assert made.half_range[1] == 2 and made.centre[1] == pytest.approx(plain.centre[1])


def test_quantiles_ignore_outliers_and_keep_their_values():
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (1000, 8, 2)).astype(np.float32)
    actions[:5, :, 1] = 100  # 0.5 % of the values
    plain = ActionNormalizer.fit(actions)
    made = ActionNormalizer.fit(actions, config=NormalizerConfig(range="quantiles"))
    assert plain.half_range[1] > 50 and made.half_range[1] == pytest.approx(0.98, abs=0.03)
    normalized = made.normalize(actions)
    assert normalized.max() > 90
    np.testing.assert_allclose(made.denormalize(normalized), actions, rtol=1e-5, atol=1e-5)


def test_a_gripper_that_rarely_moves_keeps_its_range_with_quantiles():
    gripper = np.zeros((1000, 8, 1), np.float32)
    gripper[:5] = 0.04  # [m], 0.5 % of the time
    config = NormalizerConfig(range="quantiles", min_half_range=(1e-4,))
    made = ActionNormalizer.fit(gripper, config=config)
    assert (made.low[0], made.high[0]) == (0, np.float32(0.04))


def test_a_normalizer_config_needs_one_half_range_for_each_column():
    with pytest.raises(ConfigError, match="min_half_range has 2 entries for 7"):
        ChunkSpec(normalizer=NormalizerConfig(min_half_range=(0.1, 0.1)))
    with pytest.raises(ConfigError, match="must be in 0"):
        NormalizerConfig(min_half_range=(-0.1,))
