"""A tokenizer with the interface of the public FAST processor: lists of ids for any policy.

processor = ActionProcessor.fit(actions)       # [N, H, D]
ids = processor(actions)                       # N lists of ints of varying length
actions = processor.decode(ids)                # float32 [N, H, D]
"""

from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nac_ros.core.errors import BadActions, BadTokens, ConfigError
from nac_ros.tokenizers.base import TOKENIZERS, Tokenizer, to_floats
from nac_ros.tokenizers.factory import load_tokenizer, make_tokenizer
from nac_ros.tokenizers.grammar import PAD


class ActionProcessor:
    """Takes tensors, arrays or nested lists of one chunk `[H, D]` or a batch, in rad and m."""

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
        """Makes a tokenizer that needs no training and fits it to chunks `[N, H, D]`.

        reference: joint states `[N, D]`, used if `config` has `relative` columns
        """
        if TOKENIZERS.get(name).learned:
            raise ConfigError(
                f"tokenizer {name} is learned: train it with `nac tokenizer train --tokenizer "
                f"{name}`, then open its folder with ActionProcessor.from_pretrained"
            )
        chunks, state = _to_chunks(actions), _to_state(reference)
        tokenizer = make_tokenizer(name, preset, chunks.shape[1], chunks.shape[2], **config)
        return cls(tokenizer.fit(chunks, state, seed))

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "ActionProcessor":
        """The tokenizer in a local folder or bundle; nothing is downloaded."""
        return cls(load_tokenizer(folder))

    def save_pretrained(self, folder: Path | str) -> None:
        """Writes a folder for `load_tokenizer` and `nac tokenizer`."""
        self.tokenizer.save_pretrained(folder)

    def __call__(self, actions: Any, reference: Any = None) -> list[list[int]]:
        """Ids of each chunk without padding; relative columns need `reference [B, D]`."""
        tokens = self.tokenizer.encode(_to_chunks(actions), _to_state(reference))
        return [[token for token in row if token != PAD] for row in tokens.tolist()]

    def decode(self, ids: Any, reference: Any = None) -> np.ndarray:
        """Ids of each chunk -> float32 `[B, H, D]`; raises BadTokens for incomplete ones."""
        rows = _to_rows(ids)
        lengths = {len(row) for row in rows}
        if len(lengths) > 1:  # check before padding, which would hide a sequence cut short
            for length in sorted(lengths):
                alike = [row for row in rows if len(row) == length]
                self.tokenizer.grammar.check(_to_array(alike))
        padded = [row + [PAD] * (max(lengths) - len(row)) for row in rows]
        return self.tokenizer.decode(_to_array(padded), _to_state(reference)).cpu().numpy()

    @property
    def vocab_size(self) -> int:
        """Number of distinct ids, 0 .. vocab_size - 1."""
        return self.tokenizer.vocab_size

    @property
    def horizon(self) -> int:
        """H, steps of a chunk."""
        return self.tokenizer.config.horizon

    @property
    def time_horizon(self) -> int:
        """The horizon by its name in the public processor."""
        return self.horizon

    @property
    def action_dim(self) -> int:
        """D."""
        return self.tokenizer.config.action_dim


def _to_chunks(actions: Any) -> torch.Tensor:
    chunks = to_floats(actions, "actions").detach().cpu()
    chunks = chunks[None] if chunks.ndim == 2 else chunks
    if chunks.ndim != 3:
        raise BadActions(f"actions must be [H, D] or [B, H, D], got {tuple(chunks.shape)}")
    return chunks


def _to_state(reference: Any) -> torch.Tensor | None:
    if reference is None:
        return None
    state = to_floats(reference, "the reference").detach().cpu()
    return state[None] if state.ndim == 1 else state


def _to_rows(ids: Any) -> list[list[int]]:
    """Lists of plain ints from a tensor, an array, or lists of either."""
    rows = _to_list(ids)
    if not isinstance(rows, list) or not rows:
        raise BadTokens(f"ids must be one list of ids for each chunk, got {rows!r}")
    return [_to_row(number, _to_list(row)) for number, row in enumerate(rows)]


def _to_row(number: int, row: Any) -> list[int]:
    if not isinstance(row, list):
        raise BadTokens(f"ids of chunk {number} must be a list of integers, got {row!r}")
    for token in row:
        if not isinstance(token, Integral) or isinstance(token, bool):
            raise BadTokens(f"ids of chunk {number} must be integers, got {token!r}")
    return [int(token) for token in row]


def _to_list(values: Any) -> Any:
    if isinstance(values, (torch.Tensor, np.ndarray)):
        return values.tolist()
    return list(values) if isinstance(values, tuple) else values


def _to_array(rows: list[list[int]]) -> np.ndarray:
    try:
        return np.array(rows, np.int64)
    except OverflowError as error:
        raise BadTokens("an id exceeds 64 bits; no vocabulary is that large") from error
