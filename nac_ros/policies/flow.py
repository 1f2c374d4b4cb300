"""Conditional flow matching (arXiv 2210.02747): a velocity field carries noise to chunks.

The paths from noise to chunk are straight, as in pi0 (arXiv 2410.24164), and integrated in 10
Euler steps. The current chunk is continued by real-time chunking (arXiv 2506.07339).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.config import number_field
from nac_ros.policies.base import POLICIES, PredictionContext, Targets
from nac_ros.policies.denoiser import DenoiserConfig, DenoisingPolicy
from nac_ros.policies.observation_encoder import Inputs

LEVELS = 100.0  # of the denoiser for time 1, so that its features of the time vary enough


@dataclass(frozen=True, kw_only=True)
class FlowConfig(DenoiserConfig):
    """n_inference_steps: Euler steps

    max_guidance_weight: bound of the correction in real-time chunking, the paper's beta
    """

    n_inference_steps: int = number_field(10, 1, 10_000)
    max_guidance_weight: float = number_field(5.0, 0)


@POLICIES.register("flow")
class FlowPolicy(DenoisingPolicy):
    """Predicts the velocity from noise (time 0) to chunk (time 1); committed steps are guided."""

    name = "flow"
    Config = FlowConfig

    def __init__(self, config: FlowConfig, preset: str, chunk_spec: ChunkSpec):
        super().__init__(config, preset, chunk_spec, causal=False)

    def loss(self, inputs: Inputs, targets: Targets) -> dict[str, Tensor]:
        """Squared error of the velocity at one uniform random time for each chunk."""
        chunk = targets["chunk"]
        noise = torch.randn_like(chunk)
        time = torch.rand(len(chunk), device=chunk.device)
        sample = torch.lerp(noise, chunk, time[:, None, None])
        velocity = self.denoiser(sample, LEVELS * time, self.context_vectors(inputs))
        return {"velocity": F.mse_loss(velocity, chunk - noise)}

    def denoise(self, noise: Tensor, vectors: Tensor, context: PredictionContext | None) -> Tensor:
        sample, n_steps = noise, self.config.n_inference_steps
        for k in range(n_steps):
            if context is None:
                velocity = self._velocity(sample, k / n_steps, vectors)
            else:
                velocity = self._guided_velocity(sample, k / n_steps, vectors, context)
            sample = sample + velocity / n_steps
        return sample

    def _velocity(self, sample: Tensor, time: float, vectors: Tensor) -> Tensor:
        level = sample.new_full(sample.shape[:1], LEVELS * time)
        return self.denoiser(sample, level, vectors)

    def _guided_velocity(
        self, sample: Tensor, time: float, vectors: Tensor, context: PredictionContext
    ) -> Tensor:
        """Velocity with the pseudo-inverse correction of real-time chunking, equations 2 to 4.

        The error of the chunk estimated from `sample`, weighted by the soft mask, is carried back
        to the sample by the vector-Jacobian product of the estimate.
        """
        with torch.enable_grad():
            sample = sample.detach().requires_grad_()
            velocity = self._velocity(sample, time, vectors)
            estimate = sample + (1 - time) * velocity
            error = (context.actions - estimate) * guidance_mask(context)[..., None]
            (correction,) = torch.autograd.grad(estimate, sample, error.detach())
        return velocity.detach() + self._guidance_weight(time) * correction

    def _guidance_weight(self, time: float) -> float:
        """(1 - t) / (t r^2) with r^2 = (1 - t)^2 / (t^2 + (1 - t)^2), at most the bound."""
        limit = self.config.max_guidance_weight
        if time == 0:
            return limit
        return min((time**2 + (1 - time) ** 2) / (time * (1 - time)), limit)


def guidance_mask(context: PredictionContext) -> Tensor:
    """Soft mask of real-time chunking (equation 5), float `[B, H]`: 1 at committed steps, falling
    exponentially over the other known steps, 0 after the end of the current chunk."""
    horizon = context.known.shape[1]
    index = torch.arange(horizon, device=context.known.device)
    n_known = context.known.sum(1, keepdim=True)
    n_committed = (context.committed & context.known).sum(1, keepdim=True)
    share = ((n_known - index) / (n_known - n_committed + 1)).clamp(0, 1)
    return share * torch.expm1(share) / (math.e - 1)
