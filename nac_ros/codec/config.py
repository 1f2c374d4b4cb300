"""Configuration of the neural action codec, and the sizes that follow from it."""

from dataclasses import dataclass
from math import ceil, lcm, prod
from typing import Literal

import numpy as np


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
    def n_fft(self) -> int:
        """DFT size of the ISTFT head: at least L, and two hops so that frames overlap."""
        size = max(self.length, 2 * self.hop)
        return size + size % 2

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
