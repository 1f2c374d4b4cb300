"""The neural action codec: normalized chunk -> codes -> normalized chunk (NAC section 3.2)."""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nac_ros.codec.config import CodecConfig
from nac_ros.codec.linear_path import LinearPath
from nac_ros.codec.quantizer import Quantized, ResidualVectorQuantizer
from nac_ros.codec.rotated_quantizer import RotatedResidualQuantizer
from nac_ros.codec.seanet import SeanetEncoder, folded_parameters
from nac_ros.codec.vocos import VocosDecoder


class Reconstruction(NamedTuple):
    """Actions `[B, H, D]` decoded from the quantized latent, and the quantizer's result."""

    actions: Tensor
    quantized: Quantized


class Codec(nn.Module):
    """Normalized float32 chunks `[B, H, D]` <-> codes, int64 `[B, n_s]` per scale s.

    With the rotated quantizer the latent steps are joined to one latent of the chunk, to which
    the linear path adds its own; the decoder gets it divided into steps again.
    """

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        latent_size = config.latent_dim * config.n_steps
        self.encoder = SeanetEncoder(config)
        self.quantizer = _make_quantizer(config)
        self.decoder = VocosDecoder(config)
        self.linear_path: LinearPath | None = None
        if config.encodes_whole_chunks:
            size = config.chunk_latent_dim
            self.linear_path = LinearPath(
                config.horizon, config.action_dim, size, config.path_hidden
            )
            self.join_steps = nn.Linear(latent_size, size)
            self.divide_steps = nn.Linear(size, latent_size)
            self.encoder.init_near_zero()
            self.decoder.head.init_near_zero()
        self.embedding = (
            nn.Parameter(torch.zeros(config.latent_dim, 1)) if config.embodiment else None
        )

    @property
    def n_parameters(self) -> int:
        """Parameters of encoder and decoder with weight norm folded, without buffers."""
        return folded_parameters(self)

    def latent(self, actions: Tensor) -> Tensor:
        """`[B, H, D]` -> unquantized latent `[B, E, T']`, or `[B, E]` of whole chunks."""
        latent = self.encoder(self._to_waveforms(actions))
        if self.linear_path is None:
            return latent
        return self.join_steps(latent.flatten(1)) + self.linear_path.encode(actions)

    def forward(self, actions: Tensor) -> Reconstruction:
        """Encodes, quantizes and decodes `[B, H, D]`; in training mode updates the codebooks."""
        dropout = self.config.prefix_dropout if self.training else 0.0
        quantized = self.quantizer(self.latent(actions), dropout)
        return Reconstruction(self._to_actions(quantized.latent), quantized)

    def reconstruct_unquantized(self, actions: Tensor) -> Tensor:
        """Encodes and decodes `[B, H, D]` without the quantizer, for the start of training."""
        return self._to_actions(self.latent(actions))

    def encode(self, actions: Tensor) -> list[Tensor]:
        """`[B, H, D]` -> codes, int64 `[B, n]` per scale."""
        return self.quantizer.codes(self.latent(actions))

    def decode(self, codes: Sequence[Tensor]) -> Tensor:
        """Codes, int64 `[B, n]` of all scales or the first ones -> `[B, H, D]`."""
        return self._to_actions(self.quantizer.dequantize(codes))

    @torch.no_grad()
    def init_from_data(self, actions: Tensor, mse_weights: Tensor, seed: int) -> None:
        """Sets linear path and codebooks from chunks `[N, H, D]`.

        mse_weights: `[D]`, weights of the squared error
        """
        if self.linear_path is not None:
            self.linear_path.init_from_pca(actions, mse_weights)
        self.init_codebooks(actions, seed)
        self.fit_path_synthesis(actions)

    @torch.no_grad()
    def init_codebooks(self, actions: Tensor, seed: int) -> None:
        """Sets every codebook by k-means on the latents of chunks `[N, H, D]`."""
        self.quantizer.init_codebooks(self.latent(actions), seed)

    @torch.no_grad()
    def fit_path_synthesis(self, actions: Tensor) -> None:
        """Fits the decoding half of the linear path to the quantized latents of `[N, H, D]`."""
        if self.linear_path is not None:
            codes = self.quantizer.codes(self.latent(actions))
            self.linear_path.fit_synthesis(self.quantizer.dequantize(codes), actions)

    def _to_waveforms(self, actions: Tensor) -> Tensor:
        """`[B, H, D]` -> `[B, channels, padded length]`, padded with the last row."""
        dim = self.config.action_dim
        missing = self.config.padded_length - self.config.length
        rows = ceil(missing * self.config.channels / dim)
        padded = torch.cat([actions, actions[:, -1:].expand(-1, rows, -1)], 1)
        if self.config.channels > 1:
            return padded.transpose(1, 2)
        return padded.flatten(1)[:, None, : self.config.padded_length]  # time-major

    def _to_actions(self, latent: Tensor) -> Tensor:
        """Latent as of `latent` -> `[B, H, D]`; padding is cut and never enters a loss."""
        steps = latent  # [B, E, T']
        if self.linear_path is not None:
            steps = self.divide_steps(latent).unflatten(1, (-1, self.config.n_steps))
        if self.embedding is not None:
            steps = steps + self.embedding
        waves = self.decoder(steps)[..., : self.config.length]
        actions = waves.transpose(1, 2).reshape(-1, self.config.horizon, self.config.action_dim)
        return actions if self.linear_path is None else actions + self.linear_path.decode(latent)


def _make_quantizer(config: CodecConfig) -> nn.Module:
    size, ema = config.codebook_size, (config.ema_decay, config.revive_below)
    if config.encodes_whole_chunks:
        return RotatedResidualQuantizer(
            config.chunk_latent_dim, size, config.tokens_per_scale, *ema, config.beam_width
        )
    return ResidualVectorQuantizer(config.latent_dim, size, config.vq_scales, *ema)
