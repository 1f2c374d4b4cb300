"""What may enter a tokenizer: actions and joint states of the right shape, all finite."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nac_ros.core import config as configs
from nac_ros.core.errors import BadActions, BadTokens, BundleError, ConfigError, NotFitted
from nac_ros.core.normalize import LinearNormalizer
from nac_ros.core.registry import Registry
from nac_ros.tokenizers.grammar import Grammar
from nac_ros.tokenizers.serialization import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    build_config,
    check_elements,
    check_sizes,
    fill,
    limit_size,
    read_config,
    refuse_misfit,
    save_weights,
)

MAX_STEPS = 100_000  # a chunk longer than this is a mistake, not a motion


def check_actions(actions, horizon: int, action_dim: int) -> Tensor:
    """Float32 `[B, H, D]` from tensors, arrays or lists; raises BadActions for anything else."""
    found = torch.as_tensor(np.asarray(actions) if isinstance(actions, list) else actions)
    if found.ndim == 3 and found.shape[1] > MAX_STEPS:
        raise BadActions(f"{found.shape[1]} steps in a chunk; at most {MAX_STEPS}")
    if tuple(found.shape[1:]) != (horizon, action_dim) or found.ndim != 3 or not len(found):
        shape = tuple(found.shape)
        raise BadActions(f"actions must be [B >= 1, {horizon}, {action_dim}], got {shape}")
    found = found.float()
    if not torch.isfinite(found).all():
        place = torch.nonzero(~torch.isfinite(found))[0].tolist()  # [row, step, column]
        raise BadActions(f"actions hold {found[tuple(place)]} at {place}")
    return found


def check_references(reference, batch: int, action_dim: int) -> Tensor:
    """Float32 `[B, D]`; raises BadActions for anything else."""
    found = torch.as_tensor(reference).float()
    if tuple(found.shape) != (batch, action_dim):
        raise BadActions(f"reference must be [{batch}, {action_dim}], got {tuple(found.shape)}")
    if not torch.isfinite(found).all():
        raise BadActions("the reference holds NaN or inf; check the joint states")
    return found


CHUNK_ROOM = 256  # a chunk may have 2^26 / 256 = 262,144 values
MAX_RATE_HZ = 1000.0
MAX_STATISTIC = 1e4  # [rad or m] no joint has moved farther

ResidualTargets = Callable[
    [Tensor], Tensor
]  # tokens said so far [B, k] -> what is to be named [B, L, E]

TOKENIZERS: Registry["Tokenizer"] = Registry(
    "tokenizer",
    "nac_ros.tokenizers",
    helpers=("base", "cross_embodiment", "factory", "grammar", "processor", "serialization"),
)


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """What every tokenizer knows about its chunks `[horizon, action_dim]`.

    names, units, rate_hz: the columns and the control rate; empty or 0 where unknown
    relative: True for columns described relative to the reference; empty = all absolute
    """

    horizon: int = 32
    action_dim: int = 7
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    rate_hz: float = 0.0
    relative: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.action_dim < 1:
            raise ConfigError(f"a chunk of {self.horizon} x {self.action_dim} holds nothing")
        check_sizes(self)
        check_elements("a chunk", self.horizon, self.action_dim, CHUNK_ROOM)
        if not 0 <= self.rate_hz <= MAX_RATE_HZ:
            raise ConfigError(
                f"tokenizer: rate_hz must be in 0 .. {MAX_RATE_HZ:g}, got {self.rate_hz}"
            )
        for field in ("names", "units", "relative"):
            length = len(getattr(self, field))
            if length not in (0, self.action_dim):
                raise ConfigError(
                    f"tokenizer: {field} has {length} entries for {self.action_dim} dimensions"
                )


class TrainingOutput(NamedTuple):
    """One training forward: reconstruction `[B, H, D]` (normalised) and the extra losses."""

    reconstruction: Tensor
    extra: dict[str, Tensor]


class Tokenizer(nn.Module, ABC):
    """Chunks float32 `[B, H, D]` in rad and m <-> tokens int64 `[B, L]`.

    A subclass gives `_encode` and `_decode` on chunks normalised to about [-1, 1].
    """

    Config: ClassVar[type[TokenizerConfig]] = TokenizerConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {"small": {}, "paper": {}}
    name: ClassVar[str]
    learned: ClassVar[bool] = False
    supports_prefix: ClassVar[bool] = False
    training_defaults: ClassVar[dict[str, dict[str, Any]]] = {}  # by preset: what differs in its training
    grammar: Grammar

    def __init__(self, config: TokenizerConfig, preset: str = "small"):
        super().__init__()
        self.config, self.preset = config, preset
        self.uses_beam_search = False  # True where tokens are chosen together, none by itself the nearest
        dim = config.action_dim
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        for statistic in ("low", "high", "absolute_low", "absolute_high"):
            self.register_buffer(statistic, torch.zeros(dim))
        relative = torch.tensor(config.relative or (False,) * dim)
        self.register_buffer("relative", relative, persistent=False)

    @property
    def is_relative(self) -> bool:
        """Whether encode and decode need a reference."""
        return any(self.config.relative)

    @property
    def vocab_size(self) -> int:
        """Number of distinct token values."""
        return self.grammar.vocab_size

    @property
    @abstractmethod
    def codes_per_position(self) -> int:
        """How many values a token may take at one position."""

    @property
    def bits(self) -> float:
        """Bits of one chunk at most."""
        return self.grammar.max_tokens * log2(self.codes_per_position)

    @property
    def params_m(self) -> float:
        """Millions of parameters in encoder and decoder."""
        return 0.0

    @property
    def prefix_lengths(self) -> tuple[int, ...]:
        """Numbers of tokens, fewer than all, that `decode_prefix` takes."""
        return ()

    @property
    def mse_weights(self) -> Tensor:
        """`[D]`: what the square of a normalised error counts in the published MSE."""
        return (self._scale()[1] / torch.from_numpy(self.absolute_normalizer.half_range).to(self.low)) ** 2

    def fit(self, actions, reference=None, seed: int = 0) -> "Tokenizer":
        """Statistics, and whatever depends on data, from actions `[N, H, D]`; returns self."""
        self.fitted.fill_(False)
        chunks = self._chunks(actions)
        offsets = self._offsets(reference, len(chunks), chunks)
        absolute = LinearNormalizer.fit(chunks.numpy())
        shifted = LinearNormalizer.fit((chunks - offsets).numpy())
        self._store(shifted, absolute)
        if (found := self._odd_column()) is not None:
            column, least, most = found
            name = (self.config.names or range(self.config.action_dim))[column]
            raise BadActions(
                f"action '{name}' goes from {least:g} to {most:g}, beyond {MAX_STATISTIC:g}, as "
                "no joint does; give it in rad, m, degrees or normalised"
            )
        self.fit_codes(self.normalize(chunks, reference), seed)
        self.fitted.fill_(True)
        return self

    def encode(self, actions, reference=None) -> Tensor:
        """Actions `[B, H, D]` -> int64 `[B, L]`; relative codecs need `reference [B, D]`."""
        self._demand_fitted()
        return self.encode_normalized(self.normalize(actions, reference))

    def encode_normalized(self, normalised: Tensor) -> Tensor:
        """What `normalize` made, `[B, H, D]` -> int64 `[B, L]`."""
        self._demand_fitted()
        with torch.no_grad():
            return self._encode(normalised)

    def decode(self, tokens, reference=None) -> Tensor:
        """Complete sequences int64 `[B, L]` -> float32 `[B, H, D]`; raises BadTokens."""
        self._demand_fitted()
        tokens = torch.as_tensor(tokens)
        self.grammar.check(tokens.cpu().numpy())
        with torch.no_grad():
            return self.denormalize(self._decode(tokens), reference)

    def decode_prefix(self, tokens, reference=None) -> Tensor:
        """A coarse chunk from the first tokens `[B, k]`, k of `prefix_lengths`, or from all.

        Raises BadTokens, also where not `supports_prefix`.
        """
        if not self.supports_prefix:
            raise BadTokens(f"tokenizer {self.name} decodes no prefix; give all its tokens")
        self._demand_fitted()
        tokens = torch.as_tensor(tokens)
        known = (*self.prefix_lengths, self.grammar.max_tokens)
        if tokens.ndim == 2 and tokens.shape[1] not in known:
            raise BadTokens(f"{tokens.shape[1]} tokens decode to nothing; {known} do")
        if tokens.ndim != 2 or tokens.shape[1] == self.grammar.max_tokens:
            return self.decode(tokens, reference)
        self.grammar.check_prefix(tokens.cpu().numpy())
        with torch.no_grad():
            return self.denormalize(self._decode_prefix(tokens), reference)

    def embeddings(self) -> Tensor | None:
        """What each token means as a vector `[V, E]`, None where tokens have no geometry."""
        return None

    def residual_targets(self, normalised: Tensor) -> ResidualTargets | None:
        """How the tokens of chunks `[B, H, D]` are found, where that is by nearest embeddings.

        The result takes the tokens said so far `[B, k]`, which may be others than `encode`'s, and
        gives the vectors `[B, L, E]` whose nearest embeddings come next.
        """
        return None

    def latents(self, normalised: Tensor) -> Tensor | None:
        """The vectors `[B, L, E]` that the tokens of chunks `[B, H, D]` name, each after those
        before it; None without geometry."""
        naming = self.residual_targets(normalised)
        return None if naming is None else naming(self.encode_normalized(normalised))

    def training_step(self, normalised: Tensor, quantize: bool = True) -> TrainingOutput:
        """One training forward on `[B, H, D]`, at first without codes; learned tokenizers only."""
        raise ConfigError(f"tokenizer {self.name} has nothing to train; `fit` is all it needs")

    def normalize(self, actions, reference=None) -> Tensor:
        """Physical `[B, H, D]` -> about [-1, 1], relative columns less the reference."""
        chunks = self._chunks(actions)
        chunks = chunks - self._offsets(reference, len(chunks), chunks)
        centre, half = self._scale()
        return (chunks - centre) / half

    def denormalize(self, normalised: Tensor, reference=None) -> Tensor:
        """The inverse of `normalize`, float32 `[B, H, D]`."""
        centre, half = self._scale()
        chunks = normalised.float() * half + centre
        return chunks + self._offsets(reference, len(chunks), chunks)

    @property
    def absolute_normalizer(self) -> LinearNormalizer:
        """Minimum and maximum of the absolute training actions, for published errors."""
        return LinearNormalizer(self.absolute_low.numpy(), self.absolute_high.numpy())

    def save_pretrained(self, folder: Path | str, half: bool = False) -> None:
        """Writes config.json and model.safetensors; `half` stores weight matrices in float16."""
        self._demand_fitted()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        facts = {
            "name": self.name,
            "preset": self.preset,
            "config": configs.to_plain(self.config),
            "state": self._extra_state(),
        }
        (folder / CONFIG_FILE).write_text(json.dumps(facts, indent=1) + "\n")
        save_weights(self, folder / WEIGHTS_FILE, half, self._training_only)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "Tokenizer":
        """The tokenizer saved in `folder`; raises BundleError when it is not one of this class."""
        folder = Path(folder)
        facts, weights = read_config(folder), folder / WEIGHTS_FILE
        if facts["name"] != cls.name:
            raise BundleError(f"{folder} holds a '{facts['name']}' tokenizer, not '{cls.name}'")
        config = build_config(cls.Config, facts, folder)
        with refuse_misfit(folder, "tokenizer"):
            with limit_size(weights):
                tokenizer = cls(config, facts["preset"])
            tokenizer._restore_extra_state(facts["state"])
            fill(tokenizer, weights, cls._training_only)
        tokenizer._check_statistics(weights)
        return tokenizer.eval()

    def _check_statistics(self, weights: Path) -> None:
        """Raises BundleError where a column's minimum is above its maximum, or far too large."""
        if not bool(self.fitted):
            raise BundleError(f"{weights}: the tokenizer has no statistics; fit it, then save it")
        if (found := self._odd_column()) is not None:
            column, least, most = found
            raise BundleError(
                f"{weights}: {least:g} to {most:g} of column {column} is no range within "
                f"{MAX_STATISTIC:g} rad or m; fit it again"
            )

    def _odd_column(self) -> tuple[int, float, float] | None:
        """A column whose minimum is above its maximum, or that goes too far, with both; or None"""
        for low, high in (("low", "high"), ("absolute_low", "absolute_high")):
            least, most = getattr(self, low).cpu().numpy(), getattr(self, high).cpu().numpy()
            odd = (least > most) | (np.maximum(np.abs(least), np.abs(most)) > MAX_STATISTIC)
            if odd.any():
                column = int(np.argmax(odd))
                return column, float(least[column]), float(most[column])
        return None

    @abstractmethod
    def _encode(self, normalised: Tensor) -> Tensor: ...

    @abstractmethod
    def _decode(self, tokens: Tensor) -> Tensor: ...

    def _decode_prefix(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError

    def fit_codes(self, normalised: Tensor, seed: int) -> None:
        """Whatever depends on normalised chunks `[N, H, D]` beyond the statistics."""

    def _extra_state(self) -> dict[str, Any]:
        return {}

    def _restore_extra_state(self, state: dict[str, Any]) -> None:
        pass

    @staticmethod
    def _training_only(key: str) -> bool:
        """Whether a state entry serves training alone and is not saved."""
        return key.endswith((".counts", ".crossed", ".powers", ".forwards"))

    def _demand_fitted(self) -> None:
        if not bool(self.fitted):
            raise NotFitted(
                f"tokenizer {self.name} has no statistics yet; call fit(actions) first"
            )

    def _store(self, shifted: LinearNormalizer, absolute: LinearNormalizer) -> None:
        self.low.copy_(torch.from_numpy(shifted.low))
        self.high.copy_(torch.from_numpy(shifted.high))
        self.absolute_low.copy_(torch.from_numpy(absolute.low))
        self.absolute_high.copy_(torch.from_numpy(absolute.high))

    def _scale(self) -> tuple[Tensor, Tensor]:
        ours = LinearNormalizer(self.low.cpu().numpy(), self.high.cpu().numpy())
        device = self.low.device
        centre, half = torch.from_numpy(ours.centre), torch.from_numpy(ours.half_range)
        return centre.to(device), half.to(device)

    def _chunks(self, actions) -> Tensor:
        return check_actions(actions, self.config.horizon, self.config.action_dim)

    def _offsets(self, reference, batch: int, like: Tensor) -> Tensor:
        if not self.is_relative:
            return torch.zeros((), device=like.device)
        if reference is None:
            raise BadActions(
                f"this {self.name} codec is relative: give the joint state as reference [B, D]"
            )
        offsets = check_references(reference, batch, self.config.action_dim).to(like.device)
        return (offsets * self.relative)[:, None]  # [B, 1, D]
