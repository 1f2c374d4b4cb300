"""Sampling of the next token from logits, in numpy; nac_ros.policies.sampling does it in torch.

A token is found by inverting the cumulative distribution at a given uniform number, so the same
numbers give the same tokens in both.
"""

from dataclasses import dataclass

import numpy as np

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Top-k sampling of legal tokens at a temperature; top_k = 1 is greedy."""

    top_k: int = number_field(10, 1)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.temperature <= 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")


def choose(logits: np.ndarray, uniform: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Index int64 `[B]` of the sampled entry of logits float32 `[B, N]`, -inf where illegal.

    uniform: float32 `[B]`, random numbers in [0, 1)
    """
    if sampling.top_k == 1:
        return logits.argmax(1)
    k = min(sampling.top_k, logits.shape[1])
    # In the order of the tokens, not of the logits: rounding then changes no order.
    indices = np.sort(np.argpartition(logits, -k, 1)[:, -k:], 1)
    scaled = np.take_along_axis(logits, indices, 1) / np.float32(sampling.temperature)
    total = np.exp(scaled - scaled.max(1, keepdims=True)).cumsum(1)
    rank = (total <= uniform[:, None] * total[:, -1:]).sum(1, keepdims=True)
    return np.take_along_axis(indices, rank, 1)[:, 0]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of logits `[..., N]`; -inf stays -inf."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def entropy_and_margin(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entropy [nats], and probability of the most likely entry less that of the second, of logits
    `[..., N]`, -inf where illegal; a single legal entry has entropy 0 and margin 1."""
    log_probs = log_softmax(logits)
    probs = np.exp(log_probs)
    entropy = -(probs * np.maximum(log_probs, -1e4)).sum(-1)  # 0 * -inf would be NaN
    if logits.shape[-1] == 1:
        return entropy, np.ones_like(entropy)
    second, first = np.moveaxis(np.partition(probs, -2)[..., -2:], -1, 0)
    return entropy, first - second
