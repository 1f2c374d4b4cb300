"""Network that `diffusion` and `flow` share, and what their policies have in common."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.config import number_field
from nac_ros.core.errors import ConfigError
from nac_ros.policies.base import PAPER_TRAINING, PolicyOutput, PredictionContext
from nac_ros.policies.direct_policy import DirectPolicy, DirectPolicyConfig
from nac_ros.policies.graphs import EXAMPLES, Graph, Tensors, example_observations, to_inputs
from nac_ros.policies.observation_encoder import Inputs, ObservationEncoder
from nac_ros.policies.sampling import Generator, draw_normal
from nac_ros.policies.transformer import CausalTransformer
from nac_ros.tokenizers.serialization import check_elements

MAX_PERIOD = 10_000.0  # of the sine and cosine features of the diffusion step


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig(DirectPolicyConfig):
    """Sizes of the denoiser; those of the paper's Table 5 are the defaults."""

    dim: int = number_field(256, 4)
    n_layers: int = number_field(4, 1)
    n_heads: int = number_field(4, 1)
    dropout: float = number_field(0.1, 0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.n_heads or self.dim % 2:
            raise ConfigError(
                f"dim {self.dim} must be even and a multiple of n_heads {self.n_heads}"
            )


class ChunkDenoiser(nn.Module):
    """Noisy chunks, noise level and context vectors -> noise or velocity of each action.

    The transformer of Diffusion Policy (arXiv 2303.04137, section III-A): the actions are its
    sequence, and each layer reads the noise level and the observation by cross-attention.

    causal: an action attends to itself and those before it only
    """

    def __init__(
        self, config: DenoiserConfig, chunk_spec: ChunkSpec, n_vectors: int, causal: bool
    ):
        super().__init__()
        dim, horizon, action_dim = config.dim, chunk_spec.horizon, chunk_spec.action_dim
        check_elements("the position embedding", horizon, dim)
        check_elements("the attention between actions", horizon, horizon)
        self.action_embedding = nn.Linear(action_dim, dim)
        self.position_embedding = nn.Parameter(torch.randn(horizon, dim) * 0.02)
        self.condition_embedding = nn.Parameter(torch.randn(1 + n_vectors, dim) * 0.02)
        self.condition_encoder = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.Mish(), nn.Linear(4 * dim, dim)
        )
        self.transformer = CausalTransformer(
            dim,
            config.n_layers,
            config.n_heads,
            config.dropout,
            n_context=0 if causal else horizon,
            cross_attention=True,
        )
        self.head = nn.Linear(dim, action_dim)

    def forward(self, noisy: Tensor, level: Tensor, vectors: Tensor) -> Tensor:
        """Noisy `[B, H, D]`, level `[B]` from 0 to about 100, vectors `[B, n, dim]` ->
        float32 `[B, H, D]`."""
        embedded = sinusoidal_embedding(level, vectors.shape[-1])[:, None]
        condition = torch.cat([embedded, vectors], 1) + self.condition_embedding
        condition = self.condition_encoder(condition)  # [B, 1 + n, dim]
        sequence = self.action_embedding(noisy) + self.position_embedding
        hidden, _ = self.transformer(sequence, None, condition)
        return self.head(hidden).float()


class DenoisingPolicy(DirectPolicy):
    """A policy that turns noise into chunks step by step; a subclass makes `denoiser` and
    implements `denoise` and `loss`.

    fixes_steps_in_graph: whether `denoise` with a context needs no gradients, so that an exported
        graph can do it
    """

    Config = DenoiserConfig
    fixes_steps_in_graph: ClassVar[bool] = False
    presets = {"paper": {}, "small": {"dim": 192}}
    training_defaults = {"paper": PAPER_TRAINING}

    def __init__(self, config: DenoiserConfig, preset: str, chunk_spec: ChunkSpec, causal: bool):
        super().__init__(config, preset, chunk_spec)
        self.observation_encoder = ObservationEncoder(config, config.dim, chunk_spec.action_dim)
        n_vectors = self.observation_encoder.n_vectors
        self.denoiser = ChunkDenoiser(config, chunk_spec, n_vectors, causal)

    @abstractmethod
    def denoise(self, noise: Tensor, vectors: Tensor, context: PredictionContext | None) -> Tensor:
        """Standard normal noise and context vectors `[B, n, dim]` -> chunks, both `[B, H, D]`."""

    @property
    def supports_context(self) -> bool:
        return True

    @torch.no_grad()
    def predict(
        self,
        inputs: Inputs,
        n_samples: int = 1,
        context: PredictionContext | None = None,
        generator: Generator = None,
    ) -> PolicyOutput:
        vectors = self.context_vectors(inputs).float().repeat_interleave(n_samples, 0)
        if context is not None:
            context = PredictionContext(*(x.repeat_interleave(n_samples, 0) for x in context))
        shape = (len(vectors), self.chunk_spec.horizon, self.chunk_spec.action_dim)
        noise = draw_normal(shape, generator, self.device)
        chunk = self.denoise(noise, vectors, context)
        if context is not None:
            chunk = torch.where(fixed_steps(context), context.actions, chunk)
        return PolicyOutput(chunk)

    def graphs(self) -> dict[str, Graph]:
        """`context` gives the context `vectors`; `denoise` turns them and `noise` into the
        normalized `chunk`. With `fixes_steps_in_graph` it also takes `current`, the current
        chunk, and `fixed`, bool `[B, H]`, the steps that the new one takes from it."""

        def context(tensors: Tensors) -> tuple[Tensor, ...]:
            return (self.context_vectors(to_inputs(tensors)).float(),)

        def denoise(tensors: Tensors) -> tuple[Tensor, ...]:
            kept = None
            if "fixed" in tensors:
                fixed = tensors["fixed"]
                kept = PredictionContext(tensors["current"], fixed, fixed)
            chunk = self.denoise(tensors["noise"], tensors["vectors"], kept)
            if kept is not None:
                chunk = torch.where(fixed_steps(kept), kept.actions, chunk)
            return (chunk,)

        spec, n_vectors = self.chunk_spec, self.observation_encoder.n_vectors
        noise = torch.zeros(EXAMPLES, spec.horizon, spec.action_dim)
        inputs = {"noise": noise, "vectors": torch.zeros(EXAMPLES, n_vectors, self.config.dim)}
        if self.fixes_steps_in_graph:
            inputs |= {"current": noise.clone(), "fixed": torch.ones(noise.shape[:2]).bool()}
        observed = example_observations(self.observation_spec)
        return {
            "context": Graph(context, observed, ("vectors",)),
            "denoise": Graph(denoise, inputs, ("chunk",)),
        }


def fixed_steps(context: PredictionContext) -> Tensor:
    """Steps whose actions the new chunk must have: committed, and of the current chunk; bool
    `[B, H, 1]`."""
    return (context.committed & context.known)[..., None]


def sinusoidal_embedding(level: Tensor, dim: int) -> Tensor:
    """Sines and cosines of levels `[B]` at periods from 2 pi to 2 pi MAX_PERIOD, `[B, dim]`."""
    exponent = torch.linspace(0, 1, dim // 2, device=level.device)
    angle = level.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * exponent)
    return torch.cat([angle.sin(), angle.cos()], 1)
