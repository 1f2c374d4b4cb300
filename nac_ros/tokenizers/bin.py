"""Bin: uniform quantization of each value of a chunk, at every step or at knots.

The baseline of RT-2 and OpenVLA (arXiv 2307.15818, 2406.09246), as in NAC's Tables 2 to 4.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nac_ros.core.errors import BadActions, ConfigError
from nac_ros.tokenizers.base import TOKENIZERS, Tokenizer, TokenizerConfig
from nac_ros.tokenizers.grammar import FixedGrammar


@dataclass(frozen=True, kw_only=True)
class BinConfig(TokenizerConfig):
    """Bins and knots.

    n_bins: between -limit and limit of normalized actions; values outside are rejected
    n_knots: encoded steps, evenly spaced with the last one included; 0 = all
    """

    n_bins: int = 1024
    limit: float = 1.25
    n_knots: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_bins < 2 or self.limit < 1 or not 0 <= self.n_knots <= self.horizon:
            raise ConfigError(
                f"bin: n_bins {self.n_bins} must be at least 2, limit {self.limit} at least 1, "
                f"n_knots {self.n_knots} in 0 .. {self.horizon}"
            )


@TOKENIZERS.register("bin")
class BinTokenizer(Tokenizer):
    """Tokens in the order of steps, and of dimensions within a step."""

    name = "bin"
    decodes_in_tensors = True
    Config = BinConfig

    def __init__(self, config: BinConfig, preset: str = "small"):
        super().__init__(config, preset)
        self._steps = config.n_knots or config.horizon
        length = self._steps * config.action_dim
        self.grammar = FixedGrammar([0] * length, [config.n_bins] * length)
        if self._steps == config.horizon:
            steps = np.arange(length) // config.action_dim
            self.grammar.token_time_spans = np.stack([steps, steps + 1], 1)
        # times of the knots in steps after the first action; the reference is one step before it
        times = torch.arange(1, self._steps + 1) * (config.horizon / self._steps) - 1
        self.register_buffer("knot_times", times, persistent=False)

    def _encode(self, normalized: Tensor) -> Tensor:
        knots = _interpolate(normalized, self.knot_times)
        limit, n_bins = self.config.limit, self.config.n_bins
        outside = (knots.abs() > limit).nonzero()
        if len(outside):
            row, knot, column = outside[0].tolist()
            raise BadActions(
                f"row {row}: {knots[row, knot, column]:.3f} (normalized) in column {column} is "
                f"outside the bins, which end at {limit}; fit on data that holds such actions"
            )
        bins = ((knots + limit) / (2 * limit) * n_bins).long()
        return bins.clamp(max=n_bins - 1).flatten(1)  # the upper edge belongs to the last bin

    def _decode(self, tokens: Tensor) -> Tensor:
        knots = (tokens.float() + 0.5) * (2 * self.config.limit / self.config.n_bins)
        knots = (knots - self.config.limit).unflatten(1, (self._steps, -1))
        if self._steps == self.config.horizon:
            return knots
        steps = torch.arange(1, self.config.horizon + 1, dtype=torch.float32, device=tokens.device)
        # inverse of `knot_times`; negative indices, before the first knot, are clamped to it
        return _interpolate(knots, steps * self._steps / self.config.horizon - 1)


def _interpolate(rows: Tensor, index: Tensor) -> Tensor:
    """Rows `[B, N, D]` at fractional indices `[M]`, linearly interpolated: `[B, M, D]`."""
    last = rows.shape[1] - 1
    index = index.clamp(0, last)
    before = index.floor().long().clamp(max=max(last - 1, 0))
    share = (index - before)[:, None]
    after = (before + 1).clamp(max=last)
    return rows[:, before] * (1 - share) + rows[:, after] * share
