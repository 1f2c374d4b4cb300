"""Contract tests of every registered tokenizer."""

import json

import numpy as np
import pytest
import torch

from nac_ros.core.errors import (
    BadActions,
    BadTokens,
    BundleError,
    ConfigError,
    NotFitted,
    UnknownName,
)
from nac_ros.tokenizers import list_tokenizers, load_tokenizer, make_tokenizer
from nac_ros.tokenizers.base import TOKENIZERS
from nac_ros.tokenizers.grammar import PAD, random_sequences

RELATIVE = [True] * 6 + [False]


def smooth_chunks(n: int = 300, horizon: int = 32, dim: int = 7, seed: int = 0) -> np.ndarray:
    """Random walks `[n, horizon, dim]` like joints in motion."""
    steps = np.random.default_rng(seed).standard_normal((n, horizon, dim))
    return (0.02 * steps.cumsum(1)).astype(np.float32)


@pytest.fixture(scope="module", params=list_tokenizers())
def fitted(request):
    chunks = smooth_chunks()
    torch.manual_seed(0)
    return make_tokenizer(request.param, relative=RELATIVE).fit(chunks, chunks[:, 0])


def test_a_round_trip_keeps_shape_dtype_and_range(fitted):
    chunks = smooth_chunks()[:9]
    tokens = fitted.encode(chunks, chunks[:, 0])
    decoded = fitted.decode(tokens, chunks[:, 0])
    assert tokens.dtype == torch.int64 and tokens.shape[0] == 9
    assert tokens.shape[1] <= fitted.grammar.max_tokens
    assert decoded.dtype == torch.float32 and decoded.shape == (9, 32, 7)
    assert torch.isfinite(decoded).all()
    assert tokens.max() < fitted.vocab_size


def test_encoded_sequences_are_legal_at_every_position(fitted):
    chunks = smooth_chunks()[:9]
    tokens = fitted.encode(chunks, chunks[:, 0]).numpy()
    fitted.grammar.check(tokens)
    for position in range(tokens.shape[1]):
        legal = fitted.grammar.legal(tokens[:, :position])
        padding = fitted.grammar.done(tokens[:, :position]) & (tokens[:, position] == PAD)
        assert (legal[np.arange(9), tokens[:, position]] | padding).all()


def test_relative_columns_shift_with_the_reference(fitted):
    chunks = smooth_chunks()[:4]
    tokens = fitted.encode(chunks, chunks[:, 0])
    shift = torch.ones(4, 7)
    shifted = fitted.decode(tokens, torch.from_numpy(chunks[:, 0]) + shift)
    difference = shifted - fitted.decode(tokens, chunks[:, 0])
    assert torch.allclose(difference[..., :6], torch.ones(4, 32, 6), atol=1e-5)
    assert torch.allclose(difference[..., 6], torch.zeros(4, 32), atol=1e-5)


def test_a_loaded_tokenizer_equals_the_saved_one(fitted, tmp_path):
    chunks = smooth_chunks()[:5]
    fitted.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    tokens = fitted.encode(chunks, chunks[:, 0])
    assert torch.equal(again.encode(chunks, chunks[:, 0]), tokens)
    assert torch.equal(again.decode(tokens, chunks[:, 0]), fitted.decode(tokens, chunks[:, 0]))


def nearest_tokens(tokenizer, normalized):
    """Greedy encoding: each token has the embedding nearest to the residual of those before."""
    targets, vectors = tokenizer.residual_targets(normalized), tokenizer.embeddings()
    tokens = torch.zeros(len(normalized), 0, dtype=torch.int64)
    while not tokenizer.grammar.done(tokens.numpy()).all():
        legal = torch.from_numpy(tokenizer.grammar.legal(tokens.numpy()).copy())
        distance = torch.cdist(targets(tokens)[:, tokens.shape[1], None], vectors[None])[:, 0]
        chosen = distance.masked_fill(~legal, torch.inf).argmin(-1, keepdim=True)
        tokens = torch.cat([tokens, chosen], 1)
    return tokens


def test_tokens_are_the_nearest_embeddings_or_have_a_smaller_error(fitted):
    if fitted.embeddings() is None:
        pytest.skip(f"the tokens of {fitted.name} have no embeddings")
    chunks = 0.7 * smooth_chunks(20, seed=1)  # not those of the fit
    normalized = fitted.normalize(chunks, chunks[:, 0])
    tokens, nearest = fitted.encode(chunks, chunks[:, 0]), nearest_tokens(fitted, normalized)
    if (nearest == tokens).float().mean() > 0.99:
        return
    latent = fitted.latent(normalized)
    error, greedy_error = (
        (latent - fitted.quantizer.dequantize(fitted._codes(sequence))).square().mean()
        for sequence in (tokens, nearest)
    )
    assert fitted.uses_beam_search and error < greedy_error


