"""Output head for tokens with codewords: logits and soft targets from codeword distances.

The logit of token v at position k is -sharpness_k |p - e_v|^2 for its codeword e_v and a predicted
latent p, and the training target is softened by the same distances. Codewords that describe nearly
the same motion then share what is learned about either.
"""

import torch
from torch import Tensor, nn

MIN_RELATIVE_WIDTH = 0.01  # of the mean squared distance
MAX_GAPS = 2.0  # widest target, in gaps between the nearest and the second nearest codeword


class CodewordHead(nn.Module):
    """Embeds tokens by their codewords `[V, E]` and scores codewords by distance to a latent."""

    def __init__(self, codewords: Tensor, dim: int, n_positions: int):
        super().__init__()
        self.register_buffer("codewords", codewords.clone())
        self.register_buffer("codeword_std", codewords.std().clamp(min=1e-6))
        self.register_buffer("target_widths", torch.ones(n_positions))
        self.token_projection = nn.Linear(codewords.shape[1], dim)
        self.plan_projection = nn.Linear(codewords.shape[1], dim)
        self.residual_projection = nn.Linear(dim, codewords.shape[1])
        nn.init.zeros_(self.residual_projection.weight)
        nn.init.zeros_(self.residual_projection.bias)
        self.log_sharpness = nn.Parameter(torch.zeros(n_positions))

    def fit(self, latents: Tensor, tokens: Tensor, legal: Tensor) -> None:
        """Sets the target width of each position from encoded training chunks.

        latents `[N, L, E]`, tokens `[N, L]`, legal bool `[N, L, V]`
        """
        distances = (latents - self.codewords[tokens]).square().sum(-1)  # [N, L]
        scores = self._scores(latents).masked_fill(~legal, -torch.inf)
        best = scores.topk(min(2, scores.shape[-1])).values
        gap = (best[..., 0] - best[..., -1]).clamp(max=2 * distances.max()).mean(0)
        mean = distances.mean(0)
        # The width is the mean squared distance to the chosen codeword, but at most MAX_GAPS gaps.
        # In a latent of many dimensions a single token explains little, so all codewords are about
        # equally far away, and a target of the mean distance would be nearly uniform. Duplicate
        # codewords have no gap, hence the lower bound.
        widths = torch.minimum(mean, torch.maximum(MAX_GAPS * gap, MIN_RELATIVE_WIDTH * mean))
        self.target_widths.copy_(widths.clamp(min=1e-8))

    def token_embedding(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, k]` -> `[B, k, dim]`."""
        return self.token_projection(self.codewords[tokens] / self.codeword_std)

    def plan_embedding(self, residuals: Tensor) -> Tensor:
        """Residuals of the regressed chunk `[B, k, E]` -> `[B, k, dim]`."""
        return self.plan_projection(residuals / self.codeword_std)

    def logits(self, hidden: Tensor, residuals: Tensor, first: int) -> Tensor:
        """Logits `[B, k, V]` at positions `first` .. `first` + k - 1.

        hidden: `[B, k, dim]`; residuals: those of the regressed chunk `[B, k, E]`, to which the
        hidden states predict a correction
        """
        positions = slice(first, first + hidden.shape[1])
        sharpness = self.log_sharpness[positions].exp() / self.target_widths[positions]
        latents = residuals + self.residual_projection(hidden) * self.codeword_std
        return self._scores(latents) * sharpness[:, None]

    def next_logits(
        self, hidden: Tensor, residual: Tensor, position: int | Tensor, codewords: Tensor
    ) -> Tensor:
        """Logits `[B, n]` of the tokens with `codewords` `[n, E]` at one position.

        hidden: `[B, dim]`; residual: that of the regressed chunk at this position `[B, E]`
        """
        sharpness = self.log_sharpness[position].exp() / self.target_widths[position]
        latent = residual + self.residual_projection(hidden) * self.codeword_std
        return (2 * latent @ codewords.T - codewords.square().sum(1)) * sharpness

    def soft_targets(self, latents: Tensor, temperature: float, legal: Tensor) -> Tensor:
        """Latents `[B, L, E]` -> distribution over tokens `[B, L, V]`, zero where illegal."""
        scores = self._scores(latents) / (temperature * self.target_widths[:, None])
        return scores.masked_fill(~legal, -torch.inf).softmax(-1)

    def _scores(self, points: Tensor) -> Tensor:
        """-|p - e|^2 + |p|^2 for each codeword e; |p|^2 cancels in a softmax."""
        return 2 * points @ self.codewords.T - self.codewords.square().sum(1)
