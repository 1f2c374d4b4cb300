"""Sampling of the next token among the legal ones; an illegal token has probability zero."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import BadTokens, ConfigError
from nac_ros.tokenizers.grammar import PAD


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Top-k sampling of legal tokens at a temperature; top_k = 1 is greedy."""

    top_k: int = number_field(10, 1)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.temperature <= 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")


class TokenSample(NamedTuple):
    """Complete token sequences int64 `[B, L]` with two confidence measures per token.

    entropy: of the distribution over legal tokens [nats], float `[B, L]`
    margin: probability of the most likely legal token less that of the second, float `[B, L]`

    Both are `[B, 0]` if no token was sampled.
    """

    tokens: Tensor
    entropy: Tensor
    margin: Tensor


def mask_illegal(logits: Tensor, legal: Tensor) -> Tensor:
    """Sets logits of illegal tokens to -inf; raises BadTokens for NaN and where none is legal."""
    if torch.isnan(logits).any():
        raise BadTokens("the policy's logits hold NaN; its weights or inputs are broken")
    if not legal.any(-1).all():
        raise BadTokens("no token is legal here: the sequence is complete already")
    return logits.masked_fill(~legal, -torch.inf)


def restrict_to_forced(forced: Tensor, legal: Tensor) -> Tensor:
    """Keeps only the `forced` token `[B]` in each row of `legal` bool `[B, V]`; -1 forces none.

    A forced token that is illegal leaves an empty row, which `mask_illegal` rejects.
    """
    is_forced = forced[:, None] == torch.arange(legal.shape[1], device=legal.device)
    return legal & (is_forced | (forced < 0)[:, None])


def sample(
    logits: Tensor,
    legal: Tensor,
    done: Tensor,
    sampling: Sampling,
    generator: torch.Generator | None,
) -> Tensor:
    """Samples the next token int64 `[B, 1]`; rows whose sequence is complete get padding.

    logits float `[B, V]`, legal bool `[B, V]`, done bool `[B]`
    """
    masked = mask_illegal(logits, legal | done[:, None])
    values, tokens = masked.topk(min(sampling.top_k, masked.shape[-1]))
    weights = torch.softmax(values / sampling.temperature, -1)  # exp(-inf) is exactly 0
    where = weights.device if generator is None else generator.device
    drawn = torch.multinomial(weights.to(where), 1, generator=generator).to(weights.device)
    chosen = tokens.gather(1, drawn)
    return chosen.masked_fill(done[:, None], PAD)


def entropy_and_margin(logits: Tensor, legal: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy [nats] and margin in 0 .. 1 of each row, both float `[B]`; see TokenSample.

    logits float `[B, V]`, legal bool `[B, V]`; a single legal token has entropy 0 and margin 1
    """
    log_probs = torch.log_softmax(logits.masked_fill(~legal, -torch.inf), -1)
    probs = log_probs.exp()
    entropy = -(probs * log_probs.clamp(min=-1e4)).sum(-1)  # 0 * -inf would be NaN
    first, second = probs.topk(2).values.unbind(-1)
    return entropy, first - second
