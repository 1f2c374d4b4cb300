"""Interface of a tokenizer: action chunks in physical units <-> tokens; input checks; registry."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log2
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nac_ros.codec.precision import full_precision
from nac_ros.codec.seanet import folded_parameters
from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.errors import BadActions, BadTokens, BundleError, ConfigError, NotFitted
from nac_ros.core.normalize import ActionNormalizer
from nac_ros.core.registry import Registry
from nac_ros.tokenizers.grammar import FixedGrammar, Grammar
from nac_ros.tokenizers.serialization import (
    WEIGHTS_FILE,
    check_elements,
    check_sizes,
    load_model,
    read_config,
    save_model,
)

MAX_STEPS = 100_000  # of a chunk that is given to a tokenizer
MAX_CHUNK_FACTOR = 256  # a chunk may have 2^26 / 256 = 262,144 values
MAX_STATISTIC = 1e4  # [rad or m] beyond the range of any joint

# Tokens chosen so far, int64 [B, k] -> residual vectors [B, L, E] that the tokens should quantize.
ResidualTargets = Callable[[Tensor], Tensor]


class ResidualSteps(ABC):
    """The residual vectors of one batch of chunks, token by token, for autoregressive decoding.

    `target` and `add` are called in turns; they give the vectors of `residual_targets` without
    computing again those of the other positions.
    """

    @property
    def state(self) -> Tensor:
        """What `Tokenizer.residual_step` starts from, `[B, ...]`; raises ConfigError for steps
        that cannot be exported."""
        raise ConfigError("these residual vectors cannot be exported to ONNX")

    @abstractmethod
    def target(self) -> Tensor:
        """Vector `[B, E]` that the next token should quantize."""

    @abstractmethod
    def add(self, tokens: Tensor) -> None:
        """The next token of each chunk, int64 `[B]`, was chosen."""


TOKENIZERS: Registry["Tokenizer"] = Registry(
    "tokenizer",
    "nac_ros.tokenizers",
    helpers=("base", "cross_embodiment", "factory", "grammar", "processor", "serialization"),
)


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(ChunkSpec):
    """Shape and columns of the chunks of any tokenizer; subclasses add their sizes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self)
        check_elements("a chunk", self.horizon, self.action_dim, MAX_CHUNK_FACTOR)


class TrainingOutput(NamedTuple):
    """Result of `training_step`: normalized reconstruction `[B, H, D]`, further losses by name."""

    reconstruction: Tensor
    losses: dict[str, Tensor]


