"""Runs the policy of a bundle with torch; its tokens may be decoded by ONNX Runtime."""

import numpy as np
import torch

from nac_ros.core.types import Observation
from nac_ros.export.bundle import Bundle
from nac_ros.inference.policy_runtime import ChunkContext, PolicyRuntime, Prediction
from nac_ros.policies.base import PredictionContext


class TorchRuntime(PolicyRuntime):
    """threads: of torch in this process; None leaves them as they are"""

    name = "torch"

    def __init__(self, bundle: Bundle, threads: int | None = None):
        self._bundle, self.path, self.robot = bundle, bundle.path, bundle.robot
        self.horizon, self.rate_hz = bundle.horizon, bundle.rate_hz
        self._policy = bundle.policy
        self.n_action_steps = self._policy.config.n_action_steps
        self.observation_spec = self._policy.observation_spec
        self.notice = "" if bundle.detokenizer is None else bundle.detokenizer.notice
        if threads is not None:
            torch.set_num_threads(threads)

    def predict(
        self,
        observation: Observation,
        generator: np.random.Generator,
        n_samples: int = 1,
        context: ChunkContext | None = None,
    ) -> Prediction:
        inputs, reference = self._policy.inputs(observation), observation.reference
        given = None if context is None else self._normalized(context, reference)
        with self._bundle.device.autocast():
            output = self._policy.predict(inputs, n_samples, given, generator)
        references = np.repeat(reference[None], len(output.chunk), 0)
        actions, decode_s = self._bundle.to_actions(output, references), self._bundle.decode_s
        tokens = None if output.tokens is None else output.tokens.cpu().numpy()
        if output.confidence is None:
            return Prediction(actions, tokens, decode_s=decode_s)
        measures = (values.cpu().numpy() for values in output.confidence)
        return Prediction(actions, tokens, *measures, decode_s)

    @property
    def supports_context(self) -> bool:
        return self._policy.supports_context

    def task_index(self, task: str) -> int:
        return self._policy.task_index(task)

    def describe(self) -> str:
        return self._policy.describe()

    def _normalized(self, context: ChunkContext, reference: np.ndarray) -> PredictionContext:
        """The context for the policy, as a batch of one."""
        device = self._policy.device
        actions, committed, known, state = (
            torch.from_numpy(np.asarray(values)[None]).to(device)
            for values in (*context, reference.astype(np.float32))
        )
        actions = self._policy.normalizer.normalize(actions, state)
        return PredictionContext(actions, committed, known)
