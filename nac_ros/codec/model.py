"""The whole codec: normalised chunk -> codes -> normalised chunk (NAC section 3.2)."""

from dataclasses import dataclass
from math import ceil, lcm, prod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from nac_ros.codec.quantizer import MultiScaleQuantizer, Quantized
from nac_ros.codec.seanet import SeanetEncoder, folded_parameters
from nac_ros.codec.vocos import VocosDecoder


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Sizes of encoder, quantizer and decoder; the defaults are the preset `paper`."""

    horizon: int = 32
    action_dim: int = 7
    latent_dim: int = 512
    n_filters: int = 32
    ratios: tuple[int, ...] = (7, 4)
    lstm: bool = True
    vq_scales: tuple[int, ...] = (2, 1)
    codebook_size: int = 1024
    ema_decay: float = 0.99
    revive_below: float = 0.05
    decoder_dim: int = 768
    decoder_hidden: int = 2304
    decoder_blocks: int = 12
    head: Literal["istft", "linear"] = "istft"
    norm_ids: int = 4

    def __post_init__(self) -> None:
        for name in ("horizon", "action_dim", "latent_dim", "n_filters", "codebook_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"codec: {name} must be at least 1, got {getattr(self, name)}")
        if not self.ratios or not self.vq_scales or min(*self.ratios, *self.vq_scales, 1) < 1:
            raise ValueError(f"codec: bad ratios {self.ratios} or vq_scales {self.vq_scales}")
        if self.decoder_dim % 32:
            raise ValueError(f"codec: decoder_dim {self.decoder_dim} must be a multiple of 32")

    @property
    def hop(self) -> int:
        """Samples of the pseudo-waveform per latent step."""
        return prod(self.ratios)

    @property
    def length(self) -> int:
        """L = H * D, samples that matter."""
        return self.horizon * self.action_dim

    @property
    def n_steps(self) -> int:
        """T': latent steps, enough for L and a multiple of every scale."""
        multiple = lcm(*self.vq_scales)
        return ceil(self.length / (self.hop * multiple)) * multiple

    @property
    def padded_length(self) -> int:
        """Samples with padding, T' * hop."""
        return self.n_steps * self.hop

    @property
    def tokens_per_scale(self) -> tuple[int, ...]:
        return tuple(self.n_steps // scale for scale in self.vq_scales)


class Reconstruction(NamedTuple):
    """actions `[B, H, D]` decoded from the quantized latent, and what the quantizer said."""

    actions: Tensor
    quantized: Quantized


class Codec(nn.Module):
    """Normalised float32 chunks `[B, H, D]` <-> codes, int64 `[B, n_s]` per scale s."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self.encoder = SeanetEncoder(
            config.latent_dim, config.n_filters, config.ratios, config.lstm
        )
        self.quantizer = MultiScaleQuantizer(
            config.latent_dim,
            config.codebook_size,
            config.vq_scales,
            config.ema_decay,
            config.revive_below,
        )
        self.decoder = VocosDecoder(
            config.latent_dim,
            config.decoder_dim,
            config.decoder_hidden,
            config.decoder_blocks,
            config.hop,
            config.n_steps,
            _even(max(config.length, 2 * config.hop)),
            config.head,
            config.norm_ids,
        )

    @property
    def n_parameters(self) -> int:
        """Parameters of encoder and decoder, weight norm folded, no buffers."""
        return folded_parameters(self.encoder) + folded_parameters(self.decoder)

    def latent(self, actions: Tensor) -> Tensor:
        """`[B, H, D]` -> continuous latent `[B, E, T']`; the tail is padded with the last row."""
        flat = actions.flatten(1)  # [B, L], time-major
        missing = self.config.padded_length - flat.shape[1]
        if missing:
            last = actions[:, -1:].expand(-1, ceil(missing / actions.shape[-1]), -1)
            flat = torch.cat([flat, last.flatten(1)[:, :missing]], 1)
        return self.encoder(flat[:, None])

    def forward(self, actions: Tensor) -> Reconstruction:
        """Encode, quantize and decode `[B, H, D]`; in training mode the codebooks follow."""
        quantized = self.quantizer(self.latent(actions))
        return Reconstruction(self._to_actions(quantized.latent), quantized)

    def plain(self, actions: Tensor) -> Tensor:
        """Encode and decode `[B, H, D]` without quantization, for the start of training."""
        return self._to_actions(self.latent(actions))

    def encode(self, actions: Tensor) -> list[Tensor]:
        """`[B, H, D]` -> codes, int64 `[B, n_s]` per scale."""
        return self.quantizer(self.latent(actions)).codes

    def decode(self, codes: list[Tensor]) -> Tensor:
        """Codes, int64 `[B, n_s]` per scale -> `[B, H, D]`."""
        return self._to_actions(self.quantizer.dequantize(codes))

    def _to_actions(self, latent: Tensor) -> Tensor:
        wave = self.decoder(latent)[:, : self.config.length]  # padding is cut, never in a loss
        return wave.reshape(-1, self.config.horizon, self.config.action_dim)


def _even(n: int) -> int:
    return n + n % 2
