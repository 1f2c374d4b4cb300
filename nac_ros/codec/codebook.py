"""A codebook that follows what is assigned to it, and the search for the nearest codeword."""

from math import pi

import torch
from torch import Tensor, nn

KMEANS_ITERATIONS = 10
ROWS = 2048  # distances at once: their matrix stays in the cache
LEAST = 1e-6  # of a count that something is divided by
MIXED = pi / 4  # [rad] at most, from one latent towards another


class EmaCodebook(nn.Module):
    """`size` codewords `[K, E]`, each the slow mean of the latents assigned to it."""

    def __init__(self, size: int, dim: int, decay: float, revive_below: float):
        super().__init__()
        self.decay, self.revive_below = decay, revive_below
        self.register_buffer("codewords", torch.randn(size, dim) * 0.1)
        self.register_buffer("counts", torch.ones(size))

    def nearest(self, latents: Tensor) -> Tensor:
        """Index of the nearest codeword (L2) for latents `[N, E]`: int64 `[N]`."""
        return nearest(latents, self.codewords)

    @torch.no_grad()
    def initialise(self, latents: Tensor, generator: torch.Generator) -> None:
        """k-means on latents `[N, E]`."""
        size = len(self.codewords)
        means = _sample(latents, size, generator)
        means = means + 1e-4 * latents.std() * torch.randn(means.shape, generator=generator)
        for _ in range(KMEANS_ITERATIONS):
            assigned = nearest(latents, means)
            counts, sums = accumulate(latents, assigned, size)
            empty = counts == 0
            means = sums / counts.clamp(min=1)[:, None]
            means[empty] = _sample(latents, size, generator)[empty]
        self.codewords.copy_(means)
        self.counts.fill_(1.0)

    @torch.no_grad()
    def update(self, latents: Tensor, assigned: Tensor) -> None:
        """One EMA step on latents `[N, E]`; codewords that hardly live restart on a latent."""
        counts, errors = accumulate(
            latents - self.codewords[assigned], assigned, len(self.codewords)
        )
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        heard = self.counts.clamp(min=LEAST)
        self.codewords.add_(errors / heard[:, None], alpha=1 - self.decay)
        dead = self.counts < self.revive_below
        if len(latents) and dead.any():
            self.codewords[dead] = _sample(latents, len(dead), None)[dead]
            self.counts[dead] = 4 * self.revive_below


def nearest(latents: Tensor, codewords: Tensor) -> Tensor:
    """Index of the codeword nearest (L2) to each of `[N, E]` among `[K, E]`: int64 `[N]`."""
    lengths, across = codewords.square().sum(1), codewords.T

    def among(rows: Tensor) -> Tensor:
        return torch.addmm(lengths, rows, across, alpha=-2).argmin(1)

    if torch.compiler.is_exporting():
        return among(latents)  # a loop would fix the batch
    return torch.cat([among(rows) for rows in latents.split(ROWS)])


def accumulate(latents: Tensor, assigned: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """How many of `[N, E]` went to each of `size` codewords `[K]`, and their sums `[K, E]`."""
    counts = torch.bincount(assigned, minlength=size).to(latents.dtype)
    sums = latents.new_zeros(size, latents.shape[1]).index_add_(0, assigned, latents)
    return counts, sums


def mixed(latents: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """`n` new latents with the mean and covariance of `[N, E]`: some turned towards others.

    k-means of twelve tokens on the same few thousand would leave the later ones nothing to name.
    """
    mean = latents.mean(0)
    first, second = (latents - mean)[torch.randint(len(latents), (2, n), generator=generator)]
    angle = MIXED * torch.rand(n, 1, generator=generator)
    return mean + angle.cos() * first + angle.sin() * second


def _sample(latents: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    if len(latents) >= n:
        return latents[torch.randperm(len(latents), generator=generator)[:n]]
    return latents[torch.randint(len(latents), (n,), generator=generator)]
