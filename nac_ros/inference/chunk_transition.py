"""How a chunk goes on from the one under way: by the guard's blend alone, or chosen or said so.

`best` is the backward part of Bidirectional Decoding (arXiv 2408.17355); `force` is what
real-time chunking (arXiv 2506.07339) asks of a flow, asked of tokens.
"""

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np
import torch

from nac_ros.core.config import bounded, check_bounds
from nac_ros.core.errors import ConfigError
from nac_ros.core.types import ActionChunk, Observation
from nac_ros.export.bundle import Bundle
from nac_ros.inference.conditions import Transition
from nac_ros.policies.base import Inputs
from nac_ros.policies.sampling import Sampling, TokenSample
from nac_ros.tokenizers.grammar import PAD


@dataclass(frozen=True, kw_only=True)
class TransitionConfig:
    """transition: what is done before the guard blends: nothing; of several sampled chunks the one taken
    that goes on best from what is under way; or the tokens that name what is under way forced

    candidates: chunks of `best`; the first is the policy's own choice
    top_k, temperature: how the others are sampled
    """

    transition: Transition = "blend"
    candidates: int = bounded(16, 2, 256)
    top_k: int = bounded(10, 1)
    temperature: float = bounded(1.0, 1e-3, 100.0)

    def __post_init__(self) -> None:
        check_bounds(self)


class CurrentChunk(NamedTuple):
    """The chunk being executed, and when the next one is expected to take over [s]."""

    chunk: ActionChunk
    until: float


class ChunkTransition:
    """Sequences for an observation, and which of them is taken.

    Raises ConfigError for `force` over a tokenizer whose tokens each name the whole chunk.
    """

    def __init__(self, bundle: Bundle, config: TransitionConfig):
        self._bundle, self._config = bundle, config
        self._range = bundle.robot.position_high - bundle.robot.position_low
        name, stretches = bundle.tokenizer.name, bundle.tokenizer.grammar.token_time_spans
        self._stretches = np.empty((0, 2)) if stretches is None else stretches
        if config.transition == "constrained" and stretches is None:
            raise ConfigError(
                f"transition constrained: no token of this bundle's {name} tokenizer names one stretch of "
                "time alone; choose blend or best-of-n"
            )

    def sample_tokens(
        self,
        inputs: Inputs,
        observation: Observation,
        underway: CurrentChunk | None,
        generator: torch.Generator,
    ) -> TokenSample:
        """One sequence, or the candidates."""
        policy, config = self._bundle.policy, self._config
        if underway is None or config.transition == "blend":
            return policy.sample_tokens(inputs, generator)
        if config.transition == "constrained":
            return policy.sample_tokens(
                inputs, generator, forced=self._forced(observation, underway)
            )
        one = inputs._replace(image_features=policy.encode_images(inputs))
        many = Inputs({}, *(_repeat(part, config.candidates - 1) for part in one[1:]))
        sampling = Sampling(top_k=config.top_k, temperature=config.temperature)
        own, others = (
            policy.sample_tokens(one, generator),
            policy.sample_tokens(many, generator, sampling),
        )
        return TokenSample(*(_joined(*pair) for pair in zip(own, others)))

    def choose(
        self, actions: np.ndarray, observation: Observation, underway: CurrentChunk | None
    ) -> int:
        """Which of the chunks `[K, H, D]` strays least from what is under way, from when it
        takes over to where the latter ends."""
        if len(actions) == 1 or underway is None:
            return 0
        wanted, known = self._ahead(observation, underway)
        first = min(self._steps_until(observation, underway), max(known - 1, 0))
        strayed = (actions[:, first:known] - wanted[first:known]) / self._range
        return int((strayed**2).mean((1, 2)).argmin())

    def _forced(self, observation: Observation, underway: CurrentChunk) -> torch.Tensor:
        """The tokens `[1, L]` of what is under way for stretches that begin before `until`."""
        ahead, known = self._ahead(observation, underway)
        reference = observation.reference[None]
        tokens = self._bundle.tokenizer.encode(ahead[None].astype(np.float32), reference)
        first, end = self._stretches.T
        given = (first < self._steps_until(observation, underway)) & (end <= known)
        return tokens.masked_fill(~torch.from_numpy(given), -1)

    def _ahead(self, observation: Observation, underway: CurrentChunk) -> tuple[np.ndarray, int]:
        """What is under way at the steps of a chunk of `observation`, `[H, D]`, staying where it
        ends, and how many steps come before that."""
        chunk, rate = underway.chunk, self._bundle.rate_hz
        times = observation.stamp + (np.arange(self._bundle.horizon) + 1) / rate
        columns = [np.interp(times, chunk.times, column) for column in chunk.actions.T]
        return np.stack(columns, 1), int((times <= chunk.end + 1e-6).sum())

    def _steps_until(self, observation: Observation, underway: CurrentChunk) -> int:
        """Steps of a chunk of `observation` that are due before it takes over."""
        return max(ceil((underway.until - observation.stamp) * self._bundle.rate_hz - 1e-6), 0)


def _repeat(rows: torch.Tensor, n: int) -> torch.Tensor:
    return rows.expand(n, *rows.shape[1:])


def _joined(one: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Rows together, the shorter ones padded as the grammar has it."""
    length = max(one.shape[1], others.shape[1])
    parts = [
        torch.nn.functional.pad(x, (0, length - x.shape[1]), value=PAD) for x in (one, others)
    ]
    return torch.cat(parts)
