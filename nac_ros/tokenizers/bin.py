"""Bin: each value of a chunk in one of equal bins; at low rates only at knots, joined by lines.

The baseline of RT-2 and OpenVLA (2307.15818, 2406.09246), as in NAC's Tables 2 to 4.
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
    """n_bins: over -span .. span of normalised actions; beyond it nothing can be said.

    n_knots: steps that are coded, evenly spaced, the last one included; 0 = all
    """

    n_bins: int = 1024
    span: float = 1.25
    n_knots: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_bins < 2 or self.span < 1 or not 0 <= self.n_knots <= self.horizon:
            raise ConfigError(
                f"bin: n_bins {self.n_bins} must be at least 2, span {self.span} at least 1, "
                f"n_knots {self.n_knots} in 0 .. {self.horizon}"
            )


@TOKENIZERS.register("bin")
class BinTokenizer(Tokenizer):
    """Tokens run over steps, and over dimensions within a step."""

    name = "bin"
    Config = BinConfig

    def __init__(self, config: BinConfig, preset: str = "small"):
        super().__init__(config, preset)
        self._steps = config.n_knots or config.horizon
        length = self._steps * config.action_dim
        self.grammar = FixedGrammar([0] * length, [config.n_bins] * length)
        if self._steps == config.horizon:
            steps = np.arange(length) // config.action_dim
            self.grammar.token_time_spans = np.stack([steps, steps + 1], 1)
        # due times of the knots, in steps after the first action; the reference is one before it
        every = config.horizon / self._steps
        due = torch.arange(1, self._steps + 1) * every - 1
        self.register_buffer("due", due, persistent=False)

    @property
    def codes_per_position(self) -> int:
        return self.config.n_bins

    def _encode(self, normalised: Tensor) -> Tensor:
        knots = _at(normalised, self.due)
        span, n_bins = self.config.span, self.config.n_bins
        beyond = (knots.abs() > span).nonzero()
        if len(beyond):
            row, knot, column = beyond[0].tolist()
            raise BadActions(
                f"row {row}: {knots[row, knot, column]:.3f} (normalised) in column {column} lies "
                f"beyond the bins, which end at {span}; fit on data that holds such actions"
            )
        bins = ((knots + span) / (2 * span) * n_bins).long()
        return bins.clamp(max=n_bins - 1).flatten(1)  # the upper edge belongs to the last bin

    def _decode(self, tokens: Tensor) -> Tensor:
        knots = (tokens.float() + 0.5) * (2 * self.config.span / self.config.n_bins)
        knots = (knots - self.config.span).view(len(tokens), self._steps, -1)
        if self._steps == self.config.horizon:
            return knots
        steps = torch.arange(self.config.horizon, dtype=torch.float32)
        at = (
            steps + 1
        ) * self._steps / self.config.horizon - 1  # in knots; below 0 before the first
        return _at(knots, at)


def _at(rows: Tensor, times: Tensor) -> Tensor:
    """Rows `[B, N, D]` at fractional indices `[M]`, on straight lines: `[B, M, D]`."""
    times = times.clamp(0, rows.shape[1] - 1)
    before = times.floor().long().clamp(max=max(rows.shape[1] - 2, 0))
    share = (times - before)[:, None]
    after = (before + 1).clamp(max=rows.shape[1] - 1)
    return rows[:, before] * (1 - share) + rows[:, after] * share
