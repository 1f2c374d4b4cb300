"""VQ-VLA: causal convolutions make one vector of a chunk, which 12 residual codebooks name.

After VQ-VLA (arXiv 2507.01016), at the size in NAC's Table 4; signals are `[B, steps, channels]`.
"""

from dataclasses import dataclass
from math import ceil, prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nac_ros.codec.quantizer import MultiScaleQuantizer, mixed
from nac_ros.core import config as configs
from nac_ros.core.config import bounded
from nac_ros.core.errors import ConfigError
from nac_ros.tokenizers.base import (
    TOKENIZERS,
    ResidualTargets,
    Tokenizer,
    TokenizerConfig,
    TrainingOutput,
)
from nac_ros.tokenizers.grammar import FixedGrammar
from nac_ros.tokenizers.serialization import check_elements

KMEANS_CHUNKS = 2048  # for each group, two a codeword; the moving averages do the rest
LATENTS = 4096  # of as many chunks; those for the groups are mixed from them


@dataclass(frozen=True, kw_only=True)
class VqvlaConfig(TokenizerConfig):
    """Chunk facts and sizes; defaults are the preset `paper`.

    widths: channels before, between and after the down-samplings by `strides`
    blocks: residual blocks at each of these resolutions, with convolutions over `kernel` steps
    whole_dim, whole_hidden, whole_blocks: the vector that the steps then left are pooled into
    """

    widths: tuple[int, ...] = (256, 512, 1024)
    strides: tuple[int, ...] = (4, 2)
    kernel: int = bounded(3, 1)
    blocks: int = bounded(2, 0)
    whole_dim: int = bounded(1024, 1)
    whole_hidden: int = bounded(3840, 1)
    whole_blocks: int = bounded(2, 0)
    latent_dim: int = bounded(256, 1)
    n_groups: int = bounded(12, 1)
    codebook_size: int = bounded(1024, 1)
    ema_decay: float = bounded(0.99, 0.0, 1.0)
    revive_below: float = bounded(0.02, 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        configs.check_bounds(self)
        check_elements("a codebook", self.n_groups, self.codebook_size, self.latent_dim)
        if min(*self.widths, *self.strides, 1) < 1 or len(self.widths) != len(self.strides) + 1:
            raise ConfigError(
                f"widths {self.widths} must be one more than strides {self.strides}, "
                "and each at least 1"
            )

    @property
    def n_steps(self) -> int:
        """Steps that the strides leave."""
        return ceil(self.horizon / prod(self.strides))


@TOKENIZERS.register("vqvla")
class Vqvla(Tokenizer):
    """Token k is the codeword of group k, offset by k * codebook_size."""

    name = "vqvla"
    Config = VqvlaConfig
    learned = True
    supports_prefix = True
    presets = {
        "paper": {},
        "small": {
            "widths": (16, 64, 128),
            "blocks": 1,
            "whole_dim": 256,
            "whole_hidden": 512,
            "latent_dim": 64,
            "ema_decay": 0.97,
        },
    }
    training_defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "learning_rate": 5e-5,
            "commitment_weight": 5.0,
            "steps": 50_000,
            "discriminator": "none",
        },
        "small": {"discriminator": "none"},
    }

    def __init__(self, config: VqvlaConfig, preset: str = "small"):
        super().__init__(config, preset)
        n, size = config.n_groups, config.codebook_size
        offsets = torch.arange(n) * size
        self.grammar = FixedGrammar(offsets.tolist(), (offsets + size).tolist())
        self.encoder, self.decoder = VqvlaEncoder(config), VqvlaDecoder(config)
        self.quantizer = MultiScaleQuantizer(
            config.latent_dim, size, (1,) * n, config.ema_decay, config.revive_below
        )
        self.register_buffer("offsets", offsets, persistent=False)

    @property
    def codes_per_position(self) -> int:
        return self.config.codebook_size

    @property
    def params_m(self) -> float:
        return sum(weights.numel() for weights in self.parameters()) / 1e6

    @property
    def prefix_lengths(self) -> tuple[int, ...]:
        """How many tokens a prefix may have."""
        return tuple(range(1, self.config.n_groups))

    def embeddings(self) -> Tensor:
        """Codewords of all groups, `[V, E]`."""
        return torch.cat([book.codewords for book in self.quantizer.codebooks])

    def residual_targets(self, normalised: Tensor) -> ResidualTargets:
        """The latent less the codewords said so far, and from there on less the nearest."""
        latent = self._latent(normalised)

        def wanted(tokens: Tensor) -> Tensor:
            return torch.cat(self.quantizer.residual_targets(latent, self._codes(tokens)), 1)

        return wanted

    def training_step(self, normalised: Tensor, quantize: bool = True) -> TrainingOutput:
        latent = self._latent(normalised)
        if not quantize:
            return TrainingOutput(self.decoder(latent[..., 0]), {})
        quantized, _, commitment = self.quantizer(latent)
        return TrainingOutput(self.decoder(quantized[..., 0]), {"commitment": commitment})

    def detokenize(self, tokens: Tensor) -> Tensor:
        """Tokens int64 `[B, k]` -> normalised chunk `[B, H, D]`, without checks: for export."""
        return self.decoder(self.quantizer.dequantize(self._codes(tokens))[..., 0])

    def _encode(self, normalised: Tensor) -> Tensor:
        codes = self.quantizer(self._latent(normalised)).codes
        return torch.cat(codes, 1) + self.offsets

    def _decode(self, tokens: Tensor) -> Tensor:
        return self.detokenize(tokens)

    def _decode_prefix(self, tokens: Tensor) -> Tensor:
        return self.detokenize(tokens)

    @torch.no_grad()
    def fit_codes(self, normalised: Tensor, seed: int) -> None:
        """k-means group by group, each on latents that no group before was fitted to."""
        generator, n = torch.Generator().manual_seed(seed), self.config.n_groups
        chosen = torch.randperm(len(normalised), generator=generator)[:LATENTS]
        latents = mixed(self._latent(normalised[chosen])[..., 0], n * KMEANS_CHUNKS, generator)
        rest = latents.view(n, KMEANS_CHUNKS, -1)
        for book in self.quantizer.codebooks:
            fresh, rest = rest[0], rest[1:]
            book.initialise(fresh, generator)
            rest = rest - book.codewords[book.nearest(rest.flatten(0, 1))].view_as(rest)

    def _latent(self, normalised: Tensor) -> Tensor:
        return self.encoder(normalised)[..., None]  # [B, E, 1], one step for the quantizer

    def _codes(self, tokens: Tensor) -> list[Tensor]:
        codes = tokens - self.offsets[: tokens.shape[1]]
        return [code[:, None] for code in codes.unbind(1)]  # [B, 1] a group


