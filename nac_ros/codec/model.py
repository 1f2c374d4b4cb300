"""The neural action codec: normalized chunk -> codes -> normalized chunk (NAC section 3.2)."""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nac_ros.codec.config import CodecConfig
from nac_ros.codec.quantizer import Quantized, ResidualVectorQuantizer
from nac_ros.codec.seanet import SeanetEncoder, folded_parameters
from nac_ros.codec.vocos import VocosDecoder


class Reconstruction(NamedTuple):
    """Actions `[B, H, D]` decoded from the quantized latent, and the quantizer's result."""

    actions: Tensor
    quantized: Quantized


class Codec(nn.Module):
    """Normalized float32 chunks `[B, H, D]` <-> codes, int64 `[B, n_s]` per scale s."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self.encoder = SeanetEncoder(config)
        self.quantizer = ResidualVectorQuantizer(
            config.latent_dim,
            config.codebook_size,
            config.vq_scales,
            config.ema_decay,
            config.revive_below,
            config.beam_width,
        )
        self.decoder = VocosDecoder(config)
        self.embedding = (
            nn.Parameter(torch.zeros(config.latent_dim, 1)) if config.embodiment else None
        )

    @property
    def n_parameters(self) -> int:
        """Parameters of encoder and decoder with weight norm folded, without buffers."""
        return folded_parameters(self)

    def latent(self, actions: Tensor) -> Tensor:
        """`[B, H, D]` -> unquantized latent `[B, E, T']`."""
        return self.encoder(self._to_waveform(actions))

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
    def init_codebooks(self, actions: Tensor, seed: int) -> None:
        """Sets every codebook by k-means on the latents of chunks `[N, H, D]`."""
        self.quantizer.init_codebooks(self.latent(actions), seed)

    def _to_waveform(self, actions: Tensor) -> Tensor:
        """`[B, H, D]` -> `[B, 1, padded length]`, time-major, padded with the last row."""
        missing = self.config.padded_length - self.config.length
        rows = ceil(missing / self.config.action_dim)
        padded = torch.cat([actions, actions[:, -1:].expand(-1, rows, -1)], 1)
        return padded.flatten(1)[:, None, : self.config.padded_length]

    def _to_actions(self, latent: Tensor) -> Tensor:
        """`[B, E, T']` -> `[B, H, D]`; padding is cut and never enters a loss."""
        steps = latent if self.embedding is None else latent + self.embedding
        wave = self.decoder(steps)[..., : self.config.length]
        return wave.reshape(-1, self.config.horizon, self.config.action_dim)
