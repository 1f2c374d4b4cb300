"""Linear path: initialized by PCA of the weighted chunks."""

import torch

from nac_ros.codec.linear_path import LinearPath


def low_rank(n=600, horizon=32, dim=7, rank=6):
    """Chunks `[n, H, D]` of a few components with falling variance."""
    generator = torch.Generator().manual_seed(0)
    shapes = torch.linalg.qr(torch.randn(horizon * dim, rank, generator=generator)).Q
    weights = torch.randn(n, rank, generator=generator) * 3.0 ** -torch.arange(rank)
    return (weights @ shapes.T + 0.3).view(n, horizon, dim)


def test_without_quantization_the_path_reconstructs_the_chunks_it_was_fitted_to():
    chunks = low_rank()
    path = LinearPath(32, 7, 24, encoder_hidden=16, decoder_hidden=16)
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
