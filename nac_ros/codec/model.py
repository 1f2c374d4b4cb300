"""The whole codec: normalised chunk -> codes -> normalised chunk (NAC section 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, lcm, prod
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nac_ros.codec.linear_path import LinearPath
from nac_ros.codec.quantizer import MultiScaleQuantizer, Quantized
from nac_ros.codec.rotated_quantizer import RotatedResidualQuantizer
from nac_ros.codec.seanet import SeanetEncoder, folded_parameters
from nac_ros.codec.vocos import VocosDecoder


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Sizes of encoder, quantizer and decoder; the defaults are the preset `paper`.

    layout: flat, one waveform of H * D samples as in the paper, or channels, D waveforms of H;
        the hop, prod(ratios), is in samples of a waveform
    span: what a token names. step: a stretch of the latent, as in the paper; chunk: what the
        tokens before left of the whole chunk, one vector of `chunk_dim` (nac_ros.codec.rotated_quantizer),
        with a dense path of `path_hidden` beside the networks (nac_ros.codec.linear_path)
    beam: beginnings kept while the codes of a chunk are chosen, with span chunk
    prefix_dropout: share of training chunks decoded from their first codes alone, so that these
        can be: of the first scale with span step, any number with span chunk
    embodiment: name of the robot among several that share one codec; gives it an embedding
    """

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
    layout: Literal["flat", "channels"] = "flat"
    span: Literal["step", "chunk"] = "step"
    chunk_dim: int = 96
    path_hidden: int = 0
    beam: int = 1
    prefix_dropout: float = 0.0
    embodiment: str = ""

    def __post_init__(self) -> None:
        positive = ("horizon", "action_dim", "latent_dim", "n_filters", "codebook_size")
        for name in (*positive, "chunk_dim", "beam"):
            if getattr(self, name) < 1:
                raise ValueError(f"codec: {name} must be at least 1, got {getattr(self, name)}")
        if not self.ratios or not self.vq_scales or min(*self.ratios, *self.vq_scales, 1) < 1:
            raise ValueError(f"codec: bad ratios {self.ratios} or vq_scales {self.vq_scales}")
        if self.decoder_dim % 32:
            raise ValueError(f"codec: decoder_dim {self.decoder_dim} must be a multiple of 32")
        if not 0 <= self.prefix_dropout < 1:
            raise ValueError(
                f"codec: prefix_dropout {self.prefix_dropout} must be at least 0 and below 1"
            )
        if self.beam > 1 and self.span == "step":
            raise ValueError(
                f"codec: beam {self.beam} needs span chunk, span is step; set beam to 1"
            )
        if self.path_hidden < 0 or (self.path_hidden and self.span == "step"):
            raise ValueError(
                f"codec: path_hidden {self.path_hidden} must be 0 with span step, at least 0 else"
            )

    @property
    def hop(self) -> int:
        """Samples of a waveform per latent step."""
        return prod(self.ratios)

    @property
    def channels(self) -> int:
        """Waveforms: one, or one a dimension."""
        return self.action_dim if self.layout == "channels" else 1

    @property
    def length(self) -> int:
        """L, samples of a waveform that matter; H * D of the one."""
        return self.horizon * self.action_dim // self.channels

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

    @property
    def token_time_spans(self) -> np.ndarray | None:
        """Steps of the chunk `[first, end)` that each code is about, int64 `[L, 2]`, as far as
        the hop goes (the networks look farther); None with span chunk."""
        if self.span == "chunk":
            return None
        samples = self.action_dim // self.channels  # of a waveform in one step of the chunk
        widths = [self.hop * scale for scale in self.vq_scales]
        rows = [
            (width * k // samples, -(-width * (k + 1) // samples))
            for width, n in zip(widths, self.tokens_per_scale)
            for k in range(n)
        ]
        return np.minimum(rows, self.horizon)


class Reconstruction(NamedTuple):
    """actions `[B, H, D]` decoded from the quantized latent, and what the quantizer said."""

    actions: Tensor
    quantized: Quantized


class Codec(nn.Module):
    """Normalised float32 chunks `[B, H, D]` <-> codes, int64 `[B, n_s]` per scale s."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        dim, steps = config.latent_dim, config.n_steps
        self.encoder = SeanetEncoder(
            dim, config.n_filters, config.ratios, config.lstm, config.channels
        )
        self.quantizer = _quantizer(config)
        self.decoder = VocosDecoder(
            dim,
            config.decoder_dim,
            config.decoder_hidden,
            config.decoder_blocks,
            config.hop,
            steps,
            _even(max(config.length, 2 * config.hop)),
            config.head,
            config.norm_ids,
            config.channels,
        )
        self.path: LinearPath | None = None
        if config.span == "chunk":
            whole = config.chunk_dim
            self.path = LinearPath(config.horizon, config.action_dim, whole, config.path_hidden)
            self.join = nn.Linear(dim * steps, whole)  # the encoder's latent to one of the chunk
            self.divide = nn.Linear(whole, dim * steps)
            self.encoder.hush()
            self.decoder.hush()
        self.embedding = nn.Parameter(torch.zeros(dim, 1)) if config.embodiment else None

    @property
    def n_parameters(self) -> int:
        """Parameters of encoder and decoder, weight norm folded, no buffers."""
        return folded_parameters(self)

    def latent(self, actions: Tensor) -> Tensor:
        """`[B, H, D]` -> continuous latent `[B, E, T']`, or `[B, chunk_dim]` with span chunk.

        The tail of the waveform is padded with the last row.
        """
        latent = self.encoder(self._to_waves(actions))
        if self.path is None:
            return latent
        return self.join(latent.flatten(1)) + self.path.encode(actions)

    def forward(self, actions: Tensor) -> Reconstruction:
        """Encode, quantize and decode `[B, H, D]`; in training mode the codebooks follow."""
        dropout = self.config.prefix_dropout if self.training else 0.0
        quantized = self.quantizer(self.latent(actions), dropout)
        return Reconstruction(self._to_actions(quantized.latent), quantized)

    def plain(self, actions: Tensor) -> Tensor:
        """Encode and decode `[B, H, D]` without quantization, for the start of training."""
        return self._to_actions(self.latent(actions))

    def encode(self, actions: Tensor) -> list[Tensor]:
        """`[B, H, D]` -> codes, int64 `[B, n_s]` per scale."""
        return self.quantizer.codes(self.latent(actions))

    def decode(self, codes: Sequence[Tensor]) -> Tensor:
        """Codes, int64 `[B, n_s]` of all scales or the first ones -> `[B, H, D]`."""
        return self._to_actions(self.quantizer.dequantize(codes))

    @torch.no_grad()
    def begin(self, actions: Tensor, metric: Tensor, seed: int) -> None:
        """Dense path and codebooks from chunks `[N, H, D]`; metric `[D]`: what errors count."""
        if self.path is not None:
            self.path.begin(actions, metric)
        self.begin_codes(actions, seed)
        self.end_path(actions)

    @torch.no_grad()
    def begin_codes(self, actions: Tensor, seed: int) -> None:
        """k-means of every codebook on the latents of chunks `[N, H, D]`."""
        self.quantizer.initialise(self.latent(actions), seed)

    @torch.no_grad()
    def end_path(self, actions: Tensor) -> None:
        """The path's way back, where there is one, from what the codes of `[N, H, D]` say."""
        if self.path is not None:
            codes = self.quantizer.codes(self.latent(actions))
            self.path.fit_synthesis(self.quantizer.dequantize(codes), actions)

    def _to_waves(self, actions: Tensor) -> Tensor:
        """`[B, H, D]` -> `[B, channels, padded length]`."""
        dim = self.config.action_dim
        missing = self.config.padded_length - self.config.length
        rows = ceil(missing * self.config.channels / dim)
        padded = torch.cat([actions, actions[:, -1:].expand(-1, rows, -1)], 1)
        if self.config.channels > 1:
            return padded.transpose(1, 2)
        return padded.flatten(1)[:, None, : self.config.padded_length]  # time-major

    def _to_actions(self, latent: Tensor) -> Tensor:
        shown = latent
        if self.path is not None:
            shown = self.divide(latent).unflatten(1, (-1, self.config.n_steps))
        if self.embedding is not None:
            shown = shown + self.embedding
        waves = self.decoder(shown)[..., : self.config.length]  # padding is cut, never in a loss
        actions = waves.transpose(1, 2).reshape(-1, self.config.horizon, self.config.action_dim)
        return actions if self.path is None else actions + self.path.decode(latent)


def _quantizer(config: CodecConfig) -> nn.Module:
    size, ema = config.codebook_size, (config.ema_decay, config.revive_below)
    if config.span == "chunk":
        return RotatedResidualQuantizer(
            config.chunk_dim, size, config.tokens_per_scale, *ema, config.beam
        )
    return MultiScaleQuantizer(config.latent_dim, size, config.vq_scales, *ema)


def _even(n: int) -> int:
    return n + n % 2
