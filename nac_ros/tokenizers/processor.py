"""A tokenizer with the face of the public FAST processor: lists of ids for any policy's training.

processor = ActionProcessor.fit(actions)       # [N, H, D]
ids = processor(actions)                       # N lists of ints, each as long as it needs
actions = processor.decode(ids)                # float32 [N, H, D]
"""

from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nac_ros.core.errors import BadActions, BadTokens, ConfigError
from nac_ros.tokenizers.base import TOKENIZERS, Tokenizer
from nac_ros.tokenizers.factory import load_tokenizer, make_tokenizer
from nac_ros.tokenizers.grammar import PAD


class ActionProcessor:
    """Torch, numpy or nested lists in, one chunk `[H, D]` or a batch `[B, H, D]`, in rad and m."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    @classmethod
    def fit(
        cls,
        actions: Any,
        name: str = "fast",
        preset: str = "small",
        reference: Any = None,
        seed: int = 0,
        **config: Any,
    ) -> "ActionProcessor":
        """A tokenizer that needs no training, made for and fitted to chunks `[N, H, D]`.

        `reference [N, D]` counts where `config` has `relative` columns.
        """
        if TOKENIZERS.get(name).learned:
            raise ConfigError(
                f"tokenizer {name} is learned: train it with `nac tokenizer train --tokenizer "
                f"{name}`, then open its folder with ActionProcessor.from_pretrained"
            )
        chunks, state = _chunks(actions), _state(reference)
        made = make_tokenizer(name, preset, chunks.shape[1], chunks.shape[2], **config)
        return cls(made.fit(chunks, state, seed))

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "ActionProcessor":
        """The tokenizer in a local folder or bundle; nothing is fetched from anywhere."""
        return cls(load_tokenizer(folder))

    def save_pretrained(self, folder: Path | str) -> None:
        """Writes the tokenizer folder that `load_tokenizer` and `nac tokenizer` read."""
        self.tokenizer.save_pretrained(folder)

    def __call__(self, actions: Any, reference: Any = None) -> list[list[int]]:
        """Ids of each chunk, without padding; relative codecs need `reference [B, D]`."""
        tokens = self.tokenizer.encode(_chunks(actions), _state(reference))
        return [[token for token in row if token != PAD] for row in tokens.tolist()]

    def decode(self, ids: Any, reference: Any = None) -> np.ndarray:
        """Ids of each chunk -> float32 `[B, H, D]`; raises BadTokens, never fills in."""
        rows = _rows(ids)
        lengths = {len(row) for row in rows}
        if len(lengths) > 1:  # judged before they are padded, for they hold no padding yet
            for length in sorted(lengths):
                alike = [row for row in rows if len(row) == length]
                self.tokenizer.grammar.check(_array(alike))
        padded = [row + [PAD] * (max(lengths) - len(row)) for row in rows]
        return self.tokenizer.decode(_array(padded), _state(reference)).cpu().numpy()

    @property
    def vocab_size(self) -> int:
        """Number of distinct ids, 0 .. vocab_size - 1."""
        return self.tokenizer.vocab_size

    @property
    def horizon(self) -> int:
        """T, steps of a chunk."""
        return self.tokenizer.config.horizon

    @property
    def time_horizon(self) -> int:
        """The horizon, by the name that users of the public processor know."""
        return self.horizon

    @property
    def action_dim(self) -> int:
        """D."""
        return self.tokenizer.config.action_dim


def _chunks(actions: Any) -> torch.Tensor:
    chunks = _floats(actions, "actions")
    chunks = chunks[None] if chunks.ndim == 2 else chunks
    if chunks.ndim != 3:
        raise BadActions(f"actions must be [H, D] or [B, H, D], got {tuple(chunks.shape)}")
    return chunks


def _state(reference: Any) -> torch.Tensor | None:
    if reference is None:
        return None
    state = _floats(reference, "the reference")
    return state[None] if state.ndim == 1 else state


def _floats(values: Any, what: str) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().float()
    try:
        numbers = np.asarray(values)
    except ValueError as error:
        raise BadActions(f"{what} must have equally long rows: {error}") from error
    if numbers.dtype.kind not in "fiu":
        raise BadActions(f"{what} must be real numbers, got {numbers.dtype}")
    return torch.from_numpy(numbers.astype(np.float32))


def _rows(ids: Any) -> list[list[int]]:
    """Lists of plain ints from a tensor, an array, or lists of them."""
    rows = _plain(ids)
    if not isinstance(rows, list) or not rows:
        raise BadTokens(f"ids must be one list of ids for each chunk, got {rows!r}")
    return [_row(number, _plain(row)) for number, row in enumerate(rows)]


def _row(number: int, row: Any) -> list[int]:
    if not isinstance(row, list):
        raise BadTokens(f"ids of chunk {number} must be a list of integers, got {row!r}")
    for token in row:
        if not isinstance(token, Integral) or isinstance(token, bool):
            raise BadTokens(f"ids of chunk {number} hold {token!r}; wanted integers")
    return [int(token) for token in row]


def _plain(values: Any) -> Any:
    if isinstance(values, (torch.Tensor, np.ndarray)):
        return values.tolist()
    return list(values) if isinstance(values, tuple) else values


def _array(rows: list[list[int]]) -> np.ndarray:
    try:
        return np.array(rows, np.int64)
    except OverflowError as error:
        raise BadTokens("an id is beyond 64 bits; no tokenizer has as many") from error
