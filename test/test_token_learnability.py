"""Learnability: few bits for tokens that follow from the state, many for random ones."""

import numpy as np
import pytest
import torch

from nac_ros.core.errors import BadActions
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.evaluation.token_learnability import (
    LearnabilityConfig,
    TokenModel,
    measure_learnability,
)
from nac_ros.tokenizers import make_tokenizer

QUICK = LearnabilityConfig(dim=32, n_layers=1, steps=250, learning_rate=5e-3)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def resting(n, seed, follows_state):
    """Chunks `[n, 8, 2]` that rest at the joint state, or at a position independent of it."""
    rng = np.random.default_rng(seed)
    states, others = rng.uniform(-1, 1, (2, n, 2)).astype(np.float32)
    target = states if follows_state else others
    return ActionChunks(np.repeat(target[:, None], 8, 1), states)


def measured(follows_state):
    train, held_out = resting(2000, 0, follows_state), resting(500, 1, follows_state)
    tokenizer = make_tokenizer("bin", horizon=8, action_dim=2, n_bins=16, n_knots=1)
    return measure_learnability(tokenizer.fit(train.actions), train, held_out, QUICK)


def test_tokens_that_follow_from_the_state_need_few_bits():
    found = measured(follows_state=True)
    assert found.uniform_bits_per_chunk == pytest.approx(8) and found.chunks == 500
    assert found.bits_per_chunk < 3
    assert found.bits_per_token == pytest.approx(found.bits_per_chunk / 2)


def test_tokens_independent_of_the_state_need_the_bits_of_their_distribution():
    entropy = 2 * np.log2(16 / 1.25)  # the values fill -1 .. 1 of bins from -1.25 to 1.25
    assert measured(follows_state=False).bits_per_chunk == pytest.approx(entropy, rel=0.05)


@pytest.mark.parametrize("name", ["bin", "fast", "vqvla"])
def test_an_untrained_model_is_close_to_a_uniform_guess_among_legal_tokens(name):
    actions = np.random.default_rng(0).standard_normal((2000, 8, 2)).cumsum(1)
    chunks = ActionChunks(actions.astype(np.float32), None)
    tokenizer = make_tokenizer(name, horizon=8, action_dim=2).fit(chunks.actions)
    tokens = tokenizer.encode(chunks.actions[:80])
    torch.manual_seed(0)
    model = TokenModel(tokenizer.grammar, tokens.shape[1], 2, QUICK).eval()
    with torch.no_grad():
        found, uniform = model(tokens, torch.zeros(80, 2))
        changed = tokens.clone()
        changed[:, 1] = tokens[0, 1]
        again, _ = model(changed, torch.zeros(80, 2))
    torch.testing.assert_close(found, uniform, atol=1.0, rtol=0)
    assert (uniform[tokens == -1] == 0).all() and (uniform[:, 0] > 2).all()
    assert torch.equal(again[:, 0], found[:, 0])  # a token sees no later one
    if name == "fast":  # near the end only short pieces fit
        assert uniform[tokens >= 0].min() < uniform[:, 0].min()


def test_a_measurement_is_reproducible_and_leaves_the_random_state_alone():
    train, quick = resting(200, 0, True), LearnabilityConfig(dim=32, n_layers=1, steps=3)
    tokenizer = make_tokenizer("bin", horizon=8, action_dim=2, n_knots=1).fit(train.actions)
    before = torch.random.get_rng_state()
    first, second = (measure_learnability(tokenizer, train, train, quick) for _ in range(2))
    assert first == second and torch.equal(torch.random.get_rng_state(), before)


def test_chunks_without_tokens_are_left_out_and_named_if_there_are_no_others():
    train = resting(200, 0, True)
    tokenizer = make_tokenizer("bin", horizon=8, action_dim=2, n_knots=1).fit(train.actions)
    far = ActionChunks(np.concatenate([train.actions[:3], train.actions + 9]), None)
    quick = LearnabilityConfig(dim=32, n_layers=1, steps=1)
    assert measure_learnability(tokenizer, train, far, quick).chunks == 3
    with pytest.raises(BadActions, match="bin has tokens for no held-out chunk"):
        measure_learnability(tokenizer, train, far.select(slice(3, None)), quick)
