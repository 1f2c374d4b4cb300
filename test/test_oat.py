"""OAT: what is particular to it beyond the contracts of test_tokenizers.py."""

import numpy as np
import pytest
import torch

from nac_ros.core.errors import ConfigError
from nac_ros.export.onnx import (
    TOLERANCE,
    OnnxDetokenizer,
    OnnxTokenizer,
    export_detokenizer,
    export_tokenizer,
    parity,
)
from nac_ros.tokenizers import make_tokenizer
from nac_ros.tokenizers.oat import Fsq

TINY = {"width": 32, "n_heads": 2, "encoder_layers": 1, "decoder_layers": 1}


def chunks(n=300, horizon=32, dim=7, seed=0):
    """Random walks `[n, horizon, dim]` like joints in motion."""
    steps = np.random.default_rng(seed).standard_normal((n, horizon, dim))
    return (0.02 * steps.cumsum(1)).astype(np.float32)


def waves(n=300):
    """Sines `[n, 32, 7]` of random phase and height in every column."""
    generator = np.random.default_rng(0)
    phase, height = generator.uniform(0, 6, (n, 1, 7)), generator.uniform(0.2, 1, (n, 1, 7))
    return (height * np.sin(phase + np.linspace(0, 3, 32)[None, :, None])).astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    """A tiny one after seconds of training with nested dropout."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = make_tokenizer("oat", **TINY).fit(waves())
    normalised = tokenizer.normalize(waves())
    optimizer = torch.optim.Adam(tokenizer.parameters(), 3e-3)
    tokenizer.train()
    for _ in range(250):
        real = normalised[torch.randint(len(normalised), (64,))]
        made, _ = tokenizer.training_step(real)
        optimizer.zero_grad()
        (made - real).square().mean().backward()
        optimizer.step()
    return tokenizer.eval()


def test_its_sizes_are_those_of_the_paper_and_of_its_rivals():
    assert make_tokenizer("oat", "paper").params_m == pytest.approx(65.2, abs=0.1)
    small, nac = make_tokenizer("oat"), make_tokenizer("nac")
    assert small.params_m == pytest.approx(nac.params_m, rel=0.1)
    assert small.vocab_size == 1000 and small.grammar.max_tokens == 12
    assert small.bits == pytest.approx(119.6, abs=0.05)


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (3, 4), (7,)])
def test_every_code_of_the_grid_is_its_own_nearest(levels):
    fsq = Fsq(levels)
    assert len(fsq.grid) == np.prod(levels) == len(fsq.grid.unique(dim=0))
    assert torch.equal(fsq.tokens(fsq.grid), torch.arange(len(fsq.grid)))
    assert torch.allclose(fsq.round(fsq.grid), fsq.grid)
    assert [len(column.unique()) for column in fsq.grid.T] == list(levels)


def test_bounded_numbers_reach_all_levels_and_never_leave_them():
    fsq = Fsq((8, 5))
    bounded = fsq.bound(torch.linspace(-9, 9, 4001)[:, None].expand(-1, 2))
    tokens = fsq.tokens(bounded)
    assert (tokens >= 0).all() and (tokens < 40).all()
    values = fsq.round(bounded)
    assert [len(column.unique()) for column in values.T] == [8, 5]
    assert torch.allclose(fsq.bound(torch.zeros(2)), torch.zeros(2), atol=1e-6)


def test_rounding_passes_gradients_on():
    x = torch.randn(6, 4, requires_grad=True)
    Fsq((8, 5, 5, 5)).round(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(6, 4))


def test_a_register_knows_nothing_of_those_after_it():
    tokenizer = make_tokenizer("oat", **TINY)
    with torch.no_grad():
        before = tokenizer.encoder(torch.zeros(1, 32, 7))
        tokenizer.encoder.registers[5:] += torch.randn(7, 32)
        after = tokenizer.encoder(torch.zeros(1, 32, 7))
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-3)


def test_training_keeps_first_registers_of_every_number_alike():
    kept = make_tokenizer("oat", **TINY)._random_prefixes(torch.zeros(6000, 12, 4))
    assert torch.equal(kept, kept.cummin(1).values) and kept[:, 0].all()
    shares = torch.bincount(kept.sum(1), minlength=13)[1:] / 6000
    assert torch.allclose(shares, torch.full((12,), 1 / 12), atol=0.02)


def test_a_fresh_one_tells_chunks_apart_at_every_register():
    torch.manual_seed(0)
    tokenizer = make_tokenizer("oat").fit(waves())
    latents = tokenizer.latents(tokenizer.normalize(waves()))
    assert (latents.std(0) > 0.02).all()


def test_more_tokens_come_nearer_to_the_chunk(trained):
    real = torch.from_numpy(waves())
    tokens = trained.encode(real)
    errors = [
        float((trained.decode_prefix(tokens[:, :k]) - real).square().mean()) for k in (1, 4, 12)
    ]
    assert errors[0] > 1.2 * errors[1] > 1.2 * errors[2]
    assert trained.prefix_lengths == tuple(range(1, 12))


def test_onnx_runtime_encodes_and_decodes_like_torch(trained, tmp_path):
    export_detokenizer(trained, tmp_path / "decode.onnx")
    export_tokenizer(trained, tmp_path / "encode.onnx")
    assert parity(trained, OnnxDetokenizer(tmp_path / "decode.onnx")) < TOLERANCE
    tokens = OnnxTokenizer(tmp_path / "encode.onnx")(waves(), waves()[:, 0])
    assert (tokens == trained.encode(waves()).numpy()).all(1).mean() > 0.98


@pytest.mark.parametrize(("horizon", "dim"), [(30, 6), (50, 14), (5, 3), (1, 1)])
def test_any_horizon_and_dimension_keep_their_shape(horizon, dim):
    tokenizer = make_tokenizer("oat", horizon=horizon, action_dim=dim, **TINY)
    some = chunks(20, horizon, dim)
    assert tokenizer.fit(some).decode(tokenizer.encode(some)).shape == some.shape


def test_sizes_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="width 30 must be a multiple of n_heads 4"):
        make_tokenizer("oat", width=30, n_heads=4)
    with pytest.raises(ConfigError, match=r"levels \(8, 2\)"):
        make_tokenizer("oat", levels=(8, 2))
