"""rotated_rvq: no convolutions, starts at PCA, any number of tokens decodes."""

import numpy as np
import pytest
import torch
from torch import nn

from nac_ros.codec.seanet import SeanetEncoder
from nac_ros.codec.vocos import VocosDecoder
from nac_ros.core.errors import ConfigError
from nac_ros.tokenizers import make_tokenizer

TINY = {"latent_dim": 24, "encoder_hidden": 16, "decoder_hidden": 16, "codebook_size": 64}


def low_rank(n=600, horizon=32, dim=7, rank=6):
    """Chunks `[n, H, D]` of a few components with falling variance."""
    generator = torch.Generator().manual_seed(0)
    shapes = torch.linalg.qr(torch.randn(horizon * dim, rank, generator=generator)).Q
    weights = torch.randn(n, rank, generator=generator) * 3.0 ** -torch.arange(rank)
    return (weights @ shapes.T + 0.3).view(n, horizon, dim).numpy()


def test_it_has_the_bits_of_nac_and_neither_seanet_nor_vocos():
    made = make_tokenizer("rotated_rvq")
    assert made.bits == 120 and made.grammar.max_tokens == 12 and made.vocab_size == 2048
    convolutional = (SeanetEncoder, VocosDecoder, nn.Conv1d, nn.ConvTranspose1d, nn.LSTM)
    assert not any(isinstance(module, convolutional) for module in made.modules())
    parts = {name.partition(".")[0] for name, _ in made.named_parameters()}
    assert parts == {"path"}
    config = make_tokenizer("rotated_rvq", **TINY).config
    assert not hasattr(config, "n_filters") and not hasattr(config, "decoder_blocks")


def test_it_reconstructs_chunks_before_any_training():
    chunks = low_rank()
    tokenizer = make_tokenizer("rotated_rvq", **TINY).fit(chunks)
    decoded = tokenizer.decode(tokenizer.encode(chunks)).numpy()
    assert np.square(decoded - chunks).mean() < 0.05 * chunks.var()


def test_a_dimension_with_a_larger_weight_has_a_smaller_error():
    generator = np.random.default_rng(0)
    chunks = generator.uniform(-1, 1, (800, 8, 2)).astype(np.float32)
    state, errors = generator.uniform(-9, 9, (800, 2)).astype(np.float32), []
    for relative in ((True, False), (False, True)):
        # a relative column, whose absolute range is ten times larger, has a small weight
        actions = chunks + (state * np.float32(relative))[:, None]
        made = make_tokenizer("rotated_rvq", "small", 8, 2, relative=relative, **TINY)
        made.fit(actions, state)
        error = made.decode(made.encode(actions, state), state).numpy() - actions
        errors.append(np.square(error).mean((0, 1)))
    assert errors[0][1] < 0.8 * errors[1][1] and errors[1][0] < 0.8 * errors[0][0]


@pytest.mark.parametrize(("horizon", "dim"), [(32, 7), (30, 6), (50, 14), (5, 3), (1, 1)])
def test_chunks_of_any_shape_have_the_configured_tokens(horizon, dim):
    chunks = np.random.default_rng(0).standard_normal((80, horizon, dim)).astype(np.float32)
    made = make_tokenizer(
        "rotated_rvq", "small", horizon, dim, tokens_per_codebook=(2, 3), **TINY
    ).fit(chunks)
    tokens = made.encode(chunks[:2])
    assert tokens.shape == (2, 5)
    assert made.decode(tokens).shape == (2, horizon, dim)


def test_gradients_reach_both_matrices_and_both_perceptrons():
    made = make_tokenizer("rotated_rvq", **TINY).fit(low_rank()).train()
    chunks = made.normalize(low_rank(64))
    decoded, losses = made.training_step(chunks)
    ((decoded - chunks).square().mean() + losses["commitment"]).backward()
    path = made.path
    for part in (path.analysis, path.synthesis, path.analysis_mlp[-1], path.synthesis_mlp[-1]):
        assert sum(float(p.grad.abs().sum()) for p in part.parameters()) > 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prefix_dropout": 1.0}, r"prefix_dropout 1\.0 must be below 1"),
        ({"beam_width": 0}, "beam_width"),
        ({"encoder_hidden": -1}, "encoder_hidden"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"tokens_per_codebook": ()}, "tokens_per_codebook is empty"),
        ({"tokens_per_codebook": (4, 0)}, "tokens_per_codebook"),
        ({"layout": "flat"}, "layout"),
    ],
)
def test_invalid_configs_are_rejected(config, message):
    with pytest.raises(ConfigError, match=message):
        make_tokenizer("rotated_rvq", **config)
