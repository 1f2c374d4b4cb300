"""Losses and discriminators: equal to references, and defined for chunks of any size."""

import numpy as np
import pytest
import torch
from scipy.fft import dct

from nac_ros.codec.discriminators import Discriminator, discriminator_loss, generator_loss
from nac_ros.codec.losses import KINDS, Magnitudes, ReconstructionLoss, dct_basis, mel_bands


def pair(horizon=32, dim=7):
    generator = torch.Generator().manual_seed(0)
    real = 0.1 * torch.randn(4, horizon, dim, generator=generator).cumsum(1)
    return real + 0.05 * torch.randn(real.shape, generator=generator), real


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("horizon", "dim"), [(32, 7), (30, 6), (50, 14), (5, 3)])
def test_a_loss_is_zero_for_equal_chunks_and_its_gradient_reduces_it(kind, horizon, dim):
    decoded, real = pair(horizon, dim)
    loss = ReconstructionLoss(kind, torch.ones(horizon), torch.ones(dim))
    assert float(loss(real, real)) == 0
    decoded = decoded.clone().requires_grad_()
    before = loss(decoded, real)
    (gradient,) = torch.autograd.grad(before, decoded)
    assert before > 0 and torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    nearer = decoded.detach() - 1e-3 * gradient / gradient.abs().max()
    assert loss(nearer, real) < before


def test_mse_and_l1_equal_those_of_torch_and_weight_steps():
    decoded, real = pair()
    ones = torch.ones(32)
    for kind, reference in (
        ("mse", torch.nn.functional.mse_loss),
        ("l1", torch.nn.functional.l1_loss),
    ):
        assert torch.isclose(
            ReconstructionLoss(kind, ones, torch.ones(7))(decoded, real), reference(decoded, real)
        )
    late = ones.clone()
    late[20:] = 0
    early = ReconstructionLoss("mse", late, torch.ones(7))(decoded, real)
    expected = (decoded - real)[:, :20].square().mean() * 20 / 32
    assert torch.isclose(early, expected)


def test_the_dct_basis_is_orthonormal():
    signal = np.random.default_rng(0).standard_normal((32, 3))
    ours = dct_basis(32).double().numpy() @ signal
    np.testing.assert_allclose(ours, dct(signal, axis=0, norm="ortho"), atol=1e-5)


def test_mel_bands_cover_the_spectrum_with_triangles():
    bands = mel_bands(64, 16)
    assert bands.shape == (16, 33) and (bands >= 0).all() and (bands <= 1).all()
    peaks = bands.argmax(1)[bands.sum(1) > 0]
    assert len(peaks) > 10 and (peaks.diff() >= 0).all()
    assert (bands.sum(0)[1:-1] > 0).all(), "a frequency between the ends is in no band"


def test_magnitudes_equal_those_of_torch_stft():
    _, real = pair()
    window = torch.hann_window(32)
    expected = torch.stft(real.flatten(1), 32, 8, window=window, return_complex=True).abs()
    assert torch.allclose(Magnitudes(32, mel=False)(real), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["dac", "mpd", "mrd"])
@pytest.mark.parametrize(("horizon", "dim"), [(32, 7), (5, 7), (50, 14)])
def test_discriminators_accept_chunks_of_any_size(kind, horizon, dim):
    fake, real = pair(horizon, dim)
    discriminator = Discriminator(kind, horizon * dim)
    features = [discriminator(chunk) for chunk in (real, fake.requires_grad_())]
    generator_loss(features[1]).backward()
    assert torch.isfinite(fake.grad).all() and fake.grad.abs().sum() > 0
    assert torch.isfinite(discriminator_loss(*features))


def test_a_signal_too_short_for_spectrograms_is_rejected_with_the_reason():
    with pytest.raises(ValueError, match="more than 16 samples"):
        Discriminator("mrd", 15)
    with pytest.raises(ValueError, match="known are: dac, mpd, mrd"):
        Discriminator("gan")
