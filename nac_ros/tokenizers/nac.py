"""NAC: chunks as waveforms through the neural action codec, as offset tokens (NAC section 3)."""

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from nac_ros.codec.model import Codec, CodecConfig
from nac_ros.tokenizers.base import TOKENIZERS, Naming, Tokenizer, TokenizerConfig, Training
from nac_ros.tokenizers.grammar import FixedGrammar

KMEANS_CHUNKS = 4096  # chunks for k-means: every codebook then sees many latents a codeword


SMALL = {
    "n_filters": 16,
    "latent_dim": 64,
    "decoder_dim": 160,
    "decoder_hidden": 480,
    "decoder_blocks": 4,
    "norm_ids": 0,
    "ema_decay": 0.97,
}
LINEAR = {"layout": "channels", "ratios": (2, 2), "transform": "klt", "ema_decay": 0.99}


@dataclass(frozen=True, kw_only=True)
class NacConfig(TokenizerConfig, CodecConfig):
    """Chunk facts and the codec's sizes in one; defaults are the preset `paper`."""

    def __post_init__(self) -> None:
        TokenizerConfig.__post_init__(self)
        CodecConfig.__post_init__(self)

    @property
    def codec(self) -> CodecConfig:
        """The part that the codec sees."""
        names = [field.name for field in fields(CodecConfig)]
        return CodecConfig(**{name: getattr(self, name) for name in names})


@TOKENIZERS.register("nac")
class Nac(Tokenizer):
    """Tokens: all codes of scale 0, then scale 1, ...; scale s is offset by s * codebook_size."""

    name = "nac"
    Config = NacConfig
    learned = True
    supports_prefix = True
    presets = {
        "paper": {},
        "small": {**SMALL, **LINEAR, "decoder_blocks": 3},
        "small-flat": SMALL,  # the paper's layout and no linear path
    }
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"learning_rate": 2e-4, "steps": 50_000, "commitment_weight": 1000.0},
        "small": {"plain_share": 0.0, "learning_rate": 3e-4},  # the linear path begins well
    }

    def __init__(self, config: NacConfig, preset: str = "small"):
        super().__init__(config, preset)
        self.codec = Codec(config.codec)
        size = config.codebook_size
        scales = [s for s, n in enumerate(config.tokens_per_scale) for _ in range(n)]
        self.grammar = FixedGrammar([s * size for s in scales], [(s + 1) * size for s in scales])
        offsets = torch.tensor(scales, dtype=torch.int64) * size
        self.register_buffer("offsets", offsets, persistent=False)

    @property
    def codes_per_position(self) -> int:
        return self.config.codebook_size

    @property
    def params_m(self) -> float:
        return self.codec.n_parameters / 1e6

    @property
    def prefix_lengths(self) -> tuple[int, ...]:
        """Where a scale ends."""
        return tuple(int(end) for end in np.cumsum(self.config.tokens_per_scale)[:-1])

    def embeddings(self) -> Tensor:
        """Codewords of all scales, `[V, E]`."""
        return torch.cat([book.codewords for book in self.codec.quantizer.codebooks])

    def naming(self, normalised: Tensor) -> Naming:
        """Unquantized pooled residuals, less what the scales said so far stand for."""
        latent, ends = self.codec.latent(normalised), np.cumsum(self.config.tokens_per_scale)

        def wanted(tokens: Tensor) -> Tensor:
            codes = tokens - self.offsets[: tokens.shape[1]]
            bounds = pairwise([0, *ends])
            said = [codes[:, first:end] for first, end in bounds if end <= codes.shape[1]]
            return torch.cat(self.codec.quantizer.stage_latents(latent, said), 1)

        return wanted

    def training_step(self, normalised: Tensor, quantize: bool = True) -> Training:
        if not quantize:
            return Training(self.codec.plain(normalised), {})
        actions, quantized = self.codec(normalised)
        return Training(actions, {"commitment": quantized.commitment})

    def detokenize(self, tokens: Tensor) -> Tensor:
        """Tokens int64 `[B, L]` -> normalised chunk `[B, H, D]`, without checks: for export."""
        codes = (tokens - self.offsets).split(list(self.config.tokens_per_scale), 1)
        return self.codec.decode(codes)

    def _encode(self, normalised: Tensor) -> Tensor:
        return torch.cat(self.codec.encode(normalised), 1) + self.offsets

    def _decode(self, tokens: Tensor) -> Tensor:
        return self.detokenize(tokens)

    def _decode_prefix(self, tokens: Tensor) -> Tensor:
        n_scales = self.prefix_lengths.index(tokens.shape[1]) + 1
        codes = tokens - self.offsets[: tokens.shape[1]]
        return self.codec.decode(codes.split(list(self.config.tokens_per_scale[:n_scales]), 1))

    def fit_codes(self, normalised: Tensor, seed: int) -> None:
        """k-means of every codebook on latents of some chunks; at first the linear path too."""
        generator = torch.Generator().manual_seed(seed)
        chosen = normalised[torch.randperm(len(normalised), generator=generator)[:KMEANS_CHUNKS]]
        if bool(self.fitted):
            self.codec.begin_codes(chosen, seed)
        else:
            self.codec.begin(chosen, self.metric, seed)