class Tokenizer(nn.Module, ABC):
    """Chunks float32 `[B, H, D]` in rad and m <-> tokens int64 `[B, L]`.

    Arguments may be on any device, or arrays; results are on the device of the tokenizer.

    A subclass sets `grammar` and implements `_encode` and `_decode` on chunks normalized to about
    [-1, 1]. The base class checks inputs, keeps the statistics, subtracts and adds the reference
    of relative columns, saves and loads.
    """

    Config: ClassVar[type[TokenizerConfig]] = TokenizerConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {"small": {}, "paper": {}}
    training_defaults: ClassVar[dict[str, dict[str, Any]]] = {}  # training config by preset
    name: ClassVar[str]
    learned: ClassVar[bool] = False
    decodes_in_tensors: ClassVar[bool] = False  # `_decode` is torch alone: it exports to ONNX
    grammar: Grammar

    def __init__(self, config: TokenizerConfig, preset: str = "small"):
        super().__init__()
        self.config, self.preset = config, preset
        self.uses_beam_search = False  # True if a token need not be the nearest to its residual
        dim = config.action_dim
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        for statistic in ("low", "high", "absolute_low", "absolute_high"):
            self.register_buffer(statistic, torch.zeros(dim))
        relative = torch.tensor(config.relative_columns)
        self.register_buffer("relative", relative, persistent=False)
        self._is_fitted = False  # once True, `fitted` is not read from the device any more

    @property
    def device(self) -> torch.device:
        return self.low.device

    @property
    def is_relative(self) -> bool:
        """Whether encode and decode need a reference."""
        return any(self.config.relative)

    @property
    def vocab_size(self) -> int:
        """Number of distinct token values."""
        return self.grammar.vocab_size

    @property
    def codes_per_position(self) -> int:
        """Number of values that a token may take at one position."""
        return int(self.grammar.codebooks[0].sum())

    @property
    def bits(self) -> float:
        """Largest number of bits of a chunk."""
        return self.grammar.max_tokens * log2(self.codes_per_position)

    @property
    def params_m(self) -> float:
        """Millions of parameters in encoder and decoder, with weight norm folded."""
        return folded_parameters(self) / 1e6

    @property
    def prefix_lengths(self) -> tuple[int, ...]:
        """Numbers of tokens, fewer than all, that `decode_prefix` accepts."""
        return ()

    @property
    def supports_prefix(self) -> bool:
        return bool(self.prefix_lengths)

    @property
    def normalizer(self) -> ActionNormalizer:
        """Normalizer of the training actions, relative columns less the reference; tensors."""
        return ActionNormalizer(self.low, self.high, self.relative, self.is_relative)

    @property
    def absolute_normalizer(self) -> ActionNormalizer:
        """Normalizer for published errors, tensors: minimum and maximum of the absolute training
        actions, with the smallest half ranges of the config."""
        none = torch.zeros_like(self.relative)
        return ActionNormalizer(self.absolute_low, self.absolute_high, none, False)

    @property
    def mse_weights(self) -> Tensor:
        """`[D]`: weights of squared normalized errors in the published MSE."""
        return (self.normalizer.half_range / self.absolute_normalizer.half_range) ** 2

    def fit(self, actions, reference=None, seed: int = 0) -> "Tokenizer":
        """Sets statistics, codebooks and other data-dependent state from actions `[N, H, D]`."""
        self.fitted.fill_(False)
        self._is_fitted = False
        chunks = self._checked(actions)
        reference = self._checked_reference(reference, chunks)
        on_cpu = [None if x is None else x.cpu() for x in (chunks, reference)]
        columns, own = self.config.relative_columns, self.config.normalizer
        relative = ActionNormalizer.fit(*on_cpu, columns, own)
        absolute = ActionNormalizer.fit(on_cpu[0], config=replace(own, range="minmax"))
        for prefix, found in (("", relative), ("absolute_", absolute)):
            getattr(self, f"{prefix}low").copy_(torch.from_numpy(found.low))
            getattr(self, f"{prefix}high").copy_(torch.from_numpy(found.high))
        if (found := self._implausible_column()) is not None:
            column, low, high = found
            name = (self.config.names or range(self.config.action_dim))[column]
            raise BadActions(
                f"action '{name}' has a range of {low:g} to {high:g}, beyond the "
                f"{MAX_STATISTIC:g} of any joint; give it in rad, m, degrees or normalized"
            )
        self.fit_codes(self.normalize(chunks, reference), seed)
        self.fitted.fill_(True)
        return self

    def encode(self, actions, reference=None) -> Tensor:
        """Actions `[B, H, D]` -> int64 `[B, L]`; relative columns need `reference [B, D]`."""
        self._require_fitted()
        return self.encode_normalized(self.normalize(actions, reference))

    def encode_normalized(self, normalized: Tensor) -> Tensor:
        """Normalized chunks `[B, H, D]` -> int64 `[B, L]`."""
        self._require_fitted()
        with torch.no_grad(), full_precision(self.device):
            return self._encode(normalized)

    def decode(self, tokens, reference=None) -> Tensor:
        """Complete sequences int64 `[B, L]` -> float32 `[B, H, D]`; raises BadTokens."""
        return self.denormalize(self.decode_normalized(tokens), reference)

    def decode_normalized(self, tokens) -> Tensor:
        """Complete sequences int64 `[B, L]` -> normalized chunks `[B, H, D]`; raises BadTokens."""
        self._require_fitted()
        self.grammar.check(_to_numpy(tokens))
        tokens = torch.as_tensor(tokens, device=self.device)
        with torch.no_grad(), full_precision(self.device):
            return self._decode(tokens)

    def decode_prefix(self, tokens, reference=None) -> Tensor:
        """A coarse chunk from the first tokens `[B, k]`, k in `prefix_lengths`, or from all.

        Raises BadTokens, also unless `supports_prefix`.
        """
        if not self.supports_prefix:
            raise BadTokens(f"tokenizer {self.name} decodes no prefix; give all its tokens")
        self._require_fitted()
        codes = _to_numpy(tokens)
        known = (*self.prefix_lengths, self.grammar.max_tokens)
        if codes.ndim == 2 and codes.shape[1] not in known:
            raise BadTokens(f"{codes.shape[1]} tokens cannot be decoded; {known} can")
        if codes.ndim != 2 or codes.shape[1] == self.grammar.max_tokens:
            return self.decode(tokens, reference)
        self.grammar.check_prefix(codes)
        tokens = torch.as_tensor(tokens, device=self.device)
        with torch.no_grad(), full_precision(self.device):
            return self.denormalize(self._decode_prefix(tokens), reference)

    def embeddings(self) -> Tensor | None:
        """Vector of each token, `[V, E]`; None if tokens have no vectors."""
        return None

    def residual_targets(self, normalized: Tensor) -> ResidualTargets | None:
        """Function that gives the vectors which the tokens of chunks `[B, H, D]` quantize.

        Given the tokens chosen so far `[B, k]` (not necessarily those of `encode`), it returns the
        residual vectors `[B, L, E]`: position k should take the token whose embedding is nearest.
        None if tokens have no vectors.
        """
        return None

    def residual_steps(self, normalized: Tensor) -> ResidualSteps | None:
        """The same vectors one by one, for chunks `[B, H, D]`; None if tokens have no vectors."""
        targets = self.residual_targets(normalized)
        return None if targets is None else RecomputedSteps(targets, normalized)

    def residual_step(
        self, state: Tensor, tokens: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One step of `residual_steps` for export: its state `[B, ...]` before tokens int64 `[B]`
        at `position` - 1 -> the vector `[B, E]` at `position`, int64 `[1]`, and the new state.

        Raises ConfigError for a tokenizer whose steps cannot be exported.
        """
        raise ConfigError(f"the residuals of tokenizer {self.name} cannot be exported to ONNX")

    def latents(self, normalized: Tensor) -> Tensor | None:
        """Residual vectors `[B, L, E]` along the tokens of `encode`; None without vectors."""
        targets = self.residual_targets(normalized)
        return None if targets is None else targets(self.encode_normalized(normalized))

    def training_step(self, normalized: Tensor, quantize: bool = True) -> TrainingOutput:
        """One forward pass on `[B, H, D]`; `quantize`: False in the unquantized start.

        Raises ConfigError unless the tokenizer is learned.
        """
        raise ConfigError(f"tokenizer {self.name} has nothing to train; `fit` is all it needs")

    def normalize(self, actions, reference=None) -> Tensor:
        """Physical `[B, H, D]` -> about [-1, 1], relative columns less the reference."""
        chunks = self._checked(actions)
        return self.normalizer.normalize(chunks, self._checked_reference(reference, chunks))

    def denormalize(self, normalized: Tensor, reference=None) -> Tensor:
        """The inverse of `normalize`, float32 `[B, H, D]`."""
        reference = self._checked_reference(reference, normalized)
        return self.normalizer.denormalize(normalized.float(), reference)

    def save_pretrained(self, folder: Path | str, half: bool = False) -> None:
        """Writes config.json and model.safetensors; `half` stores weight matrices in float16."""
        self._require_fitted()
        save_model(self, folder, half, self._extra_state(), self._training_only)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "Tokenizer":
        """The tokenizer saved in `folder`; raises BundleError unless it is of this class."""
        saved = read_config(folder, "tokenizer")
        if saved.name != cls.name:
            raise BundleError(f"{folder} holds a '{saved.name}' tokenizer, not '{cls.name}'")

        def make(config: TokenizerConfig) -> Tokenizer:
            tokenizer = cls(config, saved.preset)
            tokenizer._restore_extra_state(saved.state)
            return tokenizer

        tokenizer = load_model(saved, "tokenizer", cls.Config, make, cls._training_only)
        tokenizer._check_statistics(saved.folder / WEIGHTS_FILE)
        return tokenizer.eval()

    def _check_statistics(self, weights: Path) -> None:
        if not bool(self.fitted):
            raise BundleError(f"{weights}: the tokenizer has no statistics; fit it, then save it")
        if (found := self._implausible_column()) is not None:
            column, low, high = found
            raise BundleError(
                f"{weights}: {low:g} to {high:g} of column {column} is no range within "
                f"{MAX_STATISTIC:g} rad or m; fit it again"
            )

    def _implausible_column(self) -> tuple[int, float, float] | None:
        """Index, minimum and maximum of a column whose range is empty or beyond MAX_STATISTIC."""
        for normalizer in (self.normalizer, self.absolute_normalizer):
            low, high = normalizer.low.cpu().numpy(), normalizer.high.cpu().numpy()
            wrong = (low > high) | (np.maximum(np.abs(low), np.abs(high)) > MAX_STATISTIC)
            if wrong.any():
                column = int(np.argmax(wrong))
                return column, float(low[column]), float(high[column])
        return None

    @abstractmethod
    def _encode(self, normalized: Tensor) -> Tensor: ...

    @abstractmethod
    def _decode(self, tokens: Tensor) -> Tensor: ...

    def _decode_prefix(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError

    def fit_codes(self, normalized: Tensor, seed: int) -> None:
        """Sets data-dependent state other than the statistics from normalized `[N, H, D]`."""

    def _extra_state(self) -> dict[str, Any]:
        """Plain values for config.json that are neither tensors nor configuration."""
        return {}

    def _restore_extra_state(self, state: dict[str, Any]) -> None:
        pass

    @staticmethod
    def _training_only(key: str) -> bool:
        """Whether an entry of the module's state serves training alone and is not saved."""
        return key.endswith((".counts", ".cross_covariance", ".codeword_power", ".n_updates"))

    def _require_fitted(self) -> None:
        self._is_fitted = self._is_fitted or bool(self.fitted)
        if not self._is_fitted:
            raise NotFitted(
                f"tokenizer {self.name} has no statistics yet; call fit(actions) first"
            )

    def _checked(self, actions) -> Tensor:
        shape = self.config.horizon, self.config.action_dim
        return check_actions(actions, *shape).to(self.device)

    def _checked_reference(self, reference, chunks: Tensor) -> Tensor | None:
        """References `[B, D]` of a relative codec, on the device of the chunks; else None."""
        if not self.is_relative:
            return None
        if reference is None:
            raise BadActions(
                f"this {self.name} codec is relative: give the joint state as reference [B, D]"
            )
        return check_references(reference, len(chunks), self.config.action_dim).to(chunks.device)


class CodebookTokenizer(Tokenizer):
    """A learned tokenizer whose tokens are rows of `embeddings` and whose prefixes decode.

    A subclass implements `detokenize` in pure torch, which is also exported to ONNX.
    """

    learned = True
    decodes_in_tensors = True

    @property
    def prefix_lengths(self) -> tuple[int, ...]:
        return tuple(range(1, self.grammar.max_tokens))

    @abstractmethod
    def detokenize(self, tokens: Tensor) -> Tensor:
        """Tokens int64 `[B, L]` -> normalized chunk `[B, H, D]`, without checks."""

    def _decode(self, tokens: Tensor) -> Tensor:
        return self.detokenize(tokens)

    def _decode_prefix(self, tokens: Tensor) -> Tensor:
        return self.detokenize(tokens)


class ResidualTokenizer(CodebookTokenizer):
    """Residual vector quantization: the tokens of stage s are codes, offset by s * codebook_size.

    A subclass provides `quantizer` (nac_ros.codec.quantizer) and implements `latent`.
    """

    quantizer: nn.Module

    def __init__(
        self, config: TokenizerConfig, preset: str, n_tokens: tuple[int, ...], codebook_size: int
    ):
        """n_tokens: of each stage"""
        super().__init__(config, preset)
        offsets = np.repeat(np.arange(len(n_tokens)) * codebook_size, n_tokens)
        self.grammar = FixedGrammar(offsets.tolist(), (offsets + codebook_size).tolist())
        self.register_buffer("offsets", torch.tensor(offsets.tolist()), persistent=False)
        self._stage_bounds = list(pairwise([0, *np.cumsum(n_tokens).tolist()]))

    @abstractmethod
    def latent(self, normalized: Tensor) -> Tensor:
        """Chunks `[B, H, D]` -> the latent that the quantizer takes."""

    def embeddings(self) -> Tensor:
        """Codewords of all stages, `[V, E]`."""
        return torch.cat([codebook.codewords for codebook in self.quantizer.codebooks])

    def residual_targets(self, normalized: Tensor) -> ResidualTargets:
        latent = self.latent(normalized)
        return lambda tokens: torch.cat(
            self.quantizer.residual_targets(latent, self._codes(tokens)), 1
        )

    def residual_steps(self, normalized: Tensor) -> ResidualSteps:
        return QuantizerSteps(self, self.latent(normalized))

    def residual_step(
        self, state: Tensor, tokens: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        codewords = nn.functional.embedding(tokens, self.embeddings())
        return self.quantizer.residual_step(state, codewords, position)

    def _encode(self, normalized: Tensor) -> Tensor:
        return torch.cat(self.quantizer.codes(self.latent(normalized)), 1) + self.offsets

    def _codes(self, tokens: Tensor) -> list[Tensor]:
        """First tokens `[B, k]` -> codes of each stage that has begun, `[B, n]`."""
        k = tokens.shape[1]
        codes = tokens - self.offsets[:k]
        return [codes[:, first:end] for first, end in self._stage_bounds if first < k]


class RecomputedSteps(ResidualSteps):
    """Steps of a tokenizer that can only compute all its residual vectors at once."""

    def __init__(self, targets: ResidualTargets, normalized: Tensor):
        self._targets = targets
        self._tokens = normalized.new_zeros(len(normalized), 0, dtype=torch.int64)

    def target(self) -> Tensor:
        return self._targets(self._tokens)[:, self._tokens.shape[1]]

    def add(self, tokens: Tensor) -> None:
        self._tokens = torch.cat([self._tokens, tokens[:, None]], 1)


class QuantizerSteps(ResidualSteps):
    """Residual vectors of latents `[B, E, ...]` of a residual tokenizer."""

    def __init__(self, tokenizer: ResidualTokenizer, latent: Tensor):
        self._quantizer, self._starts = tokenizer.quantizer, tokenizer.grammar.starts
        self._residual, self._position = latent, 0

    @property
    def state(self) -> Tensor:
        return self._residual

    def target(self) -> Tensor:
        return self._quantizer.residual_target(self._residual, self._position)

    def add(self, tokens: Tensor) -> None:
        codes = tokens - self._starts[self._position]
        self._residual = self._quantizer.subtract(self._residual, codes, self._position)
        self._position += 1


def random_rows(chunks: Tensor, most: int, seed: int) -> Tensor:
    """At most so many of chunks `[N, ...]`, drawn without replacement on their device."""
    generator = torch.Generator(chunks.device).manual_seed(seed)
    order = torch.randperm(len(chunks), generator=generator, device=chunks.device)
    return chunks[order[:most]]


def _to_numpy(tokens) -> np.ndarray:
    return tokens.cpu().numpy() if isinstance(tokens, Tensor) else np.asarray(tokens)


def to_floats(values, what: str) -> Tensor:
    """Float32 from a tensor, an array or nested lists of numbers; raises BadActions otherwise."""
    if isinstance(values, Tensor):
        return values.float()
    try:
        numbers = np.asarray(values)
    except ValueError as error:
        raise BadActions(f"{what} must have equally long rows: {error}") from error
    if numbers.dtype.kind not in "fiu":
        raise BadActions(f"{what} must be real numbers, got {numbers.dtype}")
    with np.errstate(over="ignore"):  # an overflow becomes inf, which is rejected later
        return torch.from_numpy(numbers.astype(np.float32, copy=False))


def check_actions(actions, horizon: int, action_dim: int) -> Tensor:
    """Float32 `[B, H, D]` from tensors, arrays or lists; raises BadActions for anything else."""
    chunks = to_floats(actions, "actions")
    if chunks.ndim == 3 and chunks.shape[1] > MAX_STEPS:
        raise BadActions(f"{chunks.shape[1]} steps in a chunk; at most {MAX_STEPS}")
    if tuple(chunks.shape[1:]) != (horizon, action_dim) or chunks.ndim != 3 or not len(chunks):
        shape = tuple(chunks.shape)
        raise BadActions(f"actions must be [B >= 1, {horizon}, {action_dim}], got {shape}")
    if not torch.isfinite(chunks).all():
        index = torch.nonzero(~torch.isfinite(chunks))[0].tolist()  # [row, step, column]
        raise BadActions(f"actions hold {chunks[tuple(index)]} at {index}")
    return chunks


def check_references(reference, batch: int, action_dim: int) -> Tensor:
    """Float32 `[B, D]`; raises BadActions for anything else."""
    states = to_floats(reference, "the reference")
    if tuple(states.shape) != (batch, action_dim):
        raise BadActions(f"reference must be [{batch}, {action_dim}], got {tuple(states.shape)}")
    if not torch.isfinite(states).all():
        raise BadActions("the reference holds NaN or inf; check the joint states")
    return states
