"""VQ-VLA: causal convolutions encode a chunk as one vector, which 12 residual codebooks quantize.

After VQ-VLA (arXiv 2507.01016), at the size of NAC's Table 4; signals are `[B, steps, channels]`.
"""

from dataclasses import dataclass
from math import ceil, prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nac_ros.codec.quantizer import ResidualVectorQuantizer, mix_latents
from nac_ros.core.config import number_field
from nac_ros.core.errors import ConfigError
from nac_ros.tokenizers.base import (
    TOKENIZERS,
    ResidualTokenizer,
    TokenizerConfig,
    TrainingOutput,
)
from nac_ros.tokenizers.serialization import check_elements

KMEANS_LATENTS = 2048  # per codebook, two for each codeword; training refines the result
KMEANS_CHUNKS = 4096  # whose latents are mixed to those for k-means


@dataclass(frozen=True, kw_only=True)
class VqvlaConfig(TokenizerConfig):
    """Chunk shape and network sizes; the defaults are the preset `paper`.

    widths: channels before, between and after the down-samplings by `strides`
    blocks: residual blocks at each of these resolutions, with convolutions over `kernel` steps
    bottleneck_dim, bottleneck_hidden, bottleneck_blocks: the vector into which the remaining
        steps are pooled, and the residual MLPs on it
    n_quantizers: steps of residual quantization, one token each
    beam_width: code prefixes kept when a chunk is encoded; 1 = nearest codewords, as in the paper
    """

    widths: tuple[int, ...] = (256, 512, 1024)
    strides: tuple[int, ...] = (4, 2)
    kernel: int = number_field(3, 1)
    blocks: int = number_field(2, 0)
    bottleneck_dim: int = number_field(1024, 1)
    bottleneck_hidden: int = number_field(3840, 1)
    bottleneck_blocks: int = number_field(2, 0)
    latent_dim: int = number_field(256, 1)
    n_quantizers: int = number_field(12, 1)
    codebook_size: int = number_field(1024, 1)
    ema_decay: float = number_field(0.99, 0.0, 1.0)
    revive_below: float = number_field(0.02, 0.0)
    beam_width: int = number_field(1, 1, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_elements("the codebooks", self.n_quantizers, self.codebook_size, self.latent_dim)
        if min(*self.widths, *self.strides, 1) < 1 or len(self.widths) != len(self.strides) + 1:
            raise ConfigError(
                f"widths {self.widths} must have one entry more than strides {self.strides}, "
                "each at least 1"
            )

    @property
    def n_steps(self) -> int:
        """Steps after the down-samplings."""
        return ceil(self.horizon / prod(self.strides))


@TOKENIZERS.register("vqvla")
class Vqvla(ResidualTokenizer):
    """Token k is the code of quantizer k, offset by k * codebook_size."""

    name = "vqvla"
    Config = VqvlaConfig
    presets = {
        "paper": {},
        "small": {
            "widths": (16, 64, 128),
            "blocks": 1,
            "bottleneck_dim": 256,
            "bottleneck_hidden": 512,
            "latent_dim": 64,
            "ema_decay": 0.97,
            "beam_width": 8,
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
        scales, size = (1,) * config.n_quantizers, config.codebook_size
        super().__init__(config, preset, scales, size)
        self.encoder, self.decoder = VqvlaEncoder(config), VqvlaDecoder(config)
        self.quantizer = ResidualVectorQuantizer(
            config.latent_dim,
            size,
            scales,
            config.ema_decay,
            config.revive_below,
            config.beam_width,
        )
        self.uses_beam_search = config.beam_width > 1

    def latent(self, normalized: Tensor) -> Tensor:
        return self.encoder(normalized)[..., None]  # [B, E, 1], one step for the quantizer

    def training_step(self, normalized: Tensor, quantize: bool = True) -> TrainingOutput:
        latent = self.latent(normalized)
        if not quantize:
            return TrainingOutput(self.decoder(latent[..., 0]), {})
        quantized, _, commitment = self.quantizer(latent)
        return TrainingOutput(self.decoder(quantized[..., 0]), {"commitment": commitment})

    def detokenize(self, tokens: Tensor) -> Tensor:
        return self.decoder(self.quantizer.dequantize(self._codes(tokens))[..., 0])

    @torch.no_grad()
    def fit_codes(self, normalized: Tensor, seed: int) -> None:
        """k-means codebook by codebook, each on residuals that no other codebook was fitted to."""
        device, n = normalized.device, self.config.n_quantizers
        generator = torch.Generator(device).manual_seed(seed)
        rows = torch.randperm(len(normalized), generator=generator, device=device)[:KMEANS_CHUNKS]
        latents = self.latent(normalized[rows])[..., 0]
        residuals = mix_latents(latents, n * KMEANS_LATENTS, generator)
        residuals = residuals.view(n, KMEANS_LATENTS, -1)  # one row per codebook still to be set
        for codebook in self.quantizer.codebooks:
            codebook.init_kmeans(residuals[0], generator)
            residuals = residuals[1:]
            nearest = codebook.codewords[codebook.nearest(residuals.flatten(0, 1))]
            residuals = residuals - nearest.view_as(residuals)


class VqvlaEncoder(nn.Module):
    """Chunk `[B, H, D]` -> latent `[B, E]`."""

    def __init__(self, config: VqvlaConfig):
        super().__init__()
        widths, strides, dim = config.widths, config.strides, config.bottleneck_dim
        self.missing = config.n_steps * prod(strides) - config.horizon
        layers: list[nn.Module] = [linear(config.action_dim, widths[0])]
        for width, wider, stride in zip(widths, widths[1:], strides):
            layers += [*_blocks(config, width), join_steps(width, wider, stride)]
        self.causal = nn.Sequential(*layers, *_blocks(config, widths[-1]))
        pool = join_steps(widths[-1], dim, config.n_steps)
        self.bottleneck = nn.Sequential(pool, *_bottleneck(config), linear(dim, config.latent_dim))

    def forward(self, normalized: Tensor) -> Tensor:
        return self.bottleneck(self.features(normalized))[:, 0]

    def features(self, normalized: Tensor) -> Tensor:
        """`[B, H, D]` -> `[B, n_steps, C]`; each step depends on its actions and earlier ones."""
        last = normalized[:, -1:].expand(-1, self.missing, -1)
        return self.causal(torch.cat([normalized, last], 1))


class VqvlaDecoder(nn.Module):
    """Latent `[B, E]` -> chunk `[B, H, D]`; the mirror image of the encoder."""

    def __init__(self, config: VqvlaConfig):
        super().__init__()
        self.horizon = config.horizon
        widths, strides, dim = config.widths[::-1], config.strides[::-1], config.bottleneck_dim
        unpool = divide_steps(dim, widths[0], config.n_steps)
        layers: list[nn.Module] = [linear(config.latent_dim, dim), *_bottleneck(config), unpool]
        for width, narrower, stride in zip(widths, widths[1:], strides):
            layers += [*_blocks(config, width), divide_steps(width, narrower, stride)]
        layers += [*_blocks(config, widths[-1]), linear(widths[-1], config.action_dim)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        return self.layers(latent[:, None])[:, : self.horizon]


class CausalConv(nn.Module):
    """Convolution over a step and the `kernel - 1` before it, zero-padded at the start.

    One matrix product over taps and channels, which on a CPU takes half the time of Conv1d.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.kernel = kernel
        self.taps = nn.Linear(kernel * inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        padded, n = F.pad(x, (0, 0, self.kernel - 1, 0)), x.shape[1]
        return self.taps(torch.cat([padded[:, k : k + n] for k in range(self.kernel)], -1))


class Residual(nn.Module):
    """Layer norm, causal convolution and MLP with a skip connection; the branch starts at zero."""

    def __init__(self, width: int, hidden: int, kernel: int):
        super().__init__()
        back = nn.Linear(hidden, width)
        nn.init.zeros_(back.weight)
        nn.init.zeros_(back.bias)
        conv = CausalConv(width, hidden, kernel)
        self.branch = nn.Sequential(nn.LayerNorm(width), conv, nn.GELU(), back)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def join_steps(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Convolution with kernel = stride, `[B, n * stride, C]` -> `[B, n, C']`."""
    steps = nn.Unflatten(1, (-1, stride))
    return nn.Sequential(steps, nn.Flatten(2), linear(stride * inputs, outputs))


def divide_steps(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Transposed convolution with kernel = stride, `[B, n, C]` -> `[B, n * stride, C']`."""
    steps = nn.Unflatten(2, (stride, outputs))
    return nn.Sequential(linear(inputs, stride * outputs), steps, nn.Flatten(1, 2))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Linear layer with orthogonal weights, which keep the signal's scale through a deep stack."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _blocks(config: VqvlaConfig, width: int) -> list[Residual]:
    return [Residual(width, width, config.kernel) for _ in range(config.blocks)]


def _bottleneck(config: VqvlaConfig) -> list[Residual]:
    dim, hidden = config.bottleneck_dim, config.bottleneck_hidden
    return [Residual(dim, hidden, 1) for _ in range(config.bottleneck_blocks)]
