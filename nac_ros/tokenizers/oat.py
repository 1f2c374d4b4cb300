"""OAT: chunks as registers in order of weight, so that prefixes decode (Liu et al. 2026)."""

from dataclasses import dataclass
from math import ceil, log10, pi, prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

MAX_CODES = 65_536  # the grid is kept as a table
LOUD = 0.7  # of positions and registers at first
SHARP = 3.0  # of queries and keys at first


@dataclass(frozen=True, kw_only=True)
class OatConfig(TokenizerConfig):
    """Chunk facts and sizes; defaults are the preset `paper`.

    levels: values that each number of a register's latent may take; their product is the codes
    nested_dropout: train on prefixes of random length, so that the first registers say most
    """

    levels: tuple[int, ...] = (8, 5, 5, 5)
    n_registers: int = bounded(12, 1)
    width: int = bounded(576, 1)
    n_heads: int = bounded(9, 1)
    encoder_layers: int = bounded(3, 1)
    decoder_layers: int = bounded(10, 1)
    nested_dropout: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        configs.check_bounds(self)
        check_elements("the registers", self.n_registers, self.width)
        check_elements("the steps", self.horizon, self.width)
        length = self.horizon + self.n_registers
        check_elements("the mask of steps and registers", length, length)
        if self.width % self.n_heads:
            raise ConfigError(f"width {self.width} is no multiple of n_heads {self.n_heads}")
        if min(self.levels, default=0) < 3:
            raise ConfigError(f"levels {self.levels} must each be at least 3")
        if self.n_codes > MAX_CODES:
            raise ConfigError(f"levels {self.levels} make {self.n_codes} codes > {MAX_CODES}")

    @property
    def n_codes(self) -> int:
        """Values of a token."""
        return prod(self.levels)


@TOKENIZERS.register("oat")
class Oat(Tokenizer):
    """Token k is the latent of register k; all positions share the codes."""

    name = "oat"
    Config = OatConfig
    learned = True
    supports_prefix = True
    presets = {
        "paper": {},
        "small": {"width": 136, "n_heads": 4, "encoder_layers": 3, "decoder_layers": 3},
    }
    training_defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"learning_rate": 2e-4, "steps": 50_000, "discriminator": "none"},
        "small": {"discriminator": "none"},
    }

    def __init__(self, config: OatConfig, preset: str = "small"):
        super().__init__(config, preset)
        n = config.n_registers
        self.grammar = FixedGrammar([0] * n, [config.n_codes] * n)
        self.fsq = Fsq(config.levels)
        self.encoder, self.decoder = OatEncoder(config), OatDecoder(config)

    @property
    def codes_per_position(self) -> int:
        return self.config.n_codes

    @property
    def params_m(self) -> float:
        return sum(weights.numel() for weights in self.parameters()) / 1e6

    @property
    def prefix_lengths(self) -> tuple[int, ...]:
        """How many tokens a prefix may have."""
        return tuple(range(1, self.config.n_registers))

    def embeddings(self) -> Tensor:
        """The grid, `[V, E]`."""
        return self.fsq.grid

    def residual_targets(self, normalised: Tensor) -> ResidualTargets:
        """The registers' bounded latents; no register makes up for what another said."""
        latents = self.fsq.bound(self.encoder(normalised))
        return lambda tokens: latents

    def training_step(self, normalised: Tensor, quantize: bool = True) -> TrainingOutput:
        latents = self.fsq.bound(self.encoder(normalised))
        if quantize:
            latents = self.fsq.round(latents)
        kept = self._random_prefixes(latents) if self.config.nested_dropout else None
        return TrainingOutput(self.decoder(latents, kept), {})

    def detokenize(self, tokens: Tensor) -> Tensor:
        """Tokens int64 `[B, L]` -> normalised chunk `[B, H, D]`, without checks: for export."""
        return self.decoder(self.fsq.grid[tokens])

    def _encode(self, normalised: Tensor) -> Tensor:
        return self.fsq.tokens(self.fsq.bound(self.encoder(normalised)))

    def _decode(self, tokens: Tensor) -> Tensor:
        return self.detokenize(tokens)

    def _decode_prefix(self, tokens: Tensor) -> Tensor:
        """First tokens int64 `[B, k]` -> normalised chunk `[B, H, D]`."""
        n, k = self.config.n_registers, tokens.shape[1]
        kept = torch.arange(n, device=tokens.device) < k
        return self.decoder(self.fsq.grid[F.pad(tokens, (0, n - k))], kept[None])

    def _random_prefixes(self, latents: Tensor) -> Tensor:
        """Bool `[B, R]`: the registers that are kept, in each chunk the first 1 .. R."""
        batch, n, _ = latents.shape
        lengths = torch.randint(1, n + 1, (batch, 1), device=latents.device)
        return torch.arange(n, device=latents.device) < lengths


