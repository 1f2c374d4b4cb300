"""Linear path: initialized by PCA of the weighted chunks; and rejected codec configs."""

import pytest
import torch

from nac_ros.codec.config import CodecConfig
from nac_ros.codec.linear_path import LinearPath
from nac_ros.codec.model import Codec

TINY = {"n_filters": 4, "latent_dim": 24, "codebook_size": 64, "decoder_dim": 32, "lstm": False}
TINY |= {"decoder_hidden": 64, "decoder_blocks": 1, "norm_ids": 0, "chunk_latent_dim": 24}
ROTATED = {**TINY, "quantizer": "rotated"}


def low_rank(n=600, horizon=32, dim=7, rank=6):
    """Chunks `[n, H, D]` of a few components with falling variance."""
    generator = torch.Generator().manual_seed(0)
    shapes = torch.linalg.qr(torch.randn(horizon * dim, rank, generator=generator)).Q
    weights = torch.randn(n, rank, generator=generator) * 3.0 ** -torch.arange(rank)
    return (weights @ shapes.T + 0.3).view(n, horizon, dim)


def test_without_quantization_the_path_reconstructs_the_chunks_it_was_fitted_to():
    chunks = low_rank()
    path = LinearPath(32, 7, 24, hidden=16)
    path.init_from_pca(chunks, torch.ones(7))
    latent = path.encode(chunks)
    path.fit_synthesis(latent, chunks)
    assert latent.shape == (600, 24)
    assert (path.decode(latent) - chunks).square().mean() < 1e-4 * chunks.var()


def test_latent_distances_equal_weighted_errors():
    mse_weights = torch.tensor([1.0, 4.0, 0.25])
    chunks = torch.randn(200, 8, 3, generator=torch.Generator().manual_seed(0))
    path = LinearPath(8, 3, 24)
    path.init_from_pca(chunks, mse_weights)
    difference = path.encode(chunks[:1]) - path.encode(chunks[1:2])
    expected = ((chunks[0] - chunks[1]).square() * mse_weights).sum()
    assert torch.allclose(difference.square().sum(), expected, rtol=1e-3)


def test_a_dimension_with_a_larger_weight_has_a_smaller_error():
    chunks = torch.randn(800, 8, 2, generator=torch.Generator().manual_seed(0))
    errors = []
    for mse_weights in (torch.tensor([1.0, 1.0]), torch.tensor([25.0, 1.0])):
        codec = Codec(CodecConfig(horizon=8, action_dim=2, ratios=(2,), **ROTATED)).eval()
        codec.init_from_data(chunks, mse_weights, 0)
        with torch.no_grad():
            error = codec.decode(codec.encode(chunks)) - chunks
        errors.append(error.square().mean((0, 1)))
    assert errors[1][0] < 0.8 * errors[0][0]


@pytest.mark.parametrize("layout", ["flat", "channels"])
def test_a_codec_with_a_linear_path_reconstructs_chunks_before_training(layout):
    torch.manual_seed(0)
    chunks, errors = low_rank(), {}
    ratios = (7, 4) if layout == "flat" else (2, 2)
    for quantizer in ("multi_scale", "rotated"):
        settings = {**TINY, "quantizer": quantizer, "layout": layout, "ratios": ratios}
        codec = Codec(CodecConfig(**settings)).eval()
        codec.init_from_data(chunks, torch.ones(7), 0)
        with torch.no_grad():
            decoded = codec.decode(codec.encode(chunks))
        errors[quantizer] = float((decoded - chunks).square().mean())
    assert errors["rotated"] < 0.05 * chunks.var() < errors["multi_scale"]


@pytest.mark.parametrize(("horizon", "dim"), [(32, 7), (30, 6), (50, 14), (5, 3), (1, 1)])
@pytest.mark.parametrize("quantizer", ["multi_scale", "rotated"])
def test_layout_channels_keeps_the_shape_of_any_chunk(horizon, dim, quantizer):
    settings = {**TINY, "layout": "channels", "ratios": (2, 2), "quantizer": quantizer}
    codec = Codec(CodecConfig(horizon=horizon, action_dim=dim, **settings)).eval()
    chunks = torch.randn(40, horizon, dim)
    codec.init_from_data(chunks, torch.ones(dim), 0)
    codes = codec.encode(chunks[:2])
    assert [len(c[0]) for c in codes] == list(codec.config.tokens_per_scale)
    decoded = codec.decode(codes)
    assert decoded.shape == (2, horizon, dim) and torch.isfinite(decoded).all()


def test_gradients_reach_the_networks_and_the_linear_path():
    codec = Codec(CodecConfig(**ROTATED, path_hidden=16)).train()
    chunks = low_rank(64)
    codec.init_from_data(chunks, torch.ones(7), 0)
    decoded, quantized = codec(chunks)
    ((decoded - chunks).square().mean() + quantized.commitment).backward()
    assert all(parameter.grad is not None for parameter in codec.parameters())
    for part in (
        codec.encoder,
        codec.decoder,
        codec.linear_path,
        codec.join_steps,
        codec.divide_steps,
    ):
        assert sum(float(p.grad.abs().sum()) for p in part.parameters()) > 0


def test_prefix_dropout_decodes_some_chunks_from_the_first_stage_alone():
    codec = Codec(CodecConfig(**{**TINY, "prefix_dropout": 0.5})).train()
    chunks = low_rank(64)
    codec.init_from_data(chunks, torch.ones(7), 0)
    quantizer, latent = codec.quantizer.eval(), codec.latent(chunks)
    torch.manual_seed(0)
    total = quantizer(latent, dropout=0.5).latent
    coarse = quantizer.dequantize(quantizer(latent).codes[:1])
    is_prefix = (total - coarse).abs().amax((1, 2)) < 1e-5
    assert 0.2 < is_prefix.float().mean() < 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prefix_dropout": 1.0}, r"prefix_dropout 1\.0"),
        ({"beam_width": 4}, "beam_width 4 .* need quantizer rotated.* set them to 1 and 0"),
        ({"path_hidden": 4}, "path_hidden 4 need quantizer rotated"),
        ({"path_hidden": -1, "quantizer": "rotated"}, "path_hidden must be at least 0, got -1"),
        ({"beam_width": 0, "quantizer": "rotated"}, "beam_width must be at least 1"),
        ({"chunk_latent_dim": 0}, "chunk_latent_dim must be at least 1"),
    ],
)
def test_invalid_configs_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        CodecConfig(**settings)
