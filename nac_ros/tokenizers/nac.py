"""NAC: chunks as waveforms through the neural action codec, as offset tokens (NAC section 3)."""

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from nac_ros.codec.model import Codec, CodecConfig
from nac_ros.tokenizers.base import (
    TOKENIZERS,
    ResidualTargets,
    Tokenizer,
    TokenizerConfig,
    TrainingOutput,
)
from nac_ros.tokenizers.grammar import FixedGrammar
from nac_ros.tokenizers.serialization import check_elements

BEAM_ROOM = (256, 256)  # a beam may keep 2^26 / 2^16 = 1024 beginnings
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
WHOLE = {
    "layout": "channels",
    "ratios": (2, 2),
    "span": "chunk",
    "beam": 8,
    "prefix_dropout": 0.3,
    "ema_decay": 0.98,
    "n_filters": 8,
    "decoder_dim": 96,
    "decoder_hidden": 288,
    "decoder_blocks": 2,
    "path_hidden": 1536,
}


@dataclass(frozen=True, kw_only=True)
class NacConfig(TokenizerConfig, CodecConfig):
    """Chunk facts and the codec's sizes in one; defaults are the preset `paper`."""

    def __post_init__(self) -> None:
        TokenizerConfig.__post_init__(self)
        CodecConfig.__post_init__(self)
        check_elements("the beam", self.beam, *BEAM_ROOM)
        check_elements("the padded chunk", self.n_steps, self.hop)
        dim = self.chunk_dim if self.span == "chunk" else self.latent_dim
        check_elements("the codebooks", len(self.vq_scales), self.codebook_size, dim)
        if self.span == "chunk":
            check_elements("the turns", sum(self.tokens_per_scale), dim, dim)

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
        "small": {**SMALL, **WHOLE},
        "small-flat": SMALL,  # the paper's layout, a token for each stretch of time
    }
    training_defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"learning_rate": 2e-4, "steps": 50_000, "commitment_weight": 1000.0},
        "small": {"unquantized_share": 0.0, "learning_rate": 2e-5, "discriminator": "none"},
    }

    def __init__(self, config: NacConfig, preset: str = "small"):
        super().__init__(config, preset)
        self.codec, self.uses_beam_search = Codec(config.codec), config.beam > 1
        size = config.codebook_size
        scales = [s for s, n in enumerate(config.tokens_per_scale) for _ in range(n)]
        self.grammar = FixedGrammar([s * size for s in scales], [(s + 1) * size for s in scales])
        self.grammar.token_time_spans = config.codec.token_time_spans
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
        """Where a scale ends; with span chunk all there are."""
        if self.config.span == "chunk":
            return tuple(range(1, self.grammar.max_tokens))
        return tuple(int(end) for end in np.cumsum(self.config.tokens_per_scale)[:-1])

    def embeddings(self) -> Tensor:
        """Codewords of all scales, `[V, E]`."""
        return torch.cat([book.codewords for book in self.codec.quantizer.codebooks])

    def residual_targets(self, normalised: Tensor) -> ResidualTargets:
        """Unquantized latents, less what the codes said so far stand for."""
        latent, quantizer = self.codec.latent(normalised), self.codec.quantizer

        def wanted(tokens: Tensor) -> Tensor:
            return torch.cat(quantizer.residual_targets(latent, self._codes(tokens)), 1)

        return wanted

    def training_step(self, normalised: Tensor, quantize: bool = True) -> TrainingOutput:
        if not quantize:
            return TrainingOutput(self.codec.plain(normalised), {})
        actions, quantized = self.codec(normalised)
        return TrainingOutput(actions, {"commitment": quantized.commitment})

    def detokenize(self, tokens: Tensor) -> Tensor:
        """Tokens int64 `[B, L]` -> normalised chunk `[B, H, D]`, without checks: for export."""
        return self.codec.decode(self._codes(tokens))

    def _encode(self, normalised: Tensor) -> Tensor:
        return torch.cat(self.codec.encode(normalised), 1) + self.offsets

    def _decode(self, tokens: Tensor) -> Tensor:
        return self.detokenize(tokens)

    def _decode_prefix(self, tokens: Tensor) -> Tensor:
        return self.detokenize(tokens)

    def _codes(self, tokens: Tensor) -> list[Tensor]:
        """First tokens `[B, k]` -> codes per scale, of those that have begun."""
        codes = tokens - self.offsets[: tokens.shape[1]]
        bounds = pairwise([0, *np.cumsum(self.config.tokens_per_scale).tolist()])
        return [codes[:, first:end] for first, end in bounds if first < tokens.shape[1]]

    def fit_codes(self, normalised: Tensor, seed: int) -> None:
        """k-means of every codebook on latents of some chunks; at first the linear path too."""
        generator = torch.Generator().manual_seed(seed)
        chosen = normalised[torch.randperm(len(normalised), generator=generator)[:KMEANS_CHUNKS]]
        if bool(self.fitted):
            self.codec.begin_codes(chosen, seed)
        else:
            self.codec.begin(chosen, self.mse_weights, seed)
