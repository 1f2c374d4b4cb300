"""Interface of a policy that is ready to run: observation -> chunks in physical units, in numpy.

It has two implementations: nac_ros.inference.torch_runtime, and nac_ros.inference.onnx_runtime,
which needs ONNX Runtime and no torch. nac_ros.inference.load_runtime chooses one.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.observation_spec import ObservationSpec
from nac_ros.core.types import Observation
from nac_ros.export.bundle_files import check_robot
from nac_ros.robot.spec import RobotSpec

RuntimeName = Literal["auto", "torch", "onnx"]


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """What runs a policy.

    runtime: torch; onnx = ONNX Runtime without torch, which needs a bundle that was exported with
        `nac export --runtime onnx`; auto = onnx where the bundle has it, else torch
    threads: CPU threads of a prediction; one leaves the other cores to the guard
    """

    runtime: RuntimeName = "auto"
    threads: int = number_field(1, 1, 256)

    def __post_init__(self) -> None:
        check_fields(self)


class ChunkContext(NamedTuple):
    """The current chunk, at the time steps of the chunk to be predicted.

    actions: float32 `[H, D]` [rad or m]; its last action is held beyond its end
    committed: bool `[H]`, steps that will have been executed before the new chunk takes effect
    known: bool `[H]`, steps before the end of the current chunk
    """

    actions: np.ndarray
    committed: np.ndarray
    known: np.ndarray


class Prediction(NamedTuple):
    """Predicted chunks of one observation.

    actions: float32 `[N, H, D]` [rad or m]
    tokens: int64 `[N, L]` that they were decoded from, -1 after a shorter sequence; None without
    entropy, margin: float `[N, L]`, see nac_ros.core.sampling; None without sampled tokens
    decode_s: duration of decoding the tokens [s]
    """

    actions: np.ndarray
    tokens: np.ndarray | None = None
    entropy: np.ndarray | None = None
    margin: np.ndarray | None = None
    decode_s: float = 0.0


class PolicyRuntime(ABC):
    """The policy of the bundle at `path`.

    robot: description of its robot; horizon: steps of a chunk; rate_hz: control rate
    n_action_steps: executed steps of each chunk before a newer one replaces it
    observation_spec: what the policy observes
    notice: a remark for the user on how it runs, '' if there is none
    """

    notice = ""
    name: ClassVar[str]
    path: Path
    robot: RobotSpec
    horizon: int
    rate_hz: float
    n_action_steps: int
    observation_spec: ObservationSpec

    @abstractmethod
    def predict(
        self,
        observation: Observation,
        generator: np.random.Generator,
        n_samples: int = 1,
        context: ChunkContext | None = None,
    ) -> Prediction:
        """Predicts `n_samples` chunks, the same ones in both implementations up to rounding.

        context: only if `supports_context`. Raises BadObservation, BadTokens or UnknownName.
        """

    @property
    @abstractmethod
    def supports_context(self) -> bool:
        """Whether `predict` uses a ChunkContext."""

    @abstractmethod
    def task_index(self, task: str) -> int:
        """Index of a task id or prompt; raises UnknownName, which lists the known ones."""

    @abstractmethod
    def describe(self) -> str:
        """A few words for messages."""

    def check_robot(self, spec: RobotSpec) -> None:
        """Raises BundleError unless `spec` has the joints, units, rate and cameras of training."""
        check_robot(self.robot, spec, self.observation_spec.cameras, self.path)
