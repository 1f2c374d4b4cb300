"""Noise schedule of diffusion with the DDIM sampler, equal to `diffusers.DDIMScheduler`."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from nac_ros.core.errors import ConfigError

MAX_BETA = 0.999  # of the squared cosine schedule (Nichol and Dhariwal, arXiv 2102.09672)
OFFSET = 0.008  # of its cosine


class DiffusionSchedule(nn.Module):
    """Squared cosine schedule `squaredcos_cap_v2` and deterministic DDIM steps (eta = 0).

    A noisy sample of step t is `sqrt(a_t) clean + sqrt(1 - a_t) noise` with a_t of
    `signal_power`. Source: DDIM, arXiv 2010.02502; the settings are those of Diffusion Policy.

    n_train_steps: noise levels, step 0 is the least noisy
    n_inference_steps: DDIM steps; their spacing is "leading" (the default of diffusers, which
        Diffusion Policy keeps): multiples of n_train_steps // n_inference_steps from 0 on
    """

    signal_power: Tensor

    def __init__(self, n_train_steps: int, n_inference_steps: int):
        super().__init__()
        if not 1 <= n_inference_steps <= n_train_steps:
            raise ConfigError(
                f"n_inference_steps must be in 1 .. {n_train_steps}, the n_train_steps, "
                f"got {n_inference_steps}"
            )
        self.n_train_steps = n_train_steps
        self._stride = n_train_steps // n_inference_steps
        self.timesteps = [k * self._stride for k in reversed(range(n_inference_steps))]
        power = [_cosine_power(k / n_train_steps) for k in range(n_train_steps + 1)]
        betas = torch.tensor([min(1 - b / a, MAX_BETA) for a, b in pairwise(power)])
        signal_power = (1 - betas).cumprod(0)  # [n_train_steps]
        self.register_buffer("signal_power", signal_power, persistent=False)

    def add_noise(self, clean: Tensor, noise: Tensor, step: Tensor | int) -> Tensor:
        """Noisy samples `[B, ...]` of clean ones and standard normal noise `[B, ...]`.

        step: int64 `[B]`, or one for all
        """
        power = self.signal_power[step]
        power = power.reshape(power.shape + (1,) * (clean.ndim - power.ndim))
        return power.sqrt() * clean + (1 - power).sqrt() * noise

    def ddim_step(
        self, sample: Tensor, noise: Tensor, step: int, clip_range: Tensor | float = 1.0
    ) -> Tensor:
        """Sample `[B, ...]` of step `step` and the noise predicted in it -> sample of the next
        smaller of `timesteps`, the clean one after the last.

        clip_range: largest magnitude of the clean sample that is estimated, or `[...]` of them
        """
        power = self.signal_power[step]
        clean = (sample - (1 - power).sqrt() * noise) / power.sqrt()
        clean = clean.clamp(-clip_range, clip_range)
        if step < self._stride:
            return clean
        return self.add_noise(clean, noise, step - self._stride)


def _cosine_power(time: float) -> float:
    """Power of the signal at a time from 0 to 1."""
    return math.cos((time + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2
