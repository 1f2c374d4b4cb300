"""Multi-scale residual vector quantizer with EMA codebooks (NAC section 3.2, SNAC 2410.14411)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nac_ros.codec.codebook import EmaCodebook


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

    def stage_latents(self, latent: Tensor, said: Sequence[Tensor] = ()) -> list[Tensor]:
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
