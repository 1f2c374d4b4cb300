"""Bin and FAST: properties beyond the contracts of test_tokenizers.py."""

import json

import numpy as np
import pytest
import torch
from scipy.fft import dct

from nac_ros.core.errors import BadActions, BadTokens, ConfigError
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.tokenizers import load_tokenizer, make_tokenizer
from nac_ros.tokenizers.grammar import PAD
from nac_ros.training.tokenizer_metrics import evaluate, round_trip


def chunks(n=200, horizon=32, dim=7, seed=0):
    steps = np.random.default_rng(seed).standard_normal((n, horizon, dim))
    return (0.02 * steps.cumsum(1)).astype(np.float32)


def test_the_error_is_at_most_half_a_bin():
    tokenizer = make_tokenizer("bin").fit(chunks())
    assert tokenizer.grammar.max_tokens == 224 and tokenizer.bits == 2240
    decoded = tokenizer.decode(tokenizer.encode(chunks()))
    width = 2 * 1.25 / 1024 * tokenizer.normalizer.half_range
    assert ((decoded - torch.from_numpy(chunks())).abs() <= width / 2 + 1e-6).all()


def test_knots_are_interpolated_linearly_up_to_the_end_of_the_chunk():
    ramp = np.linspace(0, 1, 33)[1:, None] * np.array([1.0, -2.0])
    tokenizer = make_tokenizer("bin", action_dim=2, n_knots=4).fit(np.stack([ramp, -ramp]))
    assert tokenizer.grammar.max_tokens == 8
    decoded = tokenizer.decode(tokenizer.encode(ramp[None]))[0].numpy()
    np.testing.assert_allclose(decoded[7:], ramp[7:], atol=6e-3)
    assert make_tokenizer("bin", n_knots=6).bits == 6 * 7 * 10


def test_values_outside_the_bins_are_rejected_and_counted_not_clipped():
    tokenizer = make_tokenizer("bin").fit(chunks())
    far = chunks(4)
    far[2, 5, 3] += 10
    with pytest.raises(BadActions, match=r"row 2: .* column 3 is outside the bins"):
        tokenizer.encode(far)
    result = round_trip(tokenizer, ActionChunks(far, None))
    assert (result.encode_failures, result.decode_failures) == (1, 0)
    assert np.isnan(result.decoded[2]).all() and np.isfinite(result.decoded[[0, 1, 3]]).all()
    assert evaluate(tokenizer, ActionChunks(far, None))["encode_failures"] == 1


def test_fast_rounds_the_orthonormal_dct_and_orders_it_by_frequency():
    tokenizer = make_tokenizer("fast").fit(chunks())
    normalized = tokenizer.normalize(chunks(5))
    expected = np.around(dct(normalized.numpy().astype(float), axis=1, norm="ortho") * 10)
    np.testing.assert_array_equal(tokenizer.coefficients(normalized), expected)
    tokens = tokenizer.encode(chunks(5))
    text = "".join(tokenizer._pieces[i] for i in tokens[0].tolist() if i != PAD)
    codes = [ord(c) - 0xF0000 - tokenizer.config.max_coefficient for c in text]
    assert codes == expected[0].flatten().tolist()


def test_fast_sequences_vary_in_length_and_need_fewer_bits():
    tokenizer = make_tokenizer("fast").fit(chunks())
    tokens = tokenizer.encode(chunks(50))
    lengths = (tokens != PAD).sum(1)
    assert lengths.min() < lengths.max() < 224
    assert tokenizer.grammar.vocab_size == 1024 == tokenizer.vocab_size
    metrics = evaluate(tokenizer, ActionChunks(chunks(50), None))
    assert metrics["bits"] == pytest.approx(10 * metrics["tokens"]) and metrics["bits"] < 2240
    assert metrics["mse"] < 1e-3 and metrics["decode_failures"] == 0


def test_fitting_fast_is_reproducible_and_saving_keeps_it(tmp_path):
    first, second = (make_tokenizer("fast").fit(chunks(), seed=0) for _ in range(2))
    assert first._extra_state() == second._extra_state()
    first.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert torch.equal(again.encode(chunks(9)), first.encode(chunks(9)))
    assert json.loads((tmp_path / "config.json").read_text())["name"] == "fast"


