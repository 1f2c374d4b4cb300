"""Rotated RVQ: PCA and MLPs around a residual quantizer whose steps share two rotated codebooks.

Not the codec of the NAC paper: no convolutions, and a token describes the whole chunk. It has the
paper's number of tokens, codebooks and bits.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nac_ros.codec.linear_path import LinearPath
from nac_ros.codec.rotated_quantizer import RotatedResidualQuantizer
from nac_ros.core.config import number_field
from nac_ros.core.errors import ConfigError
from nac_ros.tokenizers.base import (
    TOKENIZERS,
    ResidualTokenizer,
    TokenizerConfig,
    TrainingOutput,
    random_rows,
)
from nac_ros.tokenizers.serialization import check_elements

MAX_BEAM_FACTORS = (256, 256)  # a beam may have 2^26 / 2^16 = 1024 hypotheses
FIT_CHUNKS = 4096  # chunks for PCA and k-means: several latents for each codeword


@dataclass(frozen=True, kw_only=True)
class RotatedRvqConfig(TokenizerConfig):
    """Chunk shape and sizes; the defaults are the preset `small`.

    latent_dim: numbers that encode a chunk, before quantization
    encoder_hidden, decoder_hidden: width of the MLP beside each matrix; 0 = none
    tokens_per_codebook: how many tokens share each codebook
    beam_width: token prefixes kept while encoding; 1 = nearest codewords
    prefix_dropout: share of training chunks decoded from a prefix of their tokens
    ema_decay, revive_below: of the codebooks (nac_ros.codec.quantizer.EmaCodebook)
    """

    latent_dim: int = number_field(96, 1)
    encoder_hidden: int = number_field(1536, 0)
    decoder_hidden: int = number_field(1536, 0)
    tokens_per_codebook: tuple[int, ...] = number_field((4, 8), 1)
    codebook_size: int = number_field(1024, 1)
    beam_width: int = number_field(8, 1)
    prefix_dropout: float = number_field(0.3, 0, 1)
    ema_decay: float = number_field(0.98, 0, 1)
    revive_below: float = number_field(0.05, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tokens_per_codebook:
            raise ConfigError("rotated_rvq: tokens_per_codebook is empty; give one number or more")
        if self.prefix_dropout == 1:
            raise ConfigError("rotated_rvq: prefix_dropout 1.0 must be below 1")
        dim, size = self.latent_dim, self.horizon * self.action_dim
        check_elements("the beam", self.beam_width, *MAX_BEAM_FACTORS)
        check_elements("the codebooks", len(self.tokens_per_codebook), self.codebook_size, dim)
        check_elements("the rotations", sum(self.tokens_per_codebook), dim, dim)
        widest = max(self.encoder_hidden, self.decoder_hidden, dim)
        check_elements("a matrix", widest, max(size, dim))


@TOKENIZERS.register("rotated_rvq")
class RotatedRvq(ResidualTokenizer):
    """Tokens: residuals of one latent of the chunk; codebook s is offset by s * codebook_size."""

    name = "rotated_rvq"
    Config = RotatedRvqConfig
    presets = {"small": {}}
    training_defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {"unquantized_share": 0.0, "learning_rate": 2e-5, "discriminator": "none"},
    }

    def __init__(self, config: RotatedRvqConfig, preset: str = "small"):
        super().__init__(config, preset, config.tokens_per_codebook, config.codebook_size)
        self.path = LinearPath(
            config.horizon,
            config.action_dim,
            config.latent_dim,
            config.encoder_hidden,
            config.decoder_hidden,
        )
        self.quantizer = RotatedResidualQuantizer(
            config.latent_dim,
            config.codebook_size,
            config.tokens_per_codebook,
            config.ema_decay,
            config.revive_below,
            config.beam_width,
        )
        self.uses_beam_search = config.beam_width > 1

    def latent(self, normalized: Tensor) -> Tensor:
        """Chunks `[B, H, D]` -> `[B, E]`."""
        return self.path.encode(normalized)

    def training_step(self, normalized: Tensor, quantize: bool = True) -> TrainingOutput:
        latent = self.latent(normalized)
        if not quantize:
            return TrainingOutput(self.path.decode(latent), {})
        dropout = self.config.prefix_dropout if self.training else 0.0
        quantized = self.quantizer(latent, dropout)
        return TrainingOutput(
            self.path.decode(quantized.latent), {"commitment": quantized.commitment}
        )

    def detokenize(self, tokens: Tensor) -> Tensor:
        return self.path.decode(self.quantizer.dequantize(self._codes(tokens)))

    @torch.no_grad()
    def fit_codes(self, normalized: Tensor, seed: int) -> None:
        """k-means of the codebooks on some chunks; the first time also sets the matrices."""
        chunks, first = random_rows(normalized, FIT_CHUNKS, seed), not bool(self.fitted)
        if first:
            self.path.init_from_pca(chunks, self.mse_weights)
        self.quantizer.init_codebooks(self.latent(chunks), seed)
        if first:
            codes = self.quantizer.codes(self.latent(chunks))
            self.path.fit_synthesis(self.quantizer.dequantize(codes), chunks)
