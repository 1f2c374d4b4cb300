"""Tokens that name a chunk in turns over shared codebooks: learned, searched, cut short."""

from itertools import pairwise

import pytest
import torch

from nac_ros.codec.rotated_quantizer import RotatedResidualQuantizer


def latents(n=2000, dim=12, seed=0):
    """Gaussian latents `[n, dim]` whose channels fall in weight."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator) * 1.3 ** -torch.arange(dim)


def begun(beam=1, n=2000):
    torch.manual_seed(0)
    quantizer = RotatedResidualQuantizer(12, 64, (2, 4), 0.97, 0.02, beam).eval()
    quantizer.init_codebooks(latents(n), 0)
    return quantizer


def error(quantizer, rows):
    return (quantizer.dequantize(quantizer.codes(rows)) - rows).square().sum(1)


def test_codes_come_by_stage_and_decode_to_the_sum_of_their_parts():
    quantizer, rows = begun(), latents(9, seed=1)
    codes = quantizer.codes(rows)
    assert [tuple(c.shape) for c in codes] == [(9, 2), (9, 4)]
    assert all(c.dtype == torch.int64 and c.min() >= 0 and c.max() < 64 for c in codes)
    made = torch.zeros_like(rows)
    for k, code in enumerate(torch.cat(codes, 1).unbind(1)):
        words = quantizer.codebooks[quantizer.stages[k]].codewords[code]
        made += quantizer.gains[k] * words @ quantizer.rotations[k]
    assert torch.allclose(quantizer.dequantize(codes), made, atol=1e-5)
    assert torch.allclose(quantizer(rows).latent, made, atol=1e-5)


def test_each_token_makes_up_for_what_those_before_left():
    quantizer, rows = begun(), latents(300, seed=1)
    codes, lefts = torch.cat(quantizer.codes(rows), 1), []
    for k in range(1, 7):
        part = [codes[:, :2], codes[:, 2:k]] if k > 2 else [codes[:, :k]]
        lefts.append(float((quantizer.dequantize(part) - rows).square().mean()))
    assert all(later < 0.9 * earlier for earlier, later in pairwise(lefts))


def test_a_beam_comes_nearer_than_the_nearest_codewords():
    rows = latents(300, seed=1)
    greedy, searched = error(begun(1), rows), error(begun(8), rows)
    assert searched.mean() < 0.9 * greedy.mean()
    assert (searched <= greedy + 1e-5).float().mean() > 0.95


def test_a_beam_wider_than_the_codebook_is_an_exhaustive_search_of_pairs():
    torch.manual_seed(0)
    quantizer = RotatedResidualQuantizer(3, 4, (2,), 0.97, 0.0, beam_width=16).eval()
    quantizer.init_codebooks(latents(200, 3), 0)
    rows = latents(50, 3, seed=1)
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    all_made = quantizer.dequantize([pairs])  # [16, 3]
    best = torch.cdist(rows, all_made).min(1).values.square()
    assert torch.allclose(error(quantizer, rows), best, atol=1e-5)


def test_training_moves_codewords_and_turns_to_less_error_on_new_latents():
    quantizer, rows, fresh = begun(), latents(4000, seed=2), latents(500, seed=3)
    before = float(error(quantizer, fresh).mean())
    quantizer.train()
    for step in range(300):
        quantizer(rows[(step * 64) % 3900 :][:64])
    quantizer.eval()
    assert float(error(quantizer, fresh).mean()) < 0.9 * before
    identity = torch.eye(12).expand(6, -1, -1)
    assert (quantizer.rotations - identity).abs().amax((1, 2)).min() > 0.05
    assert torch.allclose(quantizer.rotations @ quantizer.rotations.mT, identity, atol=1e-4)
    assert (quantizer.gains > 0).all()


def test_what_is_named_is_nearest_in_the_turn_of_each_token():
    quantizer, rows = begun(), latents(40, seed=1)
    codes = quantizer.codes(rows)
    for book, wanted, code in zip(quantizer.codebooks, quantizer.residual_targets(rows), codes):
        assert torch.equal(book.nearest(wanted.flatten(0, 1)).view_as(code), code)
    other = [codes[0].roll(1, 0), codes[1][:, :1]]
    wanted = torch.cat(quantizer.residual_targets(rows, other), 1)
    left = rows - quantizer.dequantize(other)
    turned = left @ quantizer.rotations[3].T / quantizer.gains[3]
    assert torch.allclose(wanted[:, 3], turned, atol=1e-4)


def test_gradients_pass_whole_chunks_alone_and_prefixes_are_drawn_in_training_alone():
    quantizer, rows = begun().train(), latents(400, seed=1).requires_grad_()
    torch.manual_seed(0)
    made = quantizer(rows, dropout=0.5).latent
    made.sum().backward()
    passed = rows.grad.abs().sum(1) > 0
    assert 0.35 < passed.float().mean() < 0.65
    whole = quantizer.eval()(rows, dropout=0.5).latent
    assert torch.allclose(whole, quantizer.dequantize(quantizer.codes(rows)), atol=1e-5)


def test_training_in_prefixes_makes_prefixes_better():
    errors = {}
    for dropout in (0.0, 0.5):
        quantizer, rows = begun().train(), latents(4000, seed=2)
        torch.manual_seed(0)
        for step in range(200):
            quantizer(rows[(step * 64) % 3900 :][:64], dropout)
        fresh = latents(500, seed=3)
        coarse = quantizer.eval().dequantize(quantizer.codes(fresh)[:1])
        errors[dropout] = float((coarse - fresh).square().mean())
    assert errors[0.5] < errors[0.0]


@pytest.mark.parametrize("n", [3, 64])
def test_fewer_latents_than_codewords_still_begin(n):
    quantizer = begun(n=n)
    made = quantizer.dequantize(quantizer.codes(latents(n)))
    assert torch.isfinite(made).all()
    assert (made - latents(n)).square().mean() < 0.05


def test_one_token_alone_is_never_dropped_and_a_batch_may_hold_prefixes_only():
    torch.manual_seed(0)
    alone = RotatedResidualQuantizer(12, 64, (1,), 0.97, 0.02)
    alone.init_codebooks(latents(), 0)
    alone.train()(latents(4), dropout=0.9)
    quantizer = begun().train()
    for book in quantizer.codebooks:
        book.counts.zero_()  # all of them wait for a latent to restart on
    for row in latents(60, seed=1):
        quantizer(row[None], dropout=0.9)
    assert all(torch.isfinite(book.codewords).all() for book in quantizer.codebooks)


def test_latents_that_never_differ_leave_everything_finite():
    torch.manual_seed(0)
    quantizer = RotatedResidualQuantizer(4, 8, (1, 2), 0.97, 0.02)
    quantizer.init_codebooks(torch.zeros(50, 4), 0)
    quantizer.train()
    for _ in range(25):
        made = quantizer(torch.zeros(6, 4)).latent
    assert torch.isfinite(made).all() and made.abs().max() < 1e-3
    assert torch.isfinite(quantizer.eval()(torch.ones(2, 4)).latent).all()