def test_a_fast_sequence_is_complete_only_with_every_coefficient():
    tokenizer = make_tokenizer("fast").fit(chunks())
    grammar, tokens = tokenizer.grammar, tokenizer.encode(chunks(1)).numpy()
    assert not grammar.done(tokens[:, :-1]).any() and grammar.done(tokens).all()
    left = 224 - sum(len(tokenizer._pieces[i]) for i in tokens[0, :-1])
    lengths = np.array([len(piece) for piece in tokenizer._pieces])
    np.testing.assert_array_equal(grammar.legal(tokens[:, :-1])[0], lengths <= left)
    with pytest.raises(BadTokens, match="incomplete"):
        tokenizer.decode(tokens[:, :-1])
    with pytest.raises(BadTokens, match="has ended"):
        tokenizer.decode(np.concatenate([tokens, tokens[:, :1]], 1))


def test_a_coefficient_without_a_code_is_rejected():
    tokenizer = make_tokenizer("fast").fit(chunks())
    far = chunks(3)
    far[1, :, 4] += 50
    with pytest.raises(BadActions, match=r"row 1: coefficient .* column 4 at frequency 0"):
        tokenizer.encode(far)


def test_a_scale_with_more_values_than_the_vocabulary_is_rejected():
    with pytest.raises(ConfigError, match="coefficient values for vocab_size 1024"):
        make_tokenizer("fast", scale=100.0)
    with pytest.raises(ConfigError, match="n_knots 40"):
        make_tokenizer("bin", n_knots=40)


@pytest.mark.parametrize("name", ["bin", "fast"])
def test_a_chunk_that_cannot_be_encoded_is_scored_as_holding_the_joint_state(name):
    tokenizer = make_tokenizer(name).fit(chunks())
    actions = chunks(4)
    actions[2] += 50
    known = np.array([0, 1, 3])
    state = actions[:, 0] + np.float32(0.25)
    found = evaluate(tokenizer, ActionChunks(actions, state))
    assert found["failed_chunks"] == found["encode_failures"] == 1
    scale = tokenizer.absolute_normalizer.half_range.numpy()
    held = ((state[2] - actions[2]) / scale) ** 2
    others = evaluate(tokenizer, ActionChunks(actions[known], state[known]))
    assert others["failed_chunks"] == 0
    assert found["mse"] == pytest.approx((3 * others["mse"] + held.mean()) / 4, rel=1e-5)
    assert found["tokens"] == others["tokens"] and found["max_error"] > others["max_error"]
    without_state = evaluate(tokenizer, ActionChunks(actions, None))["mse"]
    held = ((actions[2, :1] - actions[2]) / scale) ** 2
    assert without_state == pytest.approx((3 * others["mse"] + held.mean()) / 4, rel=1e-5)


def test_a_sequence_that_decodes_to_no_number_is_counted_as_failed(monkeypatch):
    tokenizer = make_tokenizer("bin").fit(chunks())
    decode = tokenizer._decode

    def overflow(tokens):
        out = decode(tokens)
        out[1, 0, 0] = float("inf")
        return out

    monkeypatch.setattr(tokenizer, "_decode", overflow)
    found = evaluate(tokenizer, ActionChunks(chunks(4), None))
    assert found["failed_chunks"] == found["decode_failures"] == 1 and np.isfinite(found["mse"])


@pytest.mark.parametrize("name", ["bin", "fast"])
def test_an_outlier_beyond_the_quantiles_is_refused_and_the_rest_is_encoded(name, tmp_path):
    actions = chunks(1000)
    actions[7] += 500
    tokenizer = make_tokenizer(name, normalizer={"range": "quantiles"}).fit(actions)
    found = evaluate(tokenizer, ActionChunks(actions[:100], None))
    assert 1 <= found["failed_chunks"] < 20
    with pytest.raises(BadActions, match="row 0"):
        tokenizer.encode(actions[7:8])
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.config.normalizer.range == "quantiles"
    assert torch.equal(again.normalizer.high, tokenizer.normalizer.high)
