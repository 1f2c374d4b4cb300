"""Diffusion Policy (arXiv 2303.04137): the noise in a chunk is predicted and removed step by step.

The transformer form of the paper, 100 noise levels in training and 10 DDIM steps at inference, as
in NAC's Table 5. The trainer averages the weights, as it does for every policy.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.config import number_field
from nac_ros.core.errors import BundleError
from nac_ros.policies.base import POLICIES, PredictionContext, Targets
from nac_ros.policies.denoiser import DenoiserConfig, DenoisingPolicy, fixed_steps
from nac_ros.policies.diffusion_schedule import DiffusionSchedule
from nac_ros.policies.observation_encoder import Inputs


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(DenoiserConfig):
    """Noise levels and DDIM steps, see `DiffusionSchedule`."""

    n_train_steps: int = number_field(100, 1, 10_000)
    n_inference_steps: int = number_field(10, 1, 10_000)


@POLICIES.register("diffusion")
class DiffusionPolicy(DenoisingPolicy):
    """Predicts the noise in chunks; committed steps are inpainted.

    Each step clips its estimate of the chunk to the largest magnitude of the training chunks in
    that column: 1 if they are normalized by minimum and maximum, more by quantiles.
    """

    name = "diffusion"
    Config = DiffusionConfig
    fixes_steps_in_graph = True

    def __init__(self, config: DiffusionConfig, preset: str, chunk_spec: ChunkSpec):
        super().__init__(config, preset, chunk_spec, causal=True)
        self.schedule = DiffusionSchedule(config.n_train_steps, config.n_inference_steps)
        self.register_buffer("clip_range", torch.ones(chunk_spec.action_dim))

    @torch.no_grad()
    def fit_actions(self, actions: np.ndarray, references: np.ndarray) -> None:
        super().fit_actions(actions, references)
        on_device = (torch.from_numpy(x).to(self.clip_range) for x in (actions, references))
        magnitude = self.normalizer.normalize(*on_device).abs().amax((0, 1))
        self.clip_range.copy_(magnitude.clamp(min=1))

    def loss(self, inputs: Inputs, targets: Targets) -> dict[str, Tensor]:
        """Squared error of the predicted noise at one random level for each chunk."""
        chunk = targets["chunk"]
        noise = torch.randn_like(chunk)
        step = torch.randint(self.config.n_train_steps, (len(chunk),), device=chunk.device)
        noisy = self.schedule.add_noise(chunk, noise, step)
        predicted = self.denoiser(noisy, step, self.context_vectors(inputs))
        return {"noise": F.mse_loss(predicted, noise)}

    def denoise(self, noise: Tensor, vectors: Tensor, context: PredictionContext | None) -> Tensor:
        """DDIM. Before each step the committed actions are set to those of the context with the
        first noise at the step's level: where a perfect denoiser would have led them."""
        sample = noise
        for step in self.schedule.timesteps:
            if context is not None:
                wanted = self.schedule.add_noise(context.actions, noise, step)
                sample = torch.where(fixed_steps(context), wanted, sample)
            level = sample.new_full(sample.shape[:1], step)
            predicted = self.denoiser(sample, level, vectors)
            sample = self.schedule.ddim_step(sample, predicted, step, self.clip_range)
        return sample

    def check_loaded(self, path: Path) -> None:
        super().check_loaded(path)
        if not bool((self.clip_range >= 1).all()):
            raise BundleError(f"{path}: clip_range must be at least 1; train or export it again")
