"""NAC: chunks as waveforms through the neural action codec, as offset tokens (NAC section 3)."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from nac_ros.codec.config import CodecConfig
from nac_ros.codec.model import Codec
from nac_ros.tokenizers.base import (
    TOKENIZERS,
    ResidualTokenizer,
    TokenizerConfig,
    TrainingOutput,
    random_rows,
)
from nac_ros.tokenizers.serialization import check_elements

KMEANS_CHUNKS = 4096  # chunks for k-means: several latents for each codeword


@dataclass(frozen=True, kw_only=True)
class NacConfig(TokenizerConfig, CodecConfig):
    """Chunk shape and sizes of the codec; the defaults are the preset `paper`."""

    def __post_init__(self) -> None:
        TokenizerConfig.__post_init__(self)
        CodecConfig.__post_init__(self)
        check_elements("the padded chunk", self.n_steps, self.hop)
        check_elements("the codebooks", len(self.vq_scales), self.codebook_size, self.latent_dim)

    @property
    def codec(self) -> CodecConfig:
        """The fields of CodecConfig."""
        names = [field.name for field in fields(CodecConfig)]
        return CodecConfig(**{name: getattr(self, name) for name in names})


@TOKENIZERS.register("nac")
class Nac(ResidualTokenizer):
    """Tokens: all codes of scale 0, then scale 1, ...; scale s is offset by s * codebook_size.

    Every preset has the paper's structure; `small` has narrower and fewer layers.
    """

    name = "nac"
    Config = NacConfig
    presets = {
        "paper": {},
        "small": {
            "n_filters": 16,
            "latent_dim": 64,
            "beam_width": 8,
            "decoder_dim": 160,
            "decoder_hidden": 480,
            "decoder_blocks": 4,
            "norm_ids": 0,
        },
    }
    training_defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"learning_rate": 2e-4, "steps": 50_000, "commitment_weight": 1000.0},
        # The rate was chosen on validation episodes of piper_real. k-means starts after the first
        # 15 % of the steps.
        "small": {
            "learning_rate": 6e-3,
            "batch": 64,
            "unquantized_share": 0.15,
            "discriminator": "none",
        },
    }

    def __init__(self, config: NacConfig, preset: str = "small"):
        super().__init__(config, preset, config.tokens_per_scale, config.codebook_size)
        self.codec = Codec(config.codec)
        self.uses_beam_search = config.beam_width > 1
        self.grammar.token_time_spans = config.token_time_spans

    @property
    def quantizer(self) -> nn.Module:
        return self.codec.quantizer

    @property
    def prefix_lengths(self) -> tuple[int, ...]:
        """Ends of the scales but the last."""
        return tuple(int(end) for end in np.cumsum(self.config.tokens_per_scale)[:-1])

    def latent(self, normalized: Tensor) -> Tensor:
        return self.codec.latent(normalized)

    def training_step(self, normalized: Tensor, quantize: bool = True) -> TrainingOutput:
        if not quantize:
            return TrainingOutput(self.codec.reconstruct_unquantized(normalized), {})
        actions, quantized = self.codec(normalized)
        return TrainingOutput(actions, {"commitment": quantized.commitment})

    def detokenize(self, tokens: Tensor) -> Tensor:
        return self.codec.decode(self._codes(tokens))

    def fit_codes(self, normalized: Tensor, seed: int) -> None:
        """k-means of the codebooks on some chunks."""
        self.codec.init_codebooks(random_rows(normalized, KMEANS_CHUNKS, seed), seed)