def test_without_beam_search_the_nearest_codewords_are_taken():
    chunks = smooth_chunks()
    for name, config in (("rotated_rvq", {"beam_width": 1}), ("nac", {"beam_width": 1})):
        tokenizer = make_tokenizer(name, **config).fit(chunks)
        assert not tokenizer.uses_beam_search
        nearest = nearest_tokens(tokenizer, tokenizer.normalize(chunks[:20]))
        assert (nearest == tokenizer.encode(chunks[:20])).float().mean() > 0.99


def test_latents_are_nearer_to_the_embeddings_of_their_tokens_than_to_others(fitted):
    vectors, chunks = fitted.embeddings(), smooth_chunks()[:20]
    if vectors is None:
        pytest.skip(f"the tokens of {fitted.name} have no embeddings")
    normalized = fitted.normalize(chunks, chunks[:, 0])
    tokens = fitted.encode(chunks, chunks[:, 0])
    latents = fitted.latents(normalized)
    assert latents.shape == (20, tokens.shape[1], vectors.shape[1])
    distance = (latents - vectors[tokens]).square().sum(-1).mean()
    assert distance < (latents - vectors[tokens.roll(1, 0)]).square().sum(-1).mean()


def test_residual_targets_compensate_for_an_unusual_first_token(fitted):
    vectors, chunks = fitted.embeddings(), smooth_chunks()[:8]
    if vectors is None:
        pytest.skip(f"the tokens of {fitted.name} have no embeddings")
    normalized = fitted.normalize(chunks, chunks[:, 0])
    targets, own = fitted.residual_targets(normalized), nearest_tokens(fitted, normalized)
    adapted = own.roll(1, 0)  # starts with the first token of another chunk
    for k in range(1, own.shape[1]):
        legal = torch.from_numpy(fitted.grammar.legal(adapted.numpy()[:, :k]).copy())
        distance = torch.cdist(targets(adapted[:, :k])[:, k, None], vectors[None])[:, 0]
        adapted[:, k] = distance.masked_fill(~legal, torch.inf).argmin(-1)
    if torch.equal(adapted[:, 1:], own[:, 1:]):
        pytest.skip(f"the tokens of {fitted.name} do not depend on each other")
    unadapted = torch.cat([adapted[:, :1], own[:, 1:]], 1)
    expected = fitted.decode(own, chunks[:, 0])
    adapted_error, unadapted_error = (
        (fitted.decode(tokens, chunks[:, 0]) - expected).square().mean()
        for tokens in (adapted, unadapted)
    )
    assert not torch.equal(adapted, own) and torch.equal(targets(own), targets(own[:, :0]))
    assert adapted_error < unadapted_error


def test_residual_steps_are_the_residual_targets_one_by_one(fitted):
    if fitted.embeddings() is None:
        pytest.skip(f"the tokens of {fitted.name} have no embeddings")
    chunks = smooth_chunks()[:4]
    normalized = fitted.normalize(chunks, chunks[:, 0])
    tokens = torch.from_numpy(random_sequences(fitted.grammar, 4, np.random.default_rng(0)))
    wanted, steps = fitted.residual_targets(normalized)(tokens), fitted.residual_steps(normalized)
    for k in range(tokens.shape[1]):
        assert torch.allclose(steps.target(), wanted[:, k], atol=1e-5)
        steps.add(tokens[:, k])


def test_an_unfitted_tokenizer_raises_not_fitted():
    for name in list_tokenizers():
        with pytest.raises(NotFitted, match="fit"):
            make_tokenizer(name).encode(smooth_chunks()[:1])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((0, 32, 7)), "B >= 1"),
        (np.zeros((1, 31, 7)), "32, 7"),
        (np.zeros((32, 7)), "32, 7"),
        (np.zeros((1, 1_000_000, 7), np.float32), "steps"),
        (np.full((1, 32, 7), np.nan), "nan"),
        (np.full((1, 32, 7), np.inf), "inf"),
    ],
)
def test_invalid_actions_are_rejected_with_a_sentence(fitted, bad, message):
    with pytest.raises(BadActions, match=message):
        fitted.encode(bad, np.zeros((1, 7)))


def test_fit_rejects_a_column_beyond_the_range_of_any_joint():
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 8, 3)).astype(np.float32)
    actions[..., 1] *= 65_536  # encoder ticks
    made = make_tokenizer("bin", "small", 8, 3, names=("a", "b", "c"))
    with pytest.raises(BadActions, match=r"action 'b' has a range of -6.* beyond the 10000"):
        made.fit(actions)
    assert not made.fitted


@pytest.mark.parametrize("reference", [None, np.zeros((2, 7)), np.full((1, 7), np.nan)])
def test_relative_columns_need_a_valid_reference(fitted, reference):
    with pytest.raises(BadActions, match="reference"):
        fitted.encode(smooth_chunks()[:1], reference)


