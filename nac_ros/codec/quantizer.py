"""A codebook that follows what is assigned to it, and the search for the nearest codeword."""

from collections.abc import Sequence
from math import pi
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class Quantized(NamedTuple):
    """latent `[B, E, T']`, or `[B, E]` of whole chunks; codes int64 `[B, n]` per scale;
    commitment: scalar loss."""

    latent: Tensor
    codes: list[Tensor]
    commitment: Tensor


class MultiScaleQuantizer(nn.Module):
    """Stage s pools the residual by `scales[s]`, takes the nearest codeword, subtracts it."""

    def __init__(
        self, dim: int, codebook_size: int, scales: tuple[int, ...], decay: float, revive: float
    ):
        super().__init__()
        self.scales = scales
        self.codebooks = nn.ModuleList(
            EmaCodebook(codebook_size, dim, decay, revive) for _ in scales
        )

    def forward(self, latent: Tensor, dropout: float = 0.0) -> Quantized:
        """Latent `[B, E, T']`; in training mode the codebooks follow and the gradient passes.

        dropout: share of chunks whose latent is that of the first stage alone (SoundStream,
        2107.03312), so that a prefix decodes
        """
        residual, total = latent, torch.zeros_like(latent)
        codes, commitments = [], []
        kept = 1.0
        for codebook, scale in zip(self.codebooks, self.scales):
            pooled = pool(residual, scale)
            indices = codebook.nearest(_rows(pooled.detach()))
            chosen = _lookup(codebook.codewords, indices.view(latent.shape[0], -1))
            commitments.append(F.mse_loss(pooled, chosen))
            passed = upsample(pooled + (chosen - pooled).detach(), scale)
            residual, total = residual - passed, total + kept * passed
            if dropout and len(codes) == 0:
                kept = (torch.rand(len(latent), 1, 1, device=latent.device) >= dropout).float()
            codes.append(indices.view(latent.shape[0], -1))
            if self.training:
                codebook.update(_rows(pooled.detach()), indices)
        return Quantized(total, codes, torch.stack(commitments).mean())

    @torch.no_grad()
    def initialise(self, latent: Tensor, seed: int) -> None:
        """k-means for every stage, each on what the stages before leave of `[B, E, T']`."""
        generator = torch.Generator().manual_seed(seed)
        residual = latent
        for codebook, scale in zip(self.codebooks, self.scales):
            rows = _rows(pool(residual, scale))
            codebook.initialise(rows, generator)
            indices = codebook.nearest(rows).view(latent.shape[0], -1)
            residual = residual - upsample(_lookup(codebook.codewords, indices), scale)

    def residual_targets(self, latent: Tensor, said: Sequence[Tensor] = ()) -> list[Tensor]:
        """What each stage is asked to name: pooled residuals `[B, T'/scale, E]`, not quantized.

        said: codes `[B, T'/scale]` of the first stages, where others than the nearest were chosen;
            a stage that is not said to its end is left out
        """
        residual, wanted = latent, []
        for stage, (codebook, scale) in enumerate(zip(self.codebooks, self.scales)):
            pooled = pool(residual, scale)
            wanted.append(pooled.transpose(1, 2))
            if stage < len(said) and said[stage].shape[1] == pooled.shape[-1]:
                indices = said[stage]
            else:
                indices = codebook.nearest(_rows(pooled)).view(latent.shape[0], -1)
            residual = residual - upsample(_lookup(codebook.codewords, indices), scale)
        return wanted

    def codes(self, latent: Tensor) -> list[Tensor]:
        """Latent `[B, E, T']` -> nearest codes, int64 `[B, n]` per scale; nothing learns."""
        residual, codes = latent, []
        for codebook, scale in zip(self.codebooks, self.scales):
            indices = codebook.nearest(_rows(pool(residual, scale))).view(latent.shape[0], -1)
            residual = residual - upsample(_lookup(codebook.codewords, indices), scale)
            codes.append(indices)
        return codes

    def dequantize(self, codes: Sequence[Tensor]) -> Tensor:
        """Codes int64 `[B, T'/scale]` of all scales or the first -> latent `[B, E, T']`."""
        parts = [
            upsample(_lookup(codebook.codewords, indices), scale)
            for codebook, indices, scale in zip(self.codebooks, codes, self.scales)
        ]
        return torch.stack(parts).sum(0)


def pool(x: Tensor, scale: int) -> Tensor:
    """Means of `scale` neighbours along time, `[B, E, T']` -> `[B, E, T'/scale]`."""
    return F.avg_pool1d(x, scale) if scale > 1 else x


def upsample(x: Tensor, scale: int) -> Tensor:
    """Repeats each step `scale` times, `[B, E, n]` -> `[B, E, n * scale]`."""
    return x.repeat_interleave(scale, dim=-1) if scale > 1 else x


def _rows(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(-1, x.shape[1])  # [B, E, n] -> [B * n, E]


def _lookup(codewords: Tensor, indices: Tensor) -> Tensor:
    return F.embedding(indices, codewords).transpose(1, 2)  # [B, n] -> [B, E, n]
