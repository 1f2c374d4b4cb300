"""VQ-VLA: properties beyond the contracts of test_tokenizers.py."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from nac_ros.codec.quantizer import mix_latents
from nac_ros.core.errors import BadTokens, ConfigError
from nac_ros.export.onnx import TOLERANCE, export_detokenizer, max_onnx_error
from nac_ros.export.onnx_session import OnnxDetokenizer
from nac_ros.tokenizers import make_tokenizer
from nac_ros.tokenizers.vqvla import CausalConv

TINY = {"widths": (8, 16), "strides": (8,), "bottleneck_dim": 48, "bottleneck_hidden": 64}
TINY |= {"bottleneck_blocks": 1, "latent_dim": 24, "codebook_size": 64}


def chunks(n=300, horizon=32, dim=7, seed=0):
    """Random walks `[n, horizon, dim]` like joints in motion."""
    steps = np.random.default_rng(seed).standard_normal((n, horizon, dim))
    return (0.02 * steps.cumsum(1)).astype(np.float32)


def train(tokenizer, normalized, steps, unquantized=0):
    """Adam on random rows of `[N, H, D]`, the first steps without quantization; the losses."""
    optimizer, losses = torch.optim.Adam(tokenizer.parameters(), 1e-3), []
    tokenizer.train()
    for step in range(steps):
        if step == unquantized > 0:
            tokenizer.fit_codes(normalized, 0)
        real = normalized[torch.randint(len(normalized), (64,))]
        decoded, extra = tokenizer.training_step(real, quantize=step >= unquantized)
        loss = (decoded - real).square().mean() + 0.25 * extra.get("commitment", 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    tokenizer.eval()
    return losses


@pytest.fixture(scope="module")
def trained():
    """A tiny tokenizer after a second of training."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = make_tokenizer("vqvla", **TINY).fit(chunks())
    train(tokenizer, tokenizer.normalize(chunks()), steps=100, unquantized=20)
    return tokenizer


def with_random_weights(module):
    """Residual branches are initialized with zeros, which would hide what they depend on."""
    with torch.no_grad():
        for weights in module.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    return module


@pytest.mark.parametrize(
    ("preset", "low", "high"), [("paper", 65.456, 65.656), ("small", 1.55, 1.65)]
)
def test_both_presets_have_their_size_and_the_tokens_of_the_paper(preset, low, high):
    tokenizer = make_tokenizer("vqvla", preset)
    assert low <= tokenizer.params_m <= high
    assert tokenizer.grammar.max_tokens == 12 and tokenizer.bits == 120
    assert tokenizer.vocab_size == len(tokenizer.embeddings()) == 12288
    assert tokenizer.prefix_lengths == tuple(range(1, 12))


def test_features_before_pooling_do_not_depend_on_later_actions():
    encoder = with_random_weights(make_tokenizer("vqvla").encoder)
    chunk = torch.randn(3, 32, 7)
    for step in (8, 16, 24):  # where features of 8 actions each begin
        later = chunk.clone()
        later[:, step:] += 1
        before, after = encoder.features(chunk), encoder.features(later)
        assert before.shape == (3, 4, 128)
        torch.testing.assert_close(before[:, : step // 8], after[:, : step // 8])
        assert ((before - after)[:, step // 8 :].abs().amax((0, 2)) > 1e-3).all()


def test_a_causal_convolution_equals_a_left_padded_conv1d():
    causal, reference = CausalConv(5, 4, 3), torch.nn.Conv1d(5, 4, 3)
    x = torch.randn(2, 9, 5)
    with torch.no_grad():
        reference.weight.copy_(causal.taps.weight.view(4, 3, 5).transpose(1, 2))
        reference.bias.copy_(causal.taps.bias)
    padded = torch.nn.functional.pad(x.transpose(1, 2), (2, 0))
    torch.testing.assert_close(causal(x), reference(padded).transpose(1, 2))


def test_the_loss_falls_from_the_first_quantized_step():
    torch.manual_seed(0)
    tokenizer = make_tokenizer("vqvla").fit(chunks())
    losses = train(tokenizer, tokenizer.normalize(chunks()), steps=15)
    assert max(losses) < 1.2 * losses[0] and np.mean(losses[-5:]) < 0.6 * losses[0]


def test_every_further_token_reduces_the_error(trained):
    held_out = chunks(400, seed=1)
    tokens = trained.encode(held_out)
    errors = [
        (trained.decode_prefix(tokens[:, :k]) - torch.from_numpy(held_out)).square().mean()
        for k in (*trained.prefix_lengths, 12)
    ]
    assert all(later < earlier for earlier, later in pairwise(errors))
    assert errors[-1] < 0.5 * errors[0]
    complete = trained.decode_prefix(tokens)
    assert torch.equal(complete, trained.decode(tokens))


def test_a_prefix_that_skips_a_quantizer_is_rejected(trained):
    tokens = trained.encode(chunks(1))
    with pytest.raises(BadTokens, match="at position 0"):
        trained.decode_prefix(tokens[:, 1:4])


def test_the_detokenizer_decodes_in_onnx_runtime_as_in_torch(trained, tmp_path):
    export_detokenizer(trained, tmp_path / "detokenizer.onnx")
    assert max_onnx_error(trained, OnnxDetokenizer(tmp_path / "detokenizer.onnx")) <= TOLERANCE


@pytest.mark.parametrize(("horizon", "dim"), [(30, 6), (50, 14), (5, 3), (1, 1)])
def test_any_horizon_and_dimension_can_be_encoded(horizon, dim):
    tokenizer = make_tokenizer("vqvla", horizon=horizon, action_dim=dim, **TINY)
    actions = chunks(100, horizon, dim)
    tokenizer.fit(actions)
    tokens = tokenizer.encode(actions[:3])
    assert tokens.shape == (3, 12)
    assert tokenizer.decode(tokens).shape == (3, horizon, dim)
    assert tokenizer.decode_prefix(tokens[:, :5]).shape == (3, horizon, dim)
    decoded, extra = tokenizer.train().training_step(tokenizer.normalize(actions))
    (decoded.square().mean() + extra["commitment"]).backward()
    weights = list(tokenizer.parameters())
    assert all(w.grad is not None and torch.isfinite(w.grad).all() for w in weights)


def test_few_chunks_leave_a_residual_to_every_quantizer():
    tokenizer = make_tokenizer("vqvla", **{**TINY, "codebook_size": 1024}).fit(chunks(40))
    spreads = [float(codebook.codewords.std()) for codebook in tokenizer.quantizer.codebooks]
    assert all(0.2 < later / earlier < 1.1 for earlier, later in pairwise(spreads))


def test_mixed_latents_have_the_same_mean_and_covariance():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(50, 3, generator=generator) @ torch.randn(3, 3, generator=generator) + 5
    more = mix_latents(latents, 50_000, generator)
    torch.testing.assert_close(more.mean(0), latents.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(more.T.cov(), latents.T.cov(correction=0), atol=0.1, rtol=0.05)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"n_quantizers": 0}, "n_quantizers must be at least 1, got 0"),
        ({"ema_decay": 1.5}, "ema_decay must be in 0 .. 1, got 1.5"),
        ({"strides": (4,)}, r"strides \(4,\)"),
        ({"widths": (16, 0, 128)}, r"widths \(16, 0, 128\)"),
    ],
)
def test_invalid_configs_are_rejected(bad, message):
    with pytest.raises(ConfigError, match=message):
        make_tokenizer("vqvla", **bad)