class Fsq(nn.Module):
    """Finite scalar quantization (arXiv 2309.15505): each number to the nearest of its levels.

    A number with L levels takes the values -(L // 2) .. (L - 1) // 2, over L // 2.
    """

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        counts = torch.tensor(levels)
        strides = [prod(levels[i + 1 :]) for i in range(len(levels))]
        codes = torch.arange(prod(levels))[:, None]
        digits = codes // torch.tensor(strides) % counts  # [V, E]
        self._keep(strides=torch.tensor(strides), low=counts // 2, grid=digits / (counts // 2) - 1)
        # tanh reaches the outermost levels; of an even number one more lies below zero
        reach, offset = (counts - 1) / 2, (counts % 2 == 0) / 2
        self._keep(reach=reach, offset=offset, shift=torch.atanh(offset / reach))

    def bound(self, x: Tensor) -> Tensor:
        """Any numbers `[..., E]` into the range of the levels; 0 stays 0."""
        return (torch.tanh(x + self.shift) * self.reach - self.offset) / self.low

    def round(self, latents: Tensor) -> Tensor:
        """Bounded latents `[..., E]` to the grid; gradients pass as if nothing had happened."""
        rounded = (latents * self.low).round() / self.low
        return latents + (rounded - latents).detach()

    def tokens(self, latents: Tensor) -> Tensor:
        """Bounded latents `[..., E]` -> int64 `[...]`, rows of the grid."""
        digits = (latents * self.low).round().long() + self.low
        return (digits * self.strides).sum(-1)

    def _keep(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)


class OatEncoder(nn.Module):
    """Chunk `[B, H, D]` -> unbounded latents `[B, R, E]`."""

    def __init__(self, config: OatConfig):
        super().__init__()
        horizon, width, self.n_registers = config.horizon, config.width, config.n_registers
        length = horizon + self.n_registers
        self.step = nn.Linear(config.action_dim, width)
        nn.init.normal_(self.step.weight)  # or small motions drown in the positions
        self.positions = nn.Parameter(waves(horizon, width))
        self.registers = nn.Parameter(LOUD * torch.randn(self.n_registers, width))
        self.layers = nn.ModuleList(
            Layer(width, config.n_heads) for _ in range(config.encoder_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.latent = nn.Linear(width, len(config.levels))
        # steps see steps; a register sees all steps, itself and the registers before it
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        seen[:, :horizon] = True
        self.register_buffer("seen", seen, persistent=False)

    def forward(self, normalised: Tensor) -> Tensor:
        registers = self.registers.expand(
            normalised.shape[0], -1, -1
        )  # len() would fix it in an export
        x = torch.cat([self.step(normalised) + self.positions, registers], 1)
        *first, last = self.layers
        for layer in first:
            x = layer(x, seen=self.seen)
        x = last(x, seen=self.seen, n_last=self.n_registers)
        return self.latent(self.norm(x))


class OatDecoder(nn.Module):
    """Latents `[B, R, E]`, of which `kept [B, R]` are known (None = all) -> chunk `[B, H, D]`."""

    def __init__(self, config: OatConfig):
        super().__init__()
        width = config.width
        self.latent = nn.Linear(len(config.levels), width)
        self.unknown = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(LOUD * torch.randn(config.n_registers, width))
        self.queries = nn.Parameter(waves(config.horizon, width))
        self.layers = nn.ModuleList(
            Layer(width, config.n_heads, cross=True) for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.action = nn.Linear(width, config.action_dim)

    def forward(self, latents: Tensor, kept: Tensor | None = None) -> Tensor:
        registers = self.latent(latents)
        if kept is not None:
            registers = torch.where(kept[..., None], registers, self.unknown)
        registers = registers + self.positions
        x = self.queries.expand(latents.shape[0], -1, -1)
        for layer in self.layers:
            x = layer(x, registers)
        return self.action(self.norm(x))


class Layer(nn.Module):
    """Pre-norm self-attention, attention to a context where `cross`, four-times-wide perceptron.

    `[B, T, W]` -> `[B, T, W]`, or `[B, n_last, W]` of the last positions alone.
    """

    def __init__(self, width: int, n_heads: int, cross: bool = False):
        super().__init__()
        self.own_norm, self.own = nn.LayerNorm(width), Attention(width, n_heads)
        if cross:
            self.cross_norm, self.cross = nn.LayerNorm(width), Attention(width, n_heads)
        back = nn.Linear(4 * width, width)
        for weights in (back.weight, back.bias):
            nn.init.zeros_(weights)  # at first attention alone carries the chunk to the other end
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), back
        )

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        seen: Tensor | None = None,
        n_last: int = 0,
    ) -> Tensor:
        own = self.own_norm(x)
        x, asking = x[:, -n_last:], own[:, -n_last:]
        x = x + self.own(asking, own, None if seen is None else seen[-n_last:])
        if context is not None:
            x = x + self.cross(self.cross_norm(x), context)
        return x + self.perceptron(x)


class Attention(nn.Module):
    """`[B, T, W]` looks at a context `[B, S, W]`; `seen` bool `[T, S]`, None = all of it."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        with torch.no_grad():  # sharp from the start: registers that all see the mean stay alike
            self.query.weight *= SHARP
            self.key_value.weight[:width] *= SHARP

    def forward(self, x: Tensor, context: Tensor, seen: Tensor | None = None) -> Tensor:
        key, value = self.key_value(context).chunk(2, -1)
        query, key, value = (self._heads(part) for part in (self.query(x), key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # [B, heads, T, W / heads]


def waves(n: int, width: int) -> Tensor:
    """`[n, width]`: sines and cosines of 1/2 .. n/2 periods, so that neighbours look alike."""
    periods = torch.logspace(log10(0.5), log10(n / 2), ceil(width / 2))
    angle = 2 * pi * torch.linspace(0, 1, n)[:, None] * periods
    return LOUD * torch.cat([angle.sin(), angle.cos()], 1)[:, :width]
