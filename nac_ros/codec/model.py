"""The neural action codec: normalized chunk -> codes -> normalized chunk (NAC section 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, lcm, prod
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nac_ros.codec.linear_path import LinearPath
from nac_ros.codec.quantizer import Quantized, ResidualVectorQuantizer
from nac_ros.codec.rotated_quantizer import RotatedResidualQuantizer
from nac_ros.codec.seanet import SeanetEncoder, folded_parameters
from nac_ros.codec.vocos import VocosDecoder


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Sizes of encoder, quantizer and decoder; the defaults are the preset `paper`.

    ratios: strides of the encoder; their product, the hop, is in samples of a waveform
    vq_scales: latent steps averaged by each stage of the quantizer
    ema_decay, revive_below: of the codebooks (nac_ros.codec.quantizer.EmaCodebook)
    norm_ids: pairs of gain and offset in the decoder's adaptive layer norms; 0 = layer norm
    layout: flat, one waveform of H * D samples as in the paper; channels, D waveforms of H
    quantizer: multi_scale, tokens describe latent steps as in the paper; rotated, each token
        quantizes the residual of one latent of the whole chunk (nac_ros.codec.rotated_quantizer),
        and a linear path runs parallel to the networks (nac_ros.codec.linear_path)
    chunk_latent_dim, path_hidden, beam_width: with the rotated quantizer, size of that latent,
        width of the path's MLPs (0 = none), and code prefixes kept while encoding
    prefix_dropout: share of training chunks decoded from a prefix of their codes, so that
        prefixes decode: the first scale, or with the rotated quantizer any number of codes
    embodiment: name of the robot among several that share one codec; adds an embedding
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
    quantizer: Literal["multi_scale", "rotated"] = "multi_scale"
    chunk_latent_dim: int = 96
    path_hidden: int = 0
    beam_width: int = 1
    prefix_dropout: float = 0.0
    embodiment: str = ""

    def __post_init__(self) -> None:
        positive = ("horizon", "action_dim", "latent_dim", "n_filters", "codebook_size")
        for name in (*positive, "chunk_latent_dim", "beam_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"codec: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("ratios", "vq_scales"):
            if min(getattr(self, name), default=0) < 1:
                raise ValueError(
                    f"codec: {name} must be whole numbers of at least 1, at least one of them, "
                    f"got {getattr(self, name)}"
                )
        if self.decoder_dim % 32:
            raise ValueError(f"codec: decoder_dim {self.decoder_dim} must be a multiple of 32")
        if not 0 <= self.prefix_dropout < 1:
            raise ValueError(
                f"codec: prefix_dropout {self.prefix_dropout} must be at least 0 and below 1"
            )
        if self.path_hidden < 0:
            raise ValueError(f"codec: path_hidden must be at least 0, got {self.path_hidden}")
        if not self.encodes_whole_chunks and (self.beam_width > 1 or self.path_hidden):
            raise ValueError(
                f"codec: beam_width {self.beam_width} and path_hidden {self.path_hidden} need "
                "quantizer rotated; with multi_scale set them to 1 and 0"
            )

    @property
    def encodes_whole_chunks(self) -> bool:
        """Whether the quantizer sees one latent of the whole chunk, not T' latent steps."""
        return self.quantizer == "rotated"

    @property
    def quantized_dim(self) -> int:
        """E of the vectors that the codewords approximate."""
        return self.chunk_latent_dim if self.encodes_whole_chunks else self.latent_dim

    @property
    def hop(self) -> int:
        """Samples of a waveform per latent step."""
        return prod(self.ratios)

    @property
    def channels(self) -> int:
        """Number of waveforms: one, or one per dimension."""
        return self.action_dim if self.layout == "channels" else 1

    @property
    def length(self) -> int:
        """L, samples of a waveform without padding."""
        return self.horizon * self.action_dim // self.channels

    @property
    def n_steps(self) -> int:
        """T', latent steps: enough for L, and a multiple of every scale."""
        multiple = lcm(*self.vq_scales)
        return ceil(self.length / (self.hop * multiple)) * multiple

    @property
    def padded_length(self) -> int:
        """Samples of a waveform with padding, T' * hop."""
        return self.n_steps * self.hop

    @property
    def tokens_per_scale(self) -> tuple[int, ...]:
        return tuple(self.n_steps // scale for scale in self.vq_scales)

    @property
    def token_time_spans(self) -> np.ndarray | None:
        """Steps of the chunk `[first, end)` below each code's latent steps, int64 `[L, 2]`.

        The networks' receptive fields are wider. None where every code describes the whole chunk.
        """
        if self.encodes_whole_chunks:
            return None
        samples_per_step = self.action_dim // self.channels
        widths = [self.hop * scale for scale in self.vq_scales]  # samples below a code
        rows = [
            (width * k // samples_per_step, -(-width * (k + 1) // samples_per_step))
            for width, n in zip(widths, self.tokens_per_scale)
            for k in range(n)
        ]
        return np.minimum(rows, self.horizon)


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
        dim, steps = config.latent_dim, config.n_steps
        self.encoder = SeanetEncoder(
            dim, config.n_filters, config.ratios, config.lstm, config.channels
        )
        self.quantizer = _make_quantizer(config)
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
        self.linear_path: LinearPath | None = None
        if config.encodes_whole_chunks:
            size = config.chunk_latent_dim
            self.linear_path = LinearPath(
                config.horizon, config.action_dim, size, config.path_hidden
            )
            self.join_steps = nn.Linear(dim * steps, size)
            self.divide_steps = nn.Linear(size, dim * steps)
            self.encoder.init_near_zero()
            self.decoder.head.init_near_zero()
        self.embedding = nn.Parameter(torch.zeros(dim, 1)) if config.embodiment else None

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


def _even(n: int) -> int:
    return n + n % 2
