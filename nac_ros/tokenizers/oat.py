"""OAT: a transformer encodes a chunk as ordered registers; prefixes decode (Liu et al. 2026)."""

from dataclasses import dataclass
from math import ceil, log10, pi, prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nac_ros.core.config import number_field
from nac_ros.core.errors import ConfigError
from nac_ros.tokenizers.base import (
    TOKENIZERS,
    CodebookTokenizer,
    ResidualSteps,
    ResidualTargets,
    TokenizerConfig,
    TrainingOutput,
)
from nac_ros.tokenizers.grammar import FixedGrammar
from nac_ros.tokenizers.serialization import check_elements

MAX_CODES = 65_536  # the grid is stored as a table
POSITION_SCALE = 0.7  # standard deviation of positions and registers at initialization
QUERY_KEY_GAIN = 3.0  # on the initial weights of queries and keys


@dataclass(frozen=True, kw_only=True)
class OatConfig(TokenizerConfig):
    """Chunk shape and network sizes; the defaults are the preset `paper`.

    levels: of each number in a register's latent; their product is the number of codes
    nested_dropout: train on prefixes of random length, so that the first registers encode
        most of the chunk (Rippel et al. 2014)
    """

    levels: tuple[int, ...] = (8, 5, 5, 5)
    n_registers: int = number_field(12, 1)
    width: int = number_field(576, 1)
    n_heads: int = number_field(9, 1)
    encoder_layers: int = number_field(3, 1)
    decoder_layers: int = number_field(10, 1)
    nested_dropout: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_elements("the registers", self.n_registers, self.width)
        check_elements("the steps", self.horizon, self.width)
        length = self.horizon + self.n_registers
        check_elements("the mask of steps and registers", length, length)
        if self.width % self.n_heads:
            raise ConfigError(f"width {self.width} must be a multiple of n_heads {self.n_heads}")
        if min(self.levels, default=0) < 3:
            raise ConfigError(f"levels {self.levels} must each be at least 3")
        if self.n_codes > MAX_CODES:
            raise ConfigError(f"levels {self.levels} make {self.n_codes} codes > {MAX_CODES}")

    @property
    def n_codes(self) -> int:
        """Number of values of a token."""
        return prod(self.levels)


