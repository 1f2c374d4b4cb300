"""Sampling of the next token among the legal ones; an illegal token has probability zero.

A token is found by inverting the cumulative distribution at a given uniform number, so
nac_ros.core.sampling, which does the same in numpy, samples the same tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from nac_ros.core.errors import BadTokens
from nac_ros.core.sampling import Sampling

# Source of random numbers: one of numpy gives the same numbers on every device and without torch,
# one of torch is on the CPU or on the policy's device; None = torch's global one.
Generator = torch.Generator | np.random.Generator | None


class TokenSample(NamedTuple):
    """Complete token sequences int64 `[B, L]` with two confidence measures per token.

    entropy: of the distribution over legal tokens [nats], float `[B, L]`
    margin: probability of the most likely legal token less that of the second, float `[B, L]`
    """

    tokens: Tensor
    entropy: Tensor
    margin: Tensor


def draw_uniform(shape: Sequence[int], generator: Generator, device: torch.device) -> Tensor:
    """Random numbers in [0, 1), float32, on `device`."""
    if isinstance(generator, np.random.Generator):
        return torch.from_numpy(generator.random(shape, np.float32)).to(device)
    where = device if generator is None else generator.device
    return torch.rand(tuple(shape), generator=generator, device=where).to(device)


def draw_normal(shape: Sequence[int], generator: Generator, device: torch.device) -> Tensor:
    """Standard normal random numbers, float32, on `device`."""
    if isinstance(generator, np.random.Generator):
        return torch.from_numpy(generator.standard_normal(shape, np.float32)).to(device)
    where = device if generator is None else generator.device
    return torch.randn(tuple(shape), generator=generator, device=where).to(device)


def mask_illegal(logits: Tensor, legal: Tensor) -> Tensor:
    """Sets logits of illegal tokens to -inf; raises BadTokens for NaN and where none is legal."""
    check_logits(logits)
    if not legal.any(-1).all():
        raise BadTokens("no token is legal here: the sequence is complete already")
    return logits.masked_fill(~legal, -torch.inf)


def check_logits(logits: Tensor) -> None:
    """Raises BadTokens for NaN."""
    if torch.isnan(logits).any():
        raise BadTokens("the policy's logits hold NaN; its weights or inputs are broken")


def choose(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """Index int64 `[B]` of the sampled entry of logits float `[B, N]`, -inf where illegal.

    uniform: float32 `[B]`, random numbers in [0, 1)
    """
    if sampling.top_k == 1:
        return logits.argmax(1)
    # In the order of the tokens, not of the logits: rounding then changes no order.
    indices = logits.topk(min(sampling.top_k, logits.shape[1])).indices.sort(1).values
    scaled = logits.gather(1, indices) / sampling.temperature
    total = (scaled - scaled.amax(1, keepdim=True)).exp().cumsum(1)
    # Below the last sum even after rounding, because the largest uniform number is 1 - 2^-24.
    rank = (total <= uniform[:, None] * total[:, -1:]).sum(1, keepdim=True)
    return indices.gather(1, rank)[:, 0]


def entropy_and_margin(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy [nats] and margin in 0 .. 1 of logits float `[..., N]`, -inf where illegal; see
    TokenSample. A single legal token has entropy 0 and margin 1."""
    log_probs = torch.log_softmax(logits, -1)
    probs = log_probs.exp()
    entropy = -(probs * log_probs.clamp(min=-1e4)).sum(-1)  # 0 * -inf would be NaN
    first, second = pad(probs, (0, 1)).topk(2).values.unbind(-1)
    return entropy, first - second
