"""Choosing a token among the legal ones: an illegal token has a probability of exactly zero."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nac_ros.core.errors import BadTokens, ConfigError
from nac_ros.tokenizers.grammar import PAD


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """top_k most likely legal tokens at `temperature`; top_k = 1 is greedy."""

    top_k: int = 10
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.top_k < 1 or self.temperature <= 0:
            raise ConfigError(
                f"top_k {self.top_k} must be at least 1 and temperature {self.temperature} above 0"
            )


class TokenSample(NamedTuple):
    """Complete sequences int64 `[B, L]`, and how sure the policy was of each token, float
    `[B, L]`: entropy [nats] of its legal ones, and how much likelier the first was than the
    second; both `[B, 0]` where no token was drawn."""

    tokens: Tensor
    entropy: Tensor
    margin: Tensor


def legal_logits(logits: Tensor, legal: Tensor) -> Tensor:
    """Minus infinity where a token is not legal; NaN logits raise BadTokens."""
    if torch.isnan(logits).any():
        raise BadTokens("the policy's logits hold NaN; its weights or inputs are broken")
    if not legal.any(-1).all():
        raise BadTokens("no token is legal here: the sequence is complete already")
    return logits.masked_fill(~legal, -torch.inf)


def restrict_to_forced(forced: Tensor, legal: Tensor) -> Tensor:
    """Legal bool `[B, V]` less all but the `forced` tokens `[B]`, where those are not negative.

    A forced token that is not legal leaves none, which `legal_logits` refuses.
    """
    given = forced[:, None] == torch.arange(legal.shape[1])
    return legal & (given | (forced < 0)[:, None])


def sample(
    logits: Tensor,
    legal: Tensor,
    done: Tensor,
    sampling: Sampling,
    generator: torch.Generator | None,
) -> Tensor:
    """Logits float `[B, V]`, legal bool `[B, V]`, done bool `[B]` -> tokens int64 `[B, 1]`.

    Rows whose sequence is complete get padding.
    """
    masked = legal_logits(logits, legal | done[:, None])
    values, tokens = masked.topk(min(sampling.top_k, masked.shape[-1]))
    weights = torch.softmax(values / sampling.temperature, -1)  # exp(-inf) is exactly 0
    chosen = tokens.gather(1, torch.multinomial(weights, 1, generator=generator))
    return chosen.masked_fill(done[:, None], PAD)


def certainty(logits: Tensor, legal: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy [nats] and margin in 0 .. 1 of each row `[B, V]`, float `[B]`; 0 and 1 where
    nothing else is legal."""
    likelihood = torch.log_softmax(logits.masked_fill(~legal, -torch.inf), -1)
    shares = likelihood.exp()
    entropy = -(shares * likelihood.clamp(min=-1e4)).sum(-1)
    first, second = shares.topk(2).values.unbind(-1)
    return entropy, first - second