@TOKENIZERS.register("oat")
class Oat(CodebookTokenizer):
    """Token k is the quantized latent of register k; all positions share the codes."""

    name = "oat"
    Config = OatConfig
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

    def embeddings(self) -> Tensor:
        """Grid points, `[V, E]`."""
        return self.fsq.grid

    def residual_targets(self, normalized: Tensor) -> ResidualTargets:
        """The registers' bounded latents, which do not depend on the tokens chosen."""
        latents = self.fsq.bound(self.encoder(normalized))
        return lambda tokens: latents

    def residual_steps(self, normalized: Tensor) -> ResidualSteps:
        return RegisterSteps(self.fsq.bound(self.encoder(normalized)))

    def residual_step(
        self, state: Tensor, tokens: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        return state[:, position][:, 0], state

    def training_step(self, normalized: Tensor, quantize: bool = True) -> TrainingOutput:
        latents = self.fsq.bound(self.encoder(normalized))
        if quantize:
            latents = self.fsq.round(latents)
        kept = self._random_prefixes(latents) if self.config.nested_dropout else None
        return TrainingOutput(self.decoder(latents, kept), {})

    def detokenize(self, tokens: Tensor) -> Tensor:
        return self.decoder(self.fsq.grid[tokens])

    def _encode(self, normalized: Tensor) -> Tensor:
        return self.fsq.tokens(self.fsq.bound(self.encoder(normalized)))

    def _decode_prefix(self, tokens: Tensor) -> Tensor:
        n, k = self.config.n_registers, tokens.shape[1]
        kept = torch.arange(n, device=tokens.device) < k
        return self.decoder(self.fsq.grid[F.pad(tokens, (0, n - k))], kept[None])

    def _random_prefixes(self, latents: Tensor) -> Tensor:
        """Bool `[B, R]`: the first 1 .. R registers of each chunk, a random number."""
        batch, n, _ = latents.shape
        lengths = torch.randint(1, n + 1, (batch, 1), device=latents.device)
        return torch.arange(n, device=latents.device) < lengths


class RegisterSteps(ResidualSteps):
    """Latents `[B, R, E]`, one register after the other."""

    def __init__(self, latents: Tensor):
        self._latents, self._position = latents, 0

    @property
    def state(self) -> Tensor:
        return self._latents

    def target(self) -> Tensor:
        return self._latents[:, self._position]

    def add(self, tokens: Tensor) -> None:
        self._position += 1


class Fsq(nn.Module):
    """Finite scalar quantization (arXiv 2309.15505): rounds each number to its levels.

    A number with L levels takes the integers -(L // 2) .. (L - 1) // 2, divided by L // 2. The
    grid of all combinations is the codebook, so no codeword needs training.
    """

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        counts = torch.tensor(levels)
        strides = [prod(levels[i + 1 :]) for i in range(len(levels))]
        codes = torch.arange(prod(levels))[:, None]
        digits = codes // torch.tensor(strides) % counts  # [V, E]
        self._keep(strides=torch.tensor(strides), low=counts // 2, grid=digits / (counts // 2) - 1)
        # tanh is scaled to the outermost levels; an even number has one level more below zero
        reach, offset = (counts - 1) / 2, (counts % 2 == 0) / 2
        self._keep(reach=reach, offset=offset, shift=torch.atanh(offset / reach))

    def bound(self, x: Tensor) -> Tensor:
        """Maps any numbers `[..., E]` into the range of the levels; 0 stays 0."""
        return (torch.tanh(x + self.shift) * self.reach - self.offset) / self.low

    def round(self, latents: Tensor) -> Tensor:
        """Rounds bounded latents `[..., E]` to the grid; gradients pass straight through."""
        rounded = (latents * self.low).round() / self.low
        return latents + (rounded - latents).detach()

    def tokens(self, latents: Tensor) -> Tensor:
        """Bounded latents `[..., E]` -> indices into the grid, int64 `[...]`."""
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
        nn.init.normal_(self.step.weight)  # the default is small against the positions
        self.positions = nn.Parameter(position_encoding(horizon, width))
        self.registers = nn.Parameter(POSITION_SCALE * torch.randn(self.n_registers, width))
        self.layers = nn.ModuleList(
            Layer(width, config.n_heads) for _ in range(config.encoder_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.latent = nn.Linear(width, len(config.levels))
        # attention: all steps for everyone, and earlier registers and itself for a register
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        mask[:, :horizon] = True
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, normalized: Tensor) -> Tensor:
        batch = normalized.shape[0]  # len() would fix the batch size in an export
        registers = self.registers.expand(batch, -1, -1)
        x = torch.cat([self.step(normalized) + self.positions, registers], 1)
        *first, last = self.layers
        for layer in first:
            x = layer(x, mask=self.mask)
        x = last(x, mask=self.mask, n_last=self.n_registers)
        return self.latent(self.norm(x))


class OatDecoder(nn.Module):
    """Latents `[B, R, E]` -> chunk `[B, H, D]`.

    kept: bool `[B, R]`, registers that are not masked out; None = all
    """

    def __init__(self, config: OatConfig):
        super().__init__()
        width = config.width
        self.latent = nn.Linear(len(config.levels), width)
        self.masked = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(POSITION_SCALE * torch.randn(config.n_registers, width))
        self.queries = nn.Parameter(position_encoding(config.horizon, width))
        self.layers = nn.ModuleList(
            Layer(width, config.n_heads, cross=True) for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.action = nn.Linear(width, config.action_dim)

    def forward(self, latents: Tensor, kept: Tensor | None = None) -> Tensor:
        registers = self.latent(latents)
        if kept is not None:
            registers = torch.where(kept[..., None], registers, self.masked)
        registers = registers + self.positions
        x = self.queries.expand(latents.shape[0], -1, -1)
        for layer in self.layers:
            x = layer(x, registers)
        return self.action(self.norm(x))


class Layer(nn.Module):
    """Pre-norm transformer layer: self-attention, with `cross` attention to a context, MLP.

    `[B, T, W]` -> `[B, T, W]`, or `[B, n_last, W]` of the last positions alone.
    """

    def __init__(self, width: int, n_heads: int, cross: bool = False):
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(width), Attention(width, n_heads)
        if cross:
            self.cross_norm, self.cross_attention = nn.LayerNorm(width), Attention(width, n_heads)
        back = nn.Linear(4 * width, width)
        for weights in (back.weight, back.bias):
            nn.init.zeros_(weights)  # the MLP starts at zero
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), back)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        n_last: int = 0,
    ) -> Tensor:
        normed = self.self_norm(x)
        x, queries = x[:, -n_last:], normed[:, -n_last:]  # all positions with 0
        x = x + self.self_attention(queries, normed, None if mask is None else mask[-n_last:])
        if context is not None:
            x = x + self.cross_attention(self.cross_norm(x), context)
        return x + self.mlp(x)


class Attention(nn.Module):
    """Multi-head attention of `[B, T, W]` to `[B, S, W]`; mask: bool `[T, S]`, None = all."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        # With the default weights attention starts near uniform: all registers then receive the
        # same mean over the steps and stay alike during training.
        with torch.no_grad():
            self.query.weight *= QUERY_KEY_GAIN
            self.key_value.weight[:width] *= QUERY_KEY_GAIN

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        key, value = self.key_value(context).chunk(2, -1)
        query, key, value = (self._heads(part) for part in (self.query(x), key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # [B, heads, T, W / heads]


def position_encoding(n: int, width: int) -> Tensor:
    """Position encoding `[n, width]`: sines and cosines of 1/2 .. n/2 periods."""
    periods = torch.logspace(log10(0.5), log10(n / 2), ceil(width / 2))
    angle = 2 * pi * torch.linspace(0, 1, n, device=periods.device)[:, None] * periods
    return POSITION_SCALE * torch.cat([angle.sin(), angle.cos()], 1)[:, :width]
