"""How a new chunk continues from the one being executed.

blend: the policy predicts one chunk; the guard alone blends it with the current one.
best-of-n: of several predicted chunks the one closest to the rest of the current chunk is taken,
    the backward coherence of Bidirectional Decoding (arXiv 2408.17355).
constrained: the policy is told the steps that will have been executed before the new chunk takes
    effect, and continues them, as real-time chunking (arXiv 2506.07339) does for flow policies.
"""

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError
from nac_ros.core.types import ActionChunk, Observation
from nac_ros.inference.conditions import Transition
from nac_ros.inference.policy_runtime import ChunkContext, PolicyRuntime, Prediction


@dataclass(frozen=True, kw_only=True)
class TransitionConfig:
    """transition: see the module; candidates: number of chunks of best-of-n"""

    transition: Transition = "blend"
    candidates: int = number_field(16, 2, 256)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def needs_context(self) -> bool:
        """Whether the policy must be able to continue committed steps."""
        return self.transition == "constrained"


class CurrentChunk(NamedTuple):
    """The chunk being executed, and the expected time at which the next one replaces it [s]."""

    chunk: ActionChunk
    replaced_at: float


class ChunkTransition:
    """Predicts chunks for an observation and selects one of them.

    Raises ConfigError for `constrained` if the policy cannot continue committed steps.
    """

    def __init__(self, policy: PolicyRuntime, config: TransitionConfig):
        self._policy, self._config = policy, config
        self._range = policy.robot.position_high - policy.robot.position_low
        if config.transition == "constrained" and not policy.supports_context:
            raise ConfigError(
                "transition constrained needs a policy that can continue committed steps; the "
                f"{policy.describe()} cannot: choose blend or best-of-n"
            )

    def predict(
        self,
        observation: Observation,
        current: CurrentChunk | None,
        generator: np.random.Generator,
    ) -> Prediction:
        """One chunk, or `candidates` of them for best-of-n."""
        policy, config = self._policy, self._config
        if current is None or config.transition == "blend":
            return policy.predict(observation, generator)
        if config.transition == "constrained":
            context = self._context(observation, current)
            return policy.predict(observation, generator, context=context)
        return policy.predict(observation, generator, config.candidates)

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

    def _context(self, observation: Observation, current: CurrentChunk) -> ChunkContext:
        """The current chunk for the policy."""
        remaining, n_known = self._remaining(observation, current)
        steps = np.arange(self._policy.horizon)
        known = steps < n_known
        committed = known & (steps < self._committed_steps(observation, current))
        return ChunkContext(remaining.astype(np.float32), committed, known)

    def _remaining(
        self, observation: Observation, current: CurrentChunk
    ) -> tuple[np.ndarray, int]:
        """The current chunk at the steps of a new one, `[H, D]`, its last action held beyond its
        end, and the number of steps before that end."""
        chunk, rate = current.chunk, self._policy.rate_hz
        times = observation.stamp + (np.arange(self._policy.horizon) + 1) / rate
        columns = [np.interp(times, chunk.times, column) for column in chunk.actions.T]
        return np.stack(columns, 1), int((times <= chunk.end + 1e-6).sum())

    def _committed_steps(self, observation: Observation, current: CurrentChunk) -> int:
        """Steps of a new chunk that are due before it replaces the current one."""
        seconds = current.replaced_at - observation.stamp
        return max(ceil(seconds * self._policy.rate_hz - 1e-6), 0)
