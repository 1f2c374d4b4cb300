"""Inference engine: observation -> policy -> chosen chunk in physical units."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from nac_ros.control.call_log import CallLog
from nac_ros.core.errors import BadActions, ConfigError
from nac_ros.core.types import ActionChunk, Observation
from nac_ros.export.bundle import Bundle
from nac_ros.inference.chunk_transition import ChunkTransition, CurrentChunk, TransitionConfig
from nac_ros.policies.base import PolicyOutput

WARM_UP_CALLS = 3


@dataclass(frozen=True)
class InferenceTime:
    """Duration of the latest `predict_chunk` [s]: in total, and of decoding tokens alone."""

    predict_s: float
    decode_s: float


@dataclass(frozen=True)
class Confidence:
    """Confidence in the tokens of the latest chunk: mean entropy [nats] and smallest margin
    between the two most likely tokens; None if no token was sampled."""

    entropy: float | None = None
    margin: float | None = None


class Engine:
    """Predicts chunks with a bundle; owns its random generator, so a seed repeats a run.

    n_action_steps: steps of a chunk that are executed before the next one; default: the bundle's
    transition: how a new chunk continues the current one
    call_log: records every prediction once it is set
    """

    def __init__(
        self,
        bundle: Bundle,
        seed: int = 0,
        threads: int | None = None,
        n_action_steps: int | None = None,
        transition: TransitionConfig | None = None,
    ):
        self.bundle = bundle
        config = bundle.policy.config
        self.cameras: tuple[str, ...] = config.cameras
        self.n_obs_steps: int = config.n_obs_steps
        self.n_past_commands: int = config.n_past_commands
        self.n_action_steps: int = n_action_steps or config.n_action_steps
        if self.n_action_steps > bundle.horizon:
            raise ConfigError(
                f"n_action_steps {self.n_action_steps} is beyond the horizon {bundle.horizon}"
            )
        self.call_log: CallLog | None = None
        self.timing, self.confidence = InferenceTime(0.0, 0.0), Confidence()
        self._transition = ChunkTransition(bundle, transition or TransitionConfig())
        self._generator = torch.Generator().manual_seed(seed)
        if threads is not None:
            torch.set_num_threads(threads)

    @property
    def horizon(self) -> int:
        return self.bundle.horizon

    @property
    def rate_hz(self) -> float:
        return self.bundle.rate_hz

    def predict_chunk(
        self, observation: Observation, current: CurrentChunk | None = None
    ) -> ActionChunk:
        """The chunk for `observation`, with its stamp.

        current: the chunk being executed; None if the arm is at rest

        Raises BadObservation, UnknownName or BadActions.
        """
        if self.call_log is None:
            return self._predict(observation, current)
        state = self._generator.get_state().numpy()  # the engine has no other state
        chunk = self._predict(observation, current)
        facts = {"observation": observation, "current": current, "generator": state}
        snapshot = {} if self.call_log.segment_due else None
        self.call_log.append("predict_chunk", {**facts, "result": chunk}, snapshot)
        return chunk

    def set_generator_state(self, state: np.ndarray) -> None:
        """Restores the random generator to a state from a call log."""
        self._generator.set_state(torch.from_numpy(state))

    def warm_up(self) -> float:
        """Predicts a few times from grey images at the home position; the last duration [s]."""
        robot, config = self.bundle.robot, self.bundle.policy.config
        shape = (self.n_obs_steps, config.image_size, config.image_size, 3)
        images = dict.fromkeys(self.cameras, np.full(shape, 127, np.uint8))
        proprio = np.repeat(robot.home[None].astype(np.float32), self.n_obs_steps, 0)
        environment = commands = None
        if config.environment_state_dim:
            shape = (self.n_obs_steps, config.environment_state_dim)
            environment = np.zeros(shape, np.float32)
        if config.n_past_commands:
            commands = np.repeat(proprio[-1:], config.n_past_commands, 0)
        task = next(iter(config.tasks))
        observation = Observation(0.0, images, proprio, task, environment, commands)
        for _ in range(WARM_UP_CALLS):
            self.predict_chunk(observation)
        return self.timing.predict_s

    def _predict(self, observation: Observation, current: CurrentChunk | None) -> ActionChunk:
        started = time.perf_counter()
        inputs = self.bundle.policy.inputs(observation)
        output = self._transition.predict(inputs, observation, current, self._generator)
        reference = np.repeat(observation.reference[None], len(output.chunk), 0)
        candidates = self.bundle.to_actions(output, reference)  # [K, H, D]
        if not np.isfinite(candidates).all():
            raise BadActions("the predicted chunk holds NaN or inf; the bundle is broken")
        index = self._transition.select(candidates, observation, current)
        ended = time.perf_counter()
        self.timing = InferenceTime(ended - started, self.bundle.decode_s)
        self.confidence = _confidence(output, index)
        names, tokens = self.bundle.robot.joint_names, np.empty(0, np.int64)
        if output.tokens is not None:
            row = output.tokens[index].cpu().numpy()
            tokens = row[row >= 0]  # without padding
        return ActionChunk(observation.stamp, self.rate_hz, names, candidates[index], tokens)


def _confidence(output: PolicyOutput, row: int) -> Confidence:
    if output.tokens is None or output.confidence is None:
        return Confidence()
    sampled = output.tokens[row] >= 0  # not padding
    entropy, margin = (values[row][sampled] for values in output.confidence)
    return Confidence(float(entropy.mean()), float(margin.min())) if len(entropy) else Confidence()
