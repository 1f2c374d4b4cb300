"""The linear path: dealt out to tokens by water-filling, begun where principal components are."""

import math

import pytest
import torch

from nac_ros.codec.model import Codec, CodecConfig
from nac_ros.codec.search import refine
from nac_ros.codec.transform import DensePath, deal, water_level

TINY = {"n_filters": 4, "latent_dim": 24, "codebook_size": 64, "decoder_dim": 32, "lstm": False}
TINY |= {"decoder_hidden": 64, "decoder_blocks": 1, "norm_ids": 0, "transform": "klt"}


def low_rank(n=600, horizon=32, dim=7, rank=6):
    """Chunks `[n, H, D]` of a few components of falling weight."""
    generator = torch.Generator().manual_seed(0)
    shapes = torch.linalg.qr(torch.randn(horizon * dim, rank, generator=generator)).Q
    weights = torch.randn(n, rank, generator=generator) * 3.0 ** -torch.arange(rank)
    return (weights @ shapes.T + 0.3).view(n, horizon, dim)


def test_water_filling_spends_exactly_its_bits():
    variances = [4.0, 1.0, 0.5, 0.01]
    level = water_level(variances, 6.0)
    spent = sum(0.5 * math.log2(v / level) for v in variances if v > level)
    assert spent == pytest.approx(6.0, abs=1e-6)
    assert water_level(variances, 12.0) < level


def test_every_component_is_dealt_once_and_the_heaviest_come_first():
    variances = [2.0 ** -(k / 2) for k in range(60)]
    coarse, fine = deal(variances, (2, 1), 8, 10.0)
    assert (len(coarse), len(fine)) == (4, 8)
    heavy, light = (sorted(k for group in stage for k in group) for stage in (coarse, fine))
    assert heavy == list(range(len(heavy))) and light[0] == len(heavy)
    assert light == list(range(light[0], light[-1] + 1))
    level = water_level(variances, 120.0)
    asked = [sum(0.5 * math.log2(variances[k] / level) for k in group) for group in fine]
    assert max(asked) - min(asked) < 2.0


def test_without_quantization_the_path_gives_back_what_it_was_fitted_to():
    chunks = low_rank()
    path = DensePath(32, 7, 24, 8, hidden=16)
    ends = path.begin(chunks, torch.ones(7), (2, 1), 10.0)
    assert 0 < ends[0] <= ends[1] <= 24
    latent = path.encode(chunks)
    path.fit_synthesis(latent, chunks)
    assert latent.shape == (600, 24, 8)
    assert (path.decode(latent) - chunks).square().mean() < 1e-4 * chunks.var()


def test_a_dimension_that_counts_more_is_kept_better():
    chunks = torch.randn(800, 8, 2, generator=torch.Generator().manual_seed(0))
    errors = []
    for metric in (torch.tensor([1.0, 1.0]), torch.tensor([25.0, 1.0])):
        codec = Codec(CodecConfig(horizon=8, action_dim=2, ratios=(2,), **TINY)).eval()
        codec.begin(chunks, metric, 0)
        error = (
            codec.path.decode(
                codec.quantizer.dequantize(codec.quantizer.codes(codec.path.encode(chunks)))
            )
            - chunks
        )
        errors.append(error.square().mean((0, 1)))
    assert errors[1][0] < 0.8 * errors[0][0]


@pytest.mark.parametrize("layout", ["flat", "channels"])
def test_a_codec_that_begins_there_knows_chunks_before_it_is_trained(layout):
    torch.manual_seed(0)
    chunks, errors = low_rank(), {}
    ratios = (7, 4) if layout == "flat" else (2, 2)
    for transform in ("none", "klt"):
        settings = {**TINY, "transform": transform, "layout": layout, "ratios": ratios}
        codec = Codec(CodecConfig(**settings)).eval()
        codec.begin(chunks, torch.ones(7), 0)
        with torch.no_grad():
            made = codec.decode(codec.encode(chunks))
        errors[transform] = float((made - chunks).square().mean())
    assert errors["klt"] < 0.05 * chunks.var() < errors["none"]


@pytest.mark.parametrize(("horizon", "dim"), [(32, 7), (30, 6), (50, 14), (5, 3), (1, 1)])
def test_channels_of_any_horizon_and_dimension_keep_their_shape(horizon, dim):
    settings = {**TINY, "layout": "channels", "ratios": (2, 2)}
    codec = Codec(CodecConfig(horizon=horizon, action_dim=dim, **settings)).eval()
    codes = codec.encode(torch.randn(2, horizon, dim))
    assert [len(c[0]) for c in codes] == list(codec.config.tokens_per_scale)
    assert codec.decode(codes).shape == (2, horizon, dim)


def test_dropping_the_later_stage_teaches_the_first_to_stand_alone():
    codec = Codec(CodecConfig(**{**TINY, "stage_dropout": 0.5})).train()
    chunks = low_rank(64)
    codec.begin(chunks, torch.ones(7), 0)
    quantizer, latent = codec.quantizer.eval(), codec.latent(chunks)
    torch.manual_seed(0)
    total = quantizer(latent, dropout=0.5).latent
    coarse = quantizer.dequantize(quantizer(latent).codes[:1])
    alone = (total - coarse).abs().amax((1, 2)) < 1e-5
    assert 0.2 < alone.float().mean() < 0.8


def test_a_share_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"stage_dropout 1\.0"):
        CodecConfig(stage_dropout=1.0)


def test_exchanging_codes_one_by_one_never_comes_out_farther():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(16, 20, generator=generator) for _ in range(5)]
    wanted = torch.randn(40, 20, generator=generator)
    codes = torch.randint(16, (40, 5), generator=generator)

    def error(chosen):
        made = sum(part[code] for part, code in zip(parts, chosen.unbind(1)))
        return (wanted - made).square().sum(1)

    once, often = refine(wanted, codes, parts, 1), refine(wanted, codes, parts, 4)
    assert (error(once) <= error(codes) + 1e-4).all() and error(once).sum() < error(codes).sum()
    assert (error(often) <= error(once) + 1e-4).all()


def test_a_searched_code_decodes_nearer_than_the_nearest():
    torch.manual_seed(0)
    chunks, errors = low_rank(), {}
    for search in (0, 2):
        codec = Codec(CodecConfig(**{**TINY, "search": search})).eval()
        codec.begin(chunks, torch.ones(7), 0)
        with torch.no_grad():
            made = codec.decode(codec.encode(chunks))
        errors[search] = float((made - chunks).square().mean())
    assert errors[2] < 0.95 * errors[0]
