"""Inference engine: observation -> policy -> chosen chunk in physical units."""

import time
from dataclasses import dataclass

import numpy as np

from nac_ros.control.call_log import CallLog
from nac_ros.core.errors import BadActions, ConfigError
from nac_ros.core.types import ActionChunk, Observation
from nac_ros.inference.chunk_transition import ChunkTransition, CurrentChunk, TransitionConfig
from nac_ros.inference.policy_runtime import PolicyRuntime, Prediction

WARM_UP_CALLS = 3
GENERATOR_BYTES = 37  # of the state of numpy's PCG64


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
    """Predicts chunks with a policy; owns the random generator, so a seed repeats a run.

    n_action_steps: steps of a chunk that are executed before the next one; default: the policy's
    transition: how a new chunk continues the current one
    call_log: records every prediction once it is set
    """

    def __init__(
        self,
        policy: PolicyRuntime,
        seed: int = 0,
        n_action_steps: int | None = None,
        transition: TransitionConfig | None = None,
    ):
        self.policy = policy
        self.robot, self.horizon, self.rate_hz = policy.robot, policy.horizon, policy.rate_hz
        spec = policy.observation_spec
        self.cameras: tuple[str, ...] = spec.cameras
        self.n_obs_steps: int = spec.n_obs_steps
        self.n_past_commands: int = spec.n_past_commands
        self.n_action_steps: int = n_action_steps or policy.n_action_steps
        if self.n_action_steps > self.horizon:
            raise ConfigError(
                f"n_action_steps {self.n_action_steps} is beyond the horizon {self.horizon}"
            )
        self.call_log: CallLog | None = None
        self.timing, self.confidence = InferenceTime(0.0, 0.0), Confidence()
        self._transition = ChunkTransition(policy, transition or TransitionConfig())
        self._generator = np.random.default_rng(seed)

    def predict_chunk(
        self, observation: Observation, current: CurrentChunk | None = None
    ) -> ActionChunk:
        """The chunk for `observation`, with its stamp.

        current: the chunk being executed; None if the arm is at rest

        Raises BadObservation, UnknownName or BadActions.
        """
        if self.call_log is None:
            return self._predict(observation, current)
        state = generator_state(self._generator)  # the engine has no other state
        chunk = self._predict(observation, current)
        facts = {"observation": observation, "current": current, "generator": state}
        snapshot = {} if self.call_log.segment_due else None
        self.call_log.append("predict_chunk", {**facts, "result": chunk}, snapshot)
        return chunk

    def set_generator_state(self, state: np.ndarray) -> None:
        """Restores the random generator to a state from a call log."""
        set_generator_state(self._generator, state)

    def warm_up(self) -> float:
        """Predicts a few times from grey images at the home position; the last duration [s]."""
        spec, steps = self.policy.observation_spec, self.n_obs_steps
        shape = (steps, spec.image_size, spec.image_size, 3)
        images = dict.fromkeys(self.cameras, np.full(shape, 127, np.uint8))
        proprio = np.repeat(self.robot.home[None].astype(np.float32), steps, 0)
        environment = commands = None
        if spec.environment_state_dim:
            environment = np.zeros((steps, spec.environment_state_dim), np.float32)
        if spec.n_past_commands:
            commands = np.repeat(proprio[-1:], spec.n_past_commands, 0)
        task = next(iter(spec.tasks))
        observation = Observation(0.0, images, proprio, task, environment, commands)
        for _ in range(WARM_UP_CALLS):
            self.predict_chunk(observation)
        return self.timing.predict_s

    def _predict(self, observation: Observation, current: CurrentChunk | None) -> ActionChunk:
        started = time.perf_counter()
        prediction = self._transition.predict(observation, current, self._generator)
        candidates = prediction.actions  # [K, H, D]
        if not np.isfinite(candidates).all():
            raise BadActions("the predicted chunk holds NaN or inf; the bundle is broken")
        index = self._transition.select(candidates, observation, current)
        ended = time.perf_counter()
        self.timing = InferenceTime(ended - started, prediction.decode_s)
        self.confidence = _confidence(prediction, index)
        names, tokens = self.robot.joint_names, np.empty(0, np.int64)
        if prediction.tokens is not None:
            row = prediction.tokens[index]
            tokens = row[row >= 0]  # without padding
        return ActionChunk(observation.stamp, self.rate_hz, names, candidates[index], tokens)


def _confidence(prediction: Prediction, row: int) -> Confidence:
    tokens, entropy, margin = prediction.tokens, prediction.entropy, prediction.margin
    if tokens is None or entropy is None or margin is None:
        return Confidence()
    sampled = tokens[row] >= 0  # not padding
    return Confidence(float(entropy[row][sampled].mean()), float(margin[row][sampled].min()))


def generator_state(generator: np.random.Generator) -> np.ndarray:
    """State of a PCG64 generator as bytes, uint8 `[37]`."""
    values = generator.bit_generator.state
    parts = (values["state"]["state"], values["state"]["inc"])
    content = b"".join(part.to_bytes(16, "little") for part in parts)
    content += bytes([values["has_uint32"]]) + values["uinteger"].to_bytes(4, "little")
    return np.frombuffer(content, np.uint8)


def set_generator_state(generator: np.random.Generator, state: np.ndarray) -> None:
    """Inverse of `generator_state`; raises BadActions for other bytes."""
    content = state.astype(np.uint8).tobytes()
    if len(content) != GENERATOR_BYTES or content[32] > 1:
        raise BadActions(
            f"the state of the random generator has {len(content)} bytes, wanted {GENERATOR_BYTES}"
        )
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {
            "state": int.from_bytes(content[:16], "little"),
            "inc": int.from_bytes(content[16:32], "little"),
        },
        "has_uint32": content[32],
        "uinteger": int.from_bytes(content[33:], "little"),
    }
