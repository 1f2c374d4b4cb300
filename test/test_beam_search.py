"""Beam search of the residual vector quantizer: never worse than the nearest codewords."""

from math import lcm

import pytest
import torch

from nac_ros.codec.quantizer import ResidualVectorQuantizer


def quantizer(scales, beam_width, size=16, dim=4):
    torch.manual_seed(0)
    made = ResidualVectorQuantizer(dim, size, scales, 0.99, 0.02, beam_width).eval()
    made.init_codebooks(torch.randn(400, dim, 12), seed=0)
    return made


def squared_error(made, latent):
    """`[B]`."""
    return (latent - made.dequantize(made.codes(latent))).square().sum((1, 2))


LATENT = torch.randn(300, 4, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scales", [(1,) * 6, (2, 1), (4, 2, 1), (3, 2), (1,)])
def test_beam_search_is_at_least_as_good_as_the_nearest_codewords(scales):
    beam, greedy = quantizer(scales, 8), quantizer(scales, 1)
    found, before = squared_error(beam, LATENT), squared_error(greedy, LATENT)
    assert (found <= before * (1 + 1e-5)).all()
    assert (found.mean() < 0.995 * before.mean()) == (len(scales) > 1)
    shapes = [tuple(codes.shape) for codes in beam.codes(LATENT)]
    assert shapes == [(300, 12 // scale) for scale in scales]


def test_a_wider_beam_is_better_on_average():
    errors = [squared_error(quantizer((1,) * 6, width), LATENT).mean() for width in (1, 2, 8)]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("scales", [(1,) * 6, (2, 1), (3, 2)])
def test_a_beam_of_one_takes_the_nearest_codewords(scales):
    made, size = quantizer(scales, 1), lcm(*scales)
    groups = LATENT.view(300, 4, 12 // size, size).transpose(1, 2).flatten(0, 1)
    codes = made._beam_search(groups, 1)[0].view(300, 12 // size, -1)
    lengths = [size // scale for scale in scales]
    for wanted, found in zip(made.codes(LATENT), codes.split(lengths, 2)):
        assert torch.equal(found.flatten(1), wanted)


def test_two_codes_are_found_exactly_where_every_pair_fits_the_beam():
    made = quantizer((1, 1), 16)
    first, second = (codebook.codewords for codebook in made.codebooks)
    pairs = (first[:, None] + second[None]).flatten(0, 1)  # [K * K, E]
    steps = LATENT[:50].transpose(1, 2).reshape(-1, 4)
    best = torch.cdist(steps, pairs).square().min(1).values
    found = squared_error(made, LATENT[:50])
    torch.testing.assert_close(found, best.view(50, 12).sum(1), rtol=1e-4, atol=1e-4)


def test_the_search_does_not_depend_on_the_batch():
    made = quantizer((4, 2, 1), 8)
    whole = made.codes(LATENT)
    for row in (0, 299):
        for codes, alone in zip(whole, made.codes(LATENT[row : row + 1])):
            assert torch.equal(codes[row : row + 1], alone)
