"""Rotated residual quantizer: initialization, beam search, moving averages, prefixes."""

from itertools import pairwise

import pytest
import torch

from nac_ros.codec.rotated_quantizer import RotatedResidualQuantizer


def latents(n=2000, dim=12, seed=0):
    """Gaussian latents `[n, dim]` whose channels have falling variance."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator) * 1.3 ** -torch.arange(dim)


def initialized(beam_width=1, n=2000):
    torch.manual_seed(0)
    quantizer = RotatedResidualQuantizer(12, 64, (2, 4), 0.97, 0.02, beam_width).eval()
    quantizer.init_codebooks(latents(n), 0)
    return quantizer


def error(quantizer, rows):
    return (quantizer.dequantize(quantizer.codes(rows)) - rows).square().sum(1)


def test_codes_are_grouped_by_stage_and_decode_to_the_sum_of_their_contributions():
    quantizer, rows = initialized(), latents(9, seed=1)
    codes = quantizer.codes(rows)
    assert [tuple(c.shape) for c in codes] == [(9, 2), (9, 4)]
    assert all(c.dtype == torch.int64 and c.min() >= 0 and c.max() < 64 for c in codes)
    expected = torch.zeros_like(rows)
    for k, code in enumerate(torch.cat(codes, 1).unbind(1)):
        codewords = quantizer.codebooks[quantizer.stages[k]].codewords[code]
        expected += quantizer.gains[k] * codewords @ quantizer.rotations[k]
    assert torch.allclose(quantizer.dequantize(codes), expected, atol=1e-5)
    assert torch.allclose(quantizer(rows).latent, expected, atol=1e-5)


def test_each_token_reduces_the_error():
    quantizer, rows = initialized(), latents(300, seed=1)
    codes, errors = torch.cat(quantizer.codes(rows), 1), []
    for k in range(1, 7):
        prefix = [codes[:, :2], codes[:, 2:k]] if k > 2 else [codes[:, :k]]
        errors.append(float((quantizer.dequantize(prefix) - rows).square().mean()))
    assert all(later < 0.9 * earlier for earlier, later in pairwise(errors))


def test_beam_search_has_a_smaller_error_than_greedy_search():
    rows = latents(300, seed=1)
    greedy, searched = error(initialized(1), rows), error(initialized(8), rows)
    assert searched.mean() < 0.9 * greedy.mean()
    assert (searched <= greedy + 1e-5).float().mean() > 0.95


def test_a_beam_as_wide_as_all_pairs_is_an_exhaustive_search():
    torch.manual_seed(0)
    quantizer = RotatedResidualQuantizer(3, 4, (2,), 0.97, 0.0, beam_width=16).eval()
    quantizer.init_codebooks(latents(200, 3), 0)
    rows = latents(50, 3, seed=1)
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    candidates = quantizer.dequantize([pairs])  # [16, 3]
    best = torch.cdist(rows, candidates).min(1).values.square()
    assert torch.allclose(error(quantizer, rows), best, atol=1e-5)


def test_training_moves_codewords_and_rotations_and_reduces_the_error_on_new_latents():
    quantizer, rows, fresh = initialized(), latents(4000, seed=2), latents(500, seed=3)
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


def test_residual_targets_are_nearest_to_their_codes_in_the_codebook_frame():
    quantizer, rows = initialized(), latents(40, seed=1)
    codes = quantizer.codes(rows)
    for codebook, target, code in zip(
        quantizer.codebooks, quantizer.residual_targets(rows), codes
    ):
        assert torch.equal(codebook.nearest(target.flatten(0, 1)).view_as(code), code)
    other = [codes[0].roll(1, 0), codes[1][:, :1]]
    targets = torch.cat(quantizer.residual_targets(rows, other), 1)
    residual = rows - quantizer.dequantize(other)
    expected = residual @ quantizer.rotations[3].T / quantizer.gains[3]
    assert torch.allclose(targets[:, 3], expected, atol=1e-4)


def test_gradients_pass_for_complete_chunks_only_and_prefixes_are_drawn_in_training_only():
    quantizer, rows = initialized().train(), latents(400, seed=1).requires_grad_()
    torch.manual_seed(0)
    latent = quantizer(rows, dropout=0.5).latent
    latent.sum().backward()
    passed = rows.grad.abs().sum(1) > 0
    assert 0.35 < passed.float().mean() < 0.65
    complete = quantizer.eval()(rows, dropout=0.5).latent
    assert torch.allclose(complete, quantizer.dequantize(quantizer.codes(rows)), atol=1e-5)


def test_training_with_dropout_reduces_the_error_of_prefixes():
    errors = {}
    for dropout in (0.0, 0.5):
        quantizer, rows = initialized().train(), latents(4000, seed=2)
        torch.manual_seed(0)
        for step in range(200):
            quantizer(rows[(step * 64) % 3900 :][:64], dropout)
        fresh = latents(500, seed=3)
        coarse = quantizer.eval().dequantize(quantizer.codes(fresh)[:1])
        errors[dropout] = float((coarse - fresh).square().mean())
    assert errors[0.5] < errors[0.0]


@pytest.mark.parametrize("n", [3, 64])
def test_fewer_latents_than_codewords_suffice_for_initialization(n):
    quantizer = initialized(n=n)
    decoded = quantizer.dequantize(quantizer.codes(latents(n)))
    assert torch.isfinite(decoded).all()
    assert (decoded - latents(n)).square().mean() < 0.05


def test_a_single_token_is_never_dropped_and_a_batch_may_consist_of_prefixes():
    torch.manual_seed(0)
    single = RotatedResidualQuantizer(12, 64, (1,), 0.97, 0.02)
    single.init_codebooks(latents(), 0)
    single.train()(latents(4), dropout=0.9)
    quantizer = initialized().train()
    for codebook in quantizer.codebooks:
        codebook.counts.zero_()  # all codewords are dead
    for row in latents(60, seed=1):
        quantizer(row[None], dropout=0.9)
    assert all(torch.isfinite(codebook.codewords).all() for codebook in quantizer.codebooks)


def test_identical_latents_leave_all_values_finite():
    torch.manual_seed(0)
    quantizer = RotatedResidualQuantizer(4, 8, (1, 2), 0.97, 0.02)
    quantizer.init_codebooks(torch.zeros(50, 4), 0)
    quantizer.train()
    for _ in range(25):
        latent = quantizer(torch.zeros(6, 4)).latent
    assert torch.isfinite(latent).all() and latent.abs().max() < 1e-3
    assert torch.isfinite(quantizer.eval()(torch.ones(2, 4)).latent).all()
