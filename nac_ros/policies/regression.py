"""Chunk regression with an L1 loss: ACT (arXiv 2304.13705) without its latent variable.

A transformer encodes the observation, and a decoder reads it with one learned query for each
action of the chunk. It is deterministic: of several possible motions it predicts their median.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.config import number_field
from nac_ros.core.errors import ConfigError
from nac_ros.policies.base import (
    PAPER_TRAINING,
    POLICIES,
    PolicyOutput,
    PredictionContext,
    Targets,
)
from nac_ros.policies.direct_policy import DirectPolicy, DirectPolicyConfig
from nac_ros.policies.graphs import Graph, Tensors, example_observations, to_inputs
from nac_ros.policies.observation_encoder import Inputs, ObservationEncoder
from nac_ros.policies.sampling import Generator
from nac_ros.policies.transformer import CausalTransformer
from nac_ros.tokenizers.serialization import check_elements


@dataclass(frozen=True, kw_only=True)
class RegressionConfig(DirectPolicyConfig):
    """Network sizes: width, heads and dropout of NAC's Table 5, layers of ACT, whose code uses the
    first of its decoder layers only."""

    dim: int = number_field(256, 1)
    n_encoder_layers: int = number_field(4, 1)
    n_decoder_layers: int = number_field(1, 1)
    n_heads: int = number_field(4, 1)
    dropout: float = number_field(0.1, 0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.n_heads:
            raise ConfigError(f"dim {self.dim} must be a multiple of n_heads {self.n_heads}")


@POLICIES.register("regression")
class RegressionPolicy(DirectPolicy):
    """Transformer encoder of the context vectors, decoder with H learned queries."""

    name = "regression"
    Config = RegressionConfig
    presets = {"paper": {}, "small": {"dim": 192}}
    training_defaults = {"paper": PAPER_TRAINING}

    def __init__(self, config: RegressionConfig, preset: str, chunk_spec: ChunkSpec):
        super().__init__(config, preset, chunk_spec)
        dim, horizon = config.dim, chunk_spec.horizon
        check_elements("the queries", horizon, dim)
        check_elements("the attention between actions", horizon, horizon)
        self.observation_encoder = ObservationEncoder(config, dim, chunk_spec.action_dim)
        n_vectors = self.observation_encoder.n_vectors
        self.context_embedding = nn.Parameter(torch.randn(n_vectors, dim) * 0.02)
        self.queries = nn.Parameter(torch.randn(horizon, dim) * 0.02)
        # With `n_context` of the full length, every position sees all others.
        self.encoder = CausalTransformer(
            dim, config.n_encoder_layers, config.n_heads, config.dropout, n_context=n_vectors
        )
        self.decoder = CausalTransformer(
            dim,
            config.n_decoder_layers,
            config.n_heads,
            config.dropout,
            n_context=horizon,
            cross_attention=True,
        )
        self.head = nn.Linear(dim, chunk_spec.action_dim)

    @torch.no_grad()
    def fit_actions(self, actions: np.ndarray, references: np.ndarray) -> None:
        """As of the base class; a policy that was trained before predicts the same actions."""
        before = self.normalizer
        is_new = bool((before.low == before.high).all())
        centre, half_range = before.centre, before.half_range
        super().fit_actions(actions, references)
        if is_new:
            return
        after = self.normalizer
        ratio = half_range / after.half_range
        self.head.weight.mul_(ratio[:, None])
        self.head.bias.mul_(ratio).add_((centre - after.centre) / after.half_range)

    def loss(self, inputs: Inputs, targets: Targets) -> dict[str, Tensor]:
        return {"l1": (self._chunk(inputs) - targets["chunk"]).abs().mean()}

    @torch.no_grad()
    def predict(
        self,
        inputs: Inputs,
        n_samples: int = 1,
        context: PredictionContext | None = None,
        generator: Generator = None,
    ) -> PolicyOutput:
        """As of the base class; the samples of an observation are equal. Raises ConfigError if a
        context is given."""
        if context is not None:
            raise ConfigError(
                "policy regression cannot keep committed steps of a chunk; choose transition blend"
            )
        return PolicyOutput(self._chunk(inputs).repeat_interleave(n_samples, 0))

    def graphs(self) -> dict[str, Graph]:
        """`context` gives the normalized `chunk`."""

        def context(tensors: Tensors) -> tuple[Tensor, ...]:
            return (self._chunk(to_inputs(tensors)),)

        return {"context": Graph(context, example_observations(self.observation_spec), ("chunk",))}

    def _chunk(self, inputs: Inputs) -> Tensor:
        """Normalized chunks, float32 `[B, H, D]`."""
        vectors = self.context_vectors(inputs) + self.context_embedding
        memory, _ = self.encoder(vectors)
        queries = self.queries.expand(vectors.shape[0], -1, -1)
        hidden, _ = self.decoder(queries, None, memory)
        return self.head(hidden).float()
