"""How a new chunk continues from the one being executed.

blend: the policy samples one chunk; the guard alone blends it with the current one.
best-of-n: of several sampled chunks the one closest to the rest of the current chunk is taken, the
    backward coherence of Bidirectional Decoding (arXiv 2408.17355).
constrained: the tokens of steps that will have been executed before the new chunk takes effect are
    forced, as real-time chunking (arXiv 2506.07339) does for flow policies.
"""

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import pad

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError
from nac_ros.core.types import ActionChunk, Observation
from nac_ros.export.bundle import Bundle
from nac_ros.inference.conditions import Transition
from nac_ros.policies.base import Inputs
from nac_ros.policies.sampling import Sampling, TokenSample
from nac_ros.tokenizers.grammar import PAD


@dataclass(frozen=True, kw_only=True)
class TransitionConfig:
    """transition: see the module

    candidates: number of chunks of best-of-n; the first uses the policy's own sampling
    top_k, temperature: sampling of the others
    """

    transition: Transition = "blend"
    candidates: int = number_field(16, 2, 256)
    top_k: int = number_field(10, 1)
    temperature: float = number_field(1.0, 1e-3, 100.0)

    def __post_init__(self) -> None:
        check_fields(self)


class CurrentChunk(NamedTuple):
    """The chunk being executed, and the expected time at which the next one replaces it [s]."""

    chunk: ActionChunk
    replaced_at: float


class ChunkTransition:
    """Samples token sequences for an observation and selects one of the decoded chunks.

    Raises ConfigError for `constrained` if all tokens of the tokenizer describe the whole chunk.
    """

    def __init__(self, bundle: Bundle, config: TransitionConfig):
        self._bundle, self._config = bundle, config
        self._range = bundle.robot.position_high - bundle.robot.position_low
        self._time_spans = bundle.tokenizer.grammar.token_time_spans
        if config.transition == "constrained" and self._time_spans is None:
            raise ConfigError(
                "transition constrained needs tokens that describe a span of time; those of this "
                f"bundle's {bundle.tokenizer.name} tokenizer describe the whole chunk: choose "
                "blend or best-of-n"
            )

    def sample_tokens(
        self,
        inputs: Inputs,
        observation: Observation,
        current: CurrentChunk | None,
        generator: torch.Generator,
    ) -> TokenSample:
        """One sequence, or `candidates` of them for best-of-n."""
        policy, config = self._bundle.policy, self._config
        if current is None or config.transition == "blend":
            return policy.sample_tokens(inputs, generator)
        if config.transition == "constrained":
            forced = self._committed_tokens(observation, current)
            return policy.sample_tokens(inputs, generator, forced=forced)
        n = config.candidates - 1
        single = inputs._replace(image_features=policy.encode_images(inputs))
        repeated = (x.expand(n, *x.shape[1:]) for x in single[1:])  # all but the images
        sampling = Sampling(top_k=config.top_k, temperature=config.temperature)
        first = policy.sample_tokens(single, generator)
        others = policy.sample_tokens(Inputs({}, *repeated), generator, sampling)
        return TokenSample(*(_concatenate(*pair) for pair in zip(first, others)))

    def select(
        self, actions: np.ndarray, observation: Observation, current: CurrentChunk | None
    ) -> int:
        """Index of the chunk among `[K, H, D]` that deviates least from the current one, in shares
        of the joint ranges, from the replacement to the end of the current chunk."""
        if len(actions) == 1 or current is None:
            return 0
        remaining, n_known = self._remaining(observation, current)
        first = min(self._committed_steps(observation, current), max(n_known - 1, 0))
        deviation = (actions[:, first:n_known] - remaining[first:n_known]) / self._range
        return int((deviation**2).mean((1, 2)).argmin())

    def _committed_tokens(self, observation: Observation, current: CurrentChunk) -> torch.Tensor:
        """Tokens `[1, L]` of the current chunk whose time span starts before the replacement and
        ends within the chunk; -1 elsewhere."""
        remaining, n_known = self._remaining(observation, current)
        reference = observation.reference[None]
        tokens = self._bundle.tokenizer.encode(remaining[None].astype(np.float32), reference)
        first, end = self._time_spans.T
        committed = (first < self._committed_steps(observation, current)) & (end <= n_known)
        return tokens.masked_fill(~torch.from_numpy(committed), -1)

    def _remaining(
        self, observation: Observation, current: CurrentChunk
    ) -> tuple[np.ndarray, int]:
        """The current chunk at the steps of a new one, `[H, D]`, its last action held beyond its
        end, and the number of steps before that end."""
        chunk, rate = current.chunk, self._bundle.rate_hz
        times = observation.stamp + (np.arange(self._bundle.horizon) + 1) / rate
        columns = [np.interp(times, chunk.times, column) for column in chunk.actions.T]
        return np.stack(columns, 1), int((times <= chunk.end + 1e-6).sum())

    def _committed_steps(self, observation: Observation, current: CurrentChunk) -> int:
        """Steps of a new chunk that are due before it replaces the current one."""
        seconds = current.replaced_at - observation.stamp
        return max(ceil(seconds * self._bundle.rate_hz - 1e-6), 0)


def _concatenate(first: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Rows `[1, L]` and `[N, L']` -> `[1 + N, max(L, L')]`, padded."""
    length = max(first.shape[1], others.shape[1])
    return torch.cat([pad(x, (0, length - x.shape[1]), value=PAD) for x in (first, others)])
