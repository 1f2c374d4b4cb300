"""From an observation to a chunk: policy, tokens, ONNX decode, with the time each part took."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from nac_ros.control.call_log import CallLog
from nac_ros.core.errors import BadActions, ConfigError
from nac_ros.core.types import ActionChunk, Observation
from nac_ros.export.bundle import Bundle
from nac_ros.inference.chunk_transition import ChunkTransition, CurrentChunk, TransitionConfig
from nac_ros.policies.sampling import TokenSample

WARM_UP_CALLS = 3


@dataclass(frozen=True)
class Timing:
    """Seconds of the newest `plan`: whole, and decoding alone."""

    predict_s: float
    decode_s: float


@dataclass(frozen=True)
class Confidence:
    """How sure the policy was of the newest chunk's tokens: mean entropy [nats], least margin
    between the two likeliest; None where no token was drawn."""

    entropy: float | None = None
    margin: float | None = None


class Engine:
    """Plans chunks with a bundle; owns its random generator, so a seed repeats a run.

    transition: how chunks go on from one another
    tape: writes down every plan from when it is set
    n_action_steps: steps of a chunk that are executed before the next one takes over; the
    bundle's own number by default
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
        self.n_action_steps: int = n_action_steps or config.n_action_steps
        if self.n_action_steps > bundle.horizon:
            raise ConfigError(
                f"n_action_steps {self.n_action_steps} is beyond the horizon {bundle.horizon}"
            )
        self.call_log: CallLog | None = None
        self.timing, self.confidence = Timing(0.0, 0.0), Confidence()
        self._continuation = ChunkTransition(bundle, transition or TransitionConfig())
        self._generator = torch.Generator().manual_seed(seed)
        if threads is not None:
            torch.set_num_threads(threads)

    @property
    def horizon(self) -> int:
        return self.bundle.horizon

    @property
    def rate_hz(self) -> float:
        return self.bundle.rate_hz

    @property
    def tasks(self) -> dict[str, str]:
        """Task id -> prompt."""
        return dict(self.bundle.policy.config.tasks)

    def predict_chunk(
        self, observation: Observation, underway: CurrentChunk | None = None
    ) -> ActionChunk:
        """The chunk for `observation`, stamped with its time; raises where it does not fit.

        underway: what is being executed; None where the arm rests
        """
        if self.call_log is None:
            return self._plan(observation, underway)
        state = self._generator.get_state().numpy()  # all that an engine remembers
        chunk = self._plan(observation, underway)
        facts = {"observation": observation, "underway": underway, "generator": state}
        self.call_log.put("plan", {**facts, "result": chunk}, {} if self.call_log.due else None)
        return chunk

    def restore(self, generator: np.ndarray) -> None:
        """Puts the random generator back to a state that is on a tape."""
        self._generator.set_state(torch.from_numpy(generator))

    def _plan(self, observation: Observation, underway: CurrentChunk | None) -> ActionChunk:
        began = time.perf_counter()
        inputs = self.bundle.policy.inputs(observation)
        said = self._continuation.say(inputs, observation, underway, self._generator)
        tokens, decoding = said.tokens.numpy(), time.perf_counter()
        reference = np.repeat(observation.reference[None], len(tokens), 0)
        several = self.bundle.decode(tokens, reference)
        if not np.isfinite(several).all():
            raise BadActions("the decoded chunk holds NaN or inf; the bundle is broken")
        chosen = self._continuation.choose(several, observation, underway)
        ended = time.perf_counter()
        self.timing = Timing(ended - began, ended - decoding)
        self.confidence = _certainty(said, chosen)
        names, row = self.bundle.robot.joint_names, tokens[chosen]
        return ActionChunk(observation.stamp, self.rate_hz, names, several[chosen], row[row >= 0])

    def warm_up(self) -> float:
        """Plans a few times from a grey image at home; the last duration [s]."""
        observation = self._grey()
        for _ in range(WARM_UP_CALLS):
            self.plan(observation)
        return self.timing.predict_s

    def _grey(self) -> Observation:
        robot, size = self.bundle.robot, self.bundle.policy.config.image_size
        image = np.full((self.n_obs_steps, size, size, 3), 127, np.uint8)
        proprio = np.repeat(robot.home[None].astype(np.float32), self.n_obs_steps, 0)
        images = dict.fromkeys(self.cameras, image)
        return Observation(0.0, images, proprio, next(iter(self.tasks)))


def _certainty(said: TokenSample, row: int) -> Confidence:
    drawn = said.tokens[row, : said.entropy.shape[1]] >= 0
    entropy, margin = said.entropy[row][drawn], said.margin[row][drawn]
    return Confidence(float(entropy.mean()), float(margin.min())) if len(entropy) else Confidence()