class VqvlaEncoder(nn.Module):
    """Chunk `[B, H, D]` -> latent `[B, E]`."""

    def __init__(self, config: VqvlaConfig):
        super().__init__()
        widths, strides, dim = config.widths, config.strides, config.whole_dim
        self.missing = config.n_steps * prod(strides) - config.horizon
        layers: list[nn.Module] = [linear(config.action_dim, widths[0])]
        for width, wider, stride in zip(widths, widths[1:], strides):
            layers += [*_blocks(config, width), join(width, wider, stride)]
        self.causal = nn.Sequential(*layers, *_blocks(config, widths[-1]))
        pool = join(widths[-1], dim, config.n_steps)
        self.whole = nn.Sequential(pool, *_whole(config), linear(dim, config.latent_dim))

    def forward(self, normalised: Tensor) -> Tensor:
        return self.whole(self.features(normalised))[:, 0]

    def features(self, normalised: Tensor) -> Tensor:
        """`[B, H, D]` -> `[B, n_steps, C]`; a step knows its actions and those before it."""
        last = normalised[:, -1:].expand(-1, self.missing, -1)
        return self.causal(torch.cat([normalised, last], 1))


class VqvlaDecoder(nn.Module):
    """Latent `[B, E]` -> chunk `[B, H, D]`, the encoder mirrored."""

    def __init__(self, config: VqvlaConfig):
        super().__init__()
        self.horizon = config.horizon
        widths, strides, dim = config.widths[::-1], config.strides[::-1], config.whole_dim
        unpool = divide(dim, widths[0], config.n_steps)
        layers: list[nn.Module] = [linear(config.latent_dim, dim), *_whole(config), unpool]
        for width, narrower, stride in zip(widths, widths[1:], strides):
            layers += [*_blocks(config, width), divide(width, narrower, stride)]
        layers += [*_blocks(config, widths[-1]), linear(widths[-1], config.action_dim)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        return self.layers(latent[:, None])[:, : self.horizon]


class CausalConv(nn.Module):
    """A convolution over a step and the `kernel - 1` before it, zeros before the first.

    One matrix product over steps and channels, which on a CPU takes half the time of Conv1d.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.kernel = kernel
        self.taps = nn.Linear(kernel * inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        padded, n = F.pad(x, (0, 0, self.kernel - 1, 0)), x.shape[1]
        return self.taps(torch.cat([padded[:, k : k + n] for k in range(self.kernel)], -1))


class Residual(nn.Module):
    """Norm, convolution and perceptron beside a skip, which alone counts at first."""

    def __init__(self, width: int, hidden: int, kernel: int):
        super().__init__()
        back = nn.Linear(hidden, width)
        nn.init.zeros_(back.weight)
        nn.init.zeros_(back.bias)
        conv = CausalConv(width, hidden, kernel)
        self.branch = nn.Sequential(nn.LayerNorm(width), conv, nn.GELU(), back)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def join(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A convolution with kernel = stride, `[B, n * stride, C]` -> `[B, n, C']`."""
    steps = nn.Unflatten(1, (-1, stride))
    return nn.Sequential(steps, nn.Flatten(2), linear(stride * inputs, outputs))


def divide(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A transposed convolution with kernel = stride, `[B, n, C]` -> `[B, n * stride, C']`."""
    steps = nn.Unflatten(2, (stride, outputs))
    return nn.Sequential(linear(inputs, stride * outputs), steps, nn.Flatten(1, 2))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Orthogonal: a deep chain of them passes on what it gets, and learns from the first step."""
    made = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(made.weight)
    nn.init.zeros_(made.bias)
    return made


def _blocks(config: VqvlaConfig, width: int) -> list[Residual]:
    return [Residual(width, width, config.kernel) for _ in range(config.blocks)]


def _whole(config: VqvlaConfig) -> list[Residual]:
    n, dim, hidden = config.whole_blocks, config.whole_dim, config.whole_hidden
    return [Residual(dim, hidden, 1) for _ in range(n)]
