"""OAT: properties beyond the contracts of test_tokenizers.py."""

import numpy as np
import pytest
import torch

from nac_ros.core.errors import ConfigError
from nac_ros.export.onnx import TOLERANCE, export_detokenizer, export_tokenizer, max_onnx_error
from nac_ros.export.onnx_session import OnnxDetokenizer, OnnxTokenizer
from nac_ros.tokenizers import make_tokenizer
from nac_ros.tokenizers.oat import Fsq

TINY = {"width": 32, "n_heads": 2, "encoder_layers": 1, "decoder_layers": 1}


def chunks(n=300, horizon=32, dim=7, seed=0):
    """Random walks `[n, horizon, dim]` like joints in motion."""
    steps = np.random.default_rng(seed).standard_normal((n, horizon, dim))
    return (0.02 * steps.cumsum(1)).astype(np.float32)


def waves(n=300):
    """Sines `[n, 32, 7]` of random phase and amplitude in every column."""
    generator = np.random.default_rng(0)
    phase, amplitude = generator.uniform(0, 6, (n, 1, 7)), generator.uniform(0.2, 1, (n, 1, 7))
    return (amplitude * np.sin(phase + np.linspace(0, 3, 32)[None, :, None])).astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    """A tiny tokenizer after seconds of training with nested dropout."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = make_tokenizer("oat", **TINY).fit(waves())
    normalized = tokenizer.normalize(waves())
    optimizer = torch.optim.Adam(tokenizer.parameters(), 3e-3)
    tokenizer.train()
    for _ in range(250):
        real = normalized[torch.randint(len(normalized), (64,))]
        decoded, _ = tokenizer.training_step(real)
        optimizer.zero_grad()
        (decoded - real).square().mean().backward()
        optimizer.step()
    return tokenizer.eval()


def test_the_presets_have_the_size_of_the_paper_and_of_the_other_small_tokenizers():
    assert make_tokenizer("oat", "paper").params_m == pytest.approx(65.2, abs=0.1)
    small, nac = make_tokenizer("oat"), make_tokenizer("nac")
    assert small.params_m == pytest.approx(nac.params_m, rel=0.1)
    assert small.vocab_size == 1000 and small.grammar.max_tokens == 12
    assert small.bits == pytest.approx(119.6, abs=0.05)


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (3, 4), (7,)])
def test_every_grid_point_is_quantized_to_itself(levels):
    fsq = Fsq(levels)
    assert len(fsq.grid) == np.prod(levels) == len(fsq.grid.unique(dim=0))
    assert torch.equal(fsq.tokens(fsq.grid), torch.arange(len(fsq.grid)))
    assert torch.allclose(fsq.round(fsq.grid), fsq.grid)
    assert [len(column.unique()) for column in fsq.grid.T] == list(levels)


def test_bounded_numbers_reach_all_levels_and_no_others():
    fsq = Fsq((8, 5))
    bounded = fsq.bound(torch.linspace(-9, 9, 4001)[:, None].expand(-1, 2))
    tokens = fsq.tokens(bounded)
    assert (tokens >= 0).all() and (tokens < 40).all()
    values = fsq.round(bounded)
    assert [len(column.unique()) for column in values.T] == [8, 5]
    assert torch.allclose(fsq.bound(torch.zeros(2)), torch.zeros(2), atol=1e-6)


def test_rounding_passes_gradients_straight_through():
    x = torch.randn(6, 4, requires_grad=True)
    Fsq((8, 5, 5, 5)).round(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(6, 4))


def test_a_register_does_not_depend_on_later_ones():
    tokenizer = make_tokenizer("oat", **TINY)
    with torch.no_grad():
        before = tokenizer.encoder(torch.zeros(1, 32, 7))
        tokenizer.encoder.registers[5:] += torch.randn(7, 32)
        after = tokenizer.encoder(torch.zeros(1, 32, 7))
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-3)


def test_nested_dropout_keeps_every_number_of_first_registers_equally_often():
    kept = make_tokenizer("oat", **TINY)._random_prefixes(torch.zeros(6000, 12, 4))
    assert torch.equal(kept, kept.cummin(1).values) and kept[:, 0].all()
    shares = torch.bincount(kept.sum(1), minlength=13)[1:] / 6000
    assert torch.allclose(shares, torch.full((12,), 1 / 12), atol=0.02)


def test_an_untrained_encoder_gives_different_latents_at_every_register():
    torch.manual_seed(0)
    tokenizer = make_tokenizer("oat").fit(waves())
    latents = tokenizer.latents(tokenizer.normalize(waves()))
    assert (latents.std(0) > 0.02).all()


def test_more_tokens_reduce_the_error(trained):
    real = torch.from_numpy(waves())
    tokens = trained.encode(real)
    errors = [
        float((trained.decode_prefix(tokens[:, :k]) - real).square().mean()) for k in (1, 4, 12)
    ]
    assert errors[0] > 1.2 * errors[1] > 1.2 * errors[2]
    assert trained.prefix_lengths == tuple(range(1, 12))


def test_onnx_runtime_encodes_and_decodes_as_torch(trained, tmp_path):
    export_detokenizer(trained, tmp_path / "decode.onnx")
    export_tokenizer(trained, tmp_path / "encode.onnx")
    assert max_onnx_error(trained, OnnxDetokenizer(tmp_path / "decode.onnx")) < TOLERANCE
    tokens = OnnxTokenizer(tmp_path / "encode.onnx")(waves(), waves()[:, 0])
    assert (tokens == trained.encode(waves()).numpy()).all(1).mean() > 0.98


@pytest.mark.parametrize(("horizon", "dim"), [(30, 6), (50, 14), (5, 3), (1, 1)])
def test_decoded_chunks_have_the_shape_of_encoded_ones(horizon, dim):
    tokenizer = make_tokenizer("oat", horizon=horizon, action_dim=dim, **TINY)
    some = chunks(20, horizon, dim)
    assert tokenizer.fit(some).decode(tokenizer.encode(some)).shape == some.shape


def test_invalid_sizes_are_rejected():
    with pytest.raises(ConfigError, match="width 30 must be a multiple of n_heads 4"):
        make_tokenizer("oat", width=30, n_heads=4)
    with pytest.raises(ConfigError, match=r"levels \(8, 2\)"):
        make_tokenizer("oat", levels=(8, 2))
