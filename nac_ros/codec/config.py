"""Configuration of the neural action codec, and the sizes that follow from it."""

from dataclasses import dataclass
from math import ceil, lcm, prod
from typing import Literal

import numpy as np


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Sizes of encoder, quantizer and decoder; the defaults are the preset `paper`.

    ratios: strides of the encoder; their product, the hop, is in samples of the waveform
    vq_scales: latent steps averaged by each stage of the quantizer
    ema_decay, revive_below: of the codebooks (nac_ros.codec.quantizer.EmaCodebook)
    beam_width: code prefixes kept when a chunk is encoded; 1 = nearest codewords, as in the paper
    norm_ids: pairs of gain and offset in the decoder's adaptive layer norms; 0 = layer norm
    prefix_dropout: share of training chunks decoded from their first scale alone, so that it
        decodes by itself
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
    beam_width: int = 1
    decoder_dim: int = 768
    decoder_hidden: int = 2304
    decoder_blocks: int = 12
    head: Literal["istft", "linear"] = "istft"
    norm_ids: int = 4
    prefix_dropout: float = 0.0
    embodiment: str = ""

    def __post_init__(self) -> None:
        sizes = ("horizon", "action_dim", "latent_dim", "n_filters", "codebook_size", "beam_width")
        for name in sizes:
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

    @property
    def hop(self) -> int:
        """Samples of the waveform per latent step."""
        return prod(self.ratios)

    @property
    def length(self) -> int:
        """L, samples of the waveform without padding: H * D, time-major."""
        return self.horizon * self.action_dim

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
        """Samples of the waveform with padding, T' * hop."""
        return self.n_steps * self.hop

    @property
    def tokens_per_scale(self) -> tuple[int, ...]:
        return tuple(self.n_steps // scale for scale in self.vq_scales)

    @property
    def token_time_spans(self) -> np.ndarray:
        """Steps of the chunk `[first, end)` below each code's latent steps, int64 `[L, 2]`.

        The networks' receptive fields are wider.
        """
        widths = [self.hop * scale for scale in self.vq_scales]  # samples below a code
        rows = [
            (width * k // self.action_dim, -(-width * (k + 1) // self.action_dim))
            for width, n in zip(widths, self.tokens_per_scale)
            for k in range(n)
        ]
        return np.minimum(rows, self.horizon)