def test_absolute_tokenizers_ignore_the_reference():
    chunks = smooth_chunks()
    for name in list_tokenizers():
        tokenizer = make_tokenizer(name).fit(chunks)
        tokens = tokenizer.encode(chunks[:2])
        assert torch.equal(tokens, tokenizer.encode(chunks[:2], np.ones((2, 7))))


def test_decode_rejects_a_truncated_sequence(fitted):
    chunks = smooth_chunks()[:1]
    tokens = fitted.encode(chunks, chunks[:, 0])
    with pytest.raises(BadTokens):
        fitted.decode(tokens[:, :-1], chunks[:, 0])


def test_prefixes_decode_if_the_tokenizer_supports_it(fitted):
    chunks = smooth_chunks()[:3]
    tokens = fitted.encode(chunks, chunks[:, 0])
    assert bool(fitted.prefix_lengths) == fitted.supports_prefix
    for length in fitted.prefix_lengths:
        coarse = fitted.decode_prefix(tokens[:, :length], chunks[:, 0])
        assert coarse.shape == (3, 32, 7) and torch.isfinite(coarse).all()
    if not fitted.supports_prefix:
        with pytest.raises(BadTokens, match="decodes no prefix"):
            fitted.decode_prefix(tokens[:, :3], chunks[:, 0])
        return
    complete = fitted.decode_prefix(tokens, chunks[:, 0])
    assert torch.equal(complete, fitted.decode(tokens, chunks[:, 0]))
    with pytest.raises(BadTokens, match="0 tokens cannot be decoded"):
        fitted.decode_prefix(tokens[:, :0], chunks[:, 0])
    broken = tokens[:, : fitted.prefix_lengths[-1]].clone()
    broken[1, 2] = -1
    with pytest.raises(BadTokens, match="-1 at position 2"):
        fitted.decode_prefix(broken, chunks[:, 0])


def test_decode_reports_position_and_value_of_an_illegal_token(fitted):
    chunks = smooth_chunks()[:1]
    tokens = fitted.encode(chunks, chunks[:, 0])
    for value in (-5, fitted.vocab_size, fitted.vocab_size + 7):
        broken = tokens.clone()
        broken[0, 1] = value
        with pytest.raises(BadTokens, match=f"{value} at position 1"):
            fitted.decode(broken, chunks[:, 0])


def test_decode_rejects_tokens_of_another_type(fitted):
    with pytest.raises(BadTokens, match="integers"):
        fitted.decode(torch.zeros(1, 12), np.zeros((1, 7)))


def test_nac_rejects_a_token_of_another_scale():
    chunks = smooth_chunks()
    tokenizer = make_tokenizer("nac").fit(chunks)
    tokens = tokenizer.encode(chunks[:1])
    tokens[0, 0] += 1024
    with pytest.raises(BadTokens, match=r"0 \.\. 1023"):
        tokenizer.decode(tokens)


def test_random_legal_sequences_decode(fitted):
    generator, grammar = np.random.default_rng(0), fitted.grammar
    tokens = np.zeros((500, 0), np.int64)
    while not grammar.done(tokens).all():
        scores = np.where(grammar.legal(tokens), generator.random((500, fitted.vocab_size)), -1)
        chosen = np.where(grammar.done(tokens), PAD, scores.argmax(1))
        tokens = np.concatenate([tokens, chosen[:, None]], 1)
    assert torch.isfinite(fitted.decode(tokens, np.zeros((500, 7)))).all()


def test_unknown_names_are_rejected_with_the_known_ones():
    with pytest.raises(UnknownName, match="nac"):
        make_tokenizer("nacc")
    with pytest.raises(UnknownName, match="small"):
        make_tokenizer("nac", "tiny")
    with pytest.raises(ConfigError, match="n_filters"):
        make_tokenizer("nac", n_filter=3)
    with pytest.raises(ConfigError, match="relative"):
        make_tokenizer("nac", relative=[True])


def test_damaged_folders_are_rejected(fitted, tmp_path):
    with pytest.raises(BundleError, match=r"config\.json"):
        load_tokenizer(tmp_path)
    fitted.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(BundleError, match="safetensors"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"name": fitted.name}))
    with pytest.raises(BundleError, match="lacks"):
        load_tokenizer(tmp_path)


def test_a_folder_of_an_older_format_is_rejected_in_one_sentence(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    for old in ({}, {"format": 1}):
        changed = {key: value for key, value in content.items() if key != "format"} | old
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(BundleError, match=r"this version reads 3; train the tokenizer again"):
            load_tokenizer(tmp_path)


def test_every_file_registers_its_own_name():
    for name in list_tokenizers():
        assert TOKENIZERS.get(name).name == name
