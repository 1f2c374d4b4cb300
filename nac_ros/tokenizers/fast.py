"""FAST: DCT along time, rounded, low frequencies first, joined into pieces by BPE (2501.09747).

Written from the paper. Unlike in the public processor, coefficients are characters of a private
alphabet, so that no piece splits one, and what has no character raises instead of vanishing.
"""

import os
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import numpy as np
import torch
from scipy.fft import dct, idct
from torch import Tensor

from nac_ros.core.errors import BadActions, BadTokens, BundleError, ConfigError, show_text
from nac_ros.tokenizers.base import TOKENIZERS, Tokenizer, TokenizerConfig
from nac_ros.tokenizers.grammar import PAD, Grammar

FIRST = 0xF0000  # of Unicode's supplementary private use area, room for 65,534 values


@dataclass(frozen=True, kw_only=True)
class FastConfig(TokenizerConfig):
    """scale: of the coefficients before they are rounded; n_pieces: vocabulary of the BPE."""

    scale: float = 10.0
    n_pieces: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale <= 0 or 2 * self.widest + 1 > min(self.n_pieces, 65_534):
            raise ConfigError(
                f"fast: scale {self.scale} makes {2 * self.widest + 1} coefficient values for "
                f"n_pieces {self.n_pieces}; lower it, or raise n_pieces"
            )

    @property
    def widest(self) -> int:
        """Largest coefficient that has a character; |c| <= sqrt(H) for actions within [-1, 1]."""
        return ceil(1.5 * self.scale * sqrt(self.horizon))


class PieceGrammar(Grammar):
    """Pieces of 1 or more coefficients, that together are exactly `total` of them."""

    def __init__(self, lengths: np.ndarray, total: int):
        self._lengths, self._total = lengths, total
        self.vocab_size, self.max_tokens = len(lengths), total

    def legal(self, prefix: np.ndarray) -> np.ndarray:
        return self._lengths <= self._left(prefix)[:, None]

    def done(self, prefix: np.ndarray) -> np.ndarray:
        return self._left(prefix) == 0

    def _left(self, prefix: np.ndarray) -> np.ndarray:
        known = (prefix >= 0) & (prefix < self.vocab_size)
        said = np.where(known, self._lengths[np.where(known, prefix, 0)], 0)
        return self._total - said.sum(1)


@TOKENIZERS.register("fast")
class FastTokenizer(Tokenizer):
    """Sequences of varying length, padded with -1 in a batch."""

    name = "fast"
    Config = FastConfig

    def __init__(self, config: FastConfig, preset: str = "small"):
        super().__init__(config, preset)
        self._bpe: Any = None
        size = config.horizon * config.action_dim
        self.grammar: Grammar = PieceGrammar(np.ones(config.n_pieces, np.int64), size)

    @property
    def codes_per_position(self) -> int:
        return self.config.n_pieces

    def coefficients(self, normalised: Tensor) -> np.ndarray:
        """Chunks `[B, H, D]` -> int64 `[B, H, D]`, frequency by frequency."""
        spectrum = dct(normalised.double().numpy(), axis=1, norm="ortho")
        return np.round(spectrum * self.config.scale).astype(np.int64)

    def fit_codes(self, normalised: Tensor, seed: int) -> None:
        from tokenizers import Tokenizer as Bpe
        from tokenizers.models import BPE
        from tokenizers.trainers import BpeTrainer

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the same pieces every time
        widest = self.config.widest
        alphabet = [chr(FIRST + k) for k in range(2 * widest + 1)]
        self._bpe = Bpe(BPE())
        trainer = BpeTrainer(
            vocab_size=self.config.n_pieces, initial_alphabet=alphabet, show_progress=False
        )
        self._bpe.train_from_iterator(self._texts(normalised), trainer)
        self._know_pieces()

    def _encode(self, normalised: Tensor) -> Tensor:
        rows = [text.ids for text in self._bpe.encode_batch(self._texts(normalised))]
        longest = max(len(row) for row in rows)
        padded = [row + [PAD] * (longest - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.int64)

    def _decode(self, tokens: Tensor) -> Tensor:
        config = self.config
        rows = ["".join(self._pieces[i] for i in row if i != PAD) for row in tokens.tolist()]
        codes = np.array([[ord(c) for c in row] for row in rows]) - FIRST - config.widest
        spectrum = codes.reshape(-1, config.horizon, config.action_dim) / config.scale
        return torch.from_numpy(idct(spectrum, axis=1, norm="ortho")).float()

    def _texts(self, normalised: Tensor) -> list[str]:
        codes, widest = self.coefficients(normalised), self.config.widest
        beyond = np.argwhere(np.abs(codes) > widest)
        if len(beyond):
            row, frequency, column = beyond[0]
            raise BadActions(
                f"row {row}: coefficient {codes[row, frequency, column]} of column {column} at "
                f"frequency {frequency} has no code; the largest is {widest}. Fit on data that "
                "holds such actions"
            )
        return ["".join(map(chr, row)) for row in codes.reshape(len(codes), -1) + widest + FIRST]

    def _know_pieces(self) -> None:
        vocabulary = self._bpe.get_vocab()
        self._pieces = [piece for piece, _ in sorted(vocabulary.items(), key=lambda kv: kv[1])]
        if not self._pieces:
            raise BadTokens("the BPE has no pieces; fit it again")
        lengths = np.array([len(piece) for piece in self._pieces])
        self.grammar = PieceGrammar(lengths, self.config.horizon * self.config.action_dim)

    def _extra_state(self) -> dict[str, Any]:
        return {"bpe": self._bpe.to_str()}

    def _restore_extra_state(self, state: dict[str, Any]) -> None:
        from tokenizers import Tokenizer as Bpe

        try:
            self._bpe = Bpe.from_str(state["bpe"])
        except Exception as error:  # the library raises Exception itself
            raise BundleError(
                f"the BPE cannot be read: {show_text(error)}; fit it again"
            ) from error
        self._know_pieces()
        self._check_pieces()

    def _check_pieces(self) -> None:
        """Raises BundleError unless each piece is one or more coefficients of the alphabet."""
        last = FIRST + 2 * self.config.widest
        if len(self._pieces) > self.config.n_pieces:
            raise BundleError(
                f"the BPE has {len(self._pieces)} pieces, its config {self.config.n_pieces}; "
                "fit it again"
            )
        for piece in self._pieces:
            if not piece or not all(FIRST <= ord(c) <= last for c in piece):
                raise BundleError(
                    f"the BPE has the piece {piece[:8]!r}, which is no sequence of coefficients; "
                    "fit it again"
                )
