"""Tokens by their codewords: near codewords mean nearly the same motion, and are rated alike."""

import torch
from torch import Tensor, nn

LEAST_WIDTH = 0.01  # of the mean squared distance
LEADS = 2.0  # of the nearest codeword over the second: the widest that a target may be


class CodewordHead(nn.Module):
    """Embeds tokens by their codewords and scores codewords by distance to a predicted latent."""

    def __init__(self, vectors: Tensor, dim: int, n_positions: int):
        super().__init__()
        self.register_buffer("vectors", vectors.clone())
        self.register_buffer("spread", vectors.std().clamp(min=1e-6))
        self.register_buffer("widths", torch.ones(n_positions))
        self.embed = nn.Linear(vectors.shape[1], dim)
        self.show = nn.Linear(vectors.shape[1], dim)
        self.predict = nn.Linear(dim, vectors.shape[1])
        nn.init.zeros_(self.predict.weight)
        nn.init.zeros_(self.predict.bias)
        self.log_sharpness = nn.Parameter(torch.zeros(n_positions))

    def fit(self, latents: Tensor, tokens: Tensor, legal: Tensor) -> None:
        """Widths per position from latents `[N, L, E]`, their tokens `[N, L]`, legal `[N, L, V]`.

        The mean squared distance to the codewords, or twice the lead of the nearest over the
        second, if that is less: of many dimensions one token names little, all codewords are
        about as far, and a target as wide as that would tell nothing.
        """
        distances = (latents - self.vectors[tokens]).square().sum(-1)  # [N, L]
        closeness = self._closeness(latents).masked_fill(~legal, -torch.inf)
        best = closeness.topk(min(2, closeness.shape[-1])).values
        lead = (best[..., 0] - best[..., -1]).clamp(max=2 * distances.max()).mean(0)
        mean = distances.mean(0)  # codewords that stand twice have no lead
        widths = torch.minimum(mean, torch.maximum(LEADS * lead, LEAST_WIDTH * mean))
        self.widths.copy_(widths.clamp(min=1e-8))

    def embedding(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, k]` -> `[B, k, dim]`."""
        return self.embed(self.vectors[tokens] / self.spread)

    def hint(self, latents: Tensor) -> Tensor:
        """A plan's latents `[B, k, E]` -> `[B, k, dim]`."""
        return self.show(latents / self.spread)

    def logits(self, hidden: Tensor, planned: Tensor, first: int) -> Tensor:
        """Hidden `[B, k, dim]` and the plan's latents `[B, k, E]` at positions first..

        -> `[B, k, V]`.
        """
        span = slice(first, first + hidden.shape[1])
        sharpness = self.log_sharpness[span].exp() / self.widths[span]
        latents = planned + self.predict(hidden) * self.spread
        return self._closeness(latents) * sharpness[:, None]

    def targets(self, latents: Tensor, softness: float, legal: Tensor) -> Tensor:
        """Latents `[B, L, E]` -> distribution over tokens `[B, L, V]`, zero where not legal."""
        closeness = self._closeness(latents) / (softness * self.widths[:, None])
        return closeness.masked_fill(~legal, -torch.inf).softmax(-1)

    def _closeness(self, points: Tensor) -> Tensor:
        return 2 * points @ self.vectors.T - self.vectors.square().sum(1)  # -|p - e|^2 + |p|^2
