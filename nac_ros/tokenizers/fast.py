"""FAST: rounded DCT coefficients, low frequencies first, merged by BPE (arXiv 2501.09747).

Written from the paper. Unlike in the public processor, each coefficient is one character of a
private alphabet, so that no BPE token splits one, and a coefficient without a character raises
BadActions instead of being dropped.
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
from nac_ros.tokenizers.grammar import PAD, BpeGrammar, Grammar

FIRST_CHARACTER = 0xF0000  # Unicode's supplementary private use area A
MAX_CHARACTERS = 65_534  # in that area


@dataclass(frozen=True, kw_only=True)
class FastConfig(TokenizerConfig):
    """scale: factor on the coefficients before rounding; vocab_size: of the BPE."""

    scale: float = 10.0
    vocab_size: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale <= 0 or self.alphabet_size > min(self.vocab_size, MAX_CHARACTERS):
            raise ConfigError(
                f"fast: scale {self.scale} makes {self.alphabet_size} coefficient values for "
                f"vocab_size {self.vocab_size}; lower it, or raise vocab_size"
            )

    @property
    def max_coefficient(self) -> int:
        """Largest coefficient with a character; |c| <= sqrt(H) for actions within [-1, 1]."""
        return ceil(1.5 * self.scale * sqrt(self.horizon))

    @property
    def alphabet_size(self) -> int:
        return 2 * self.max_coefficient + 1


@TOKENIZERS.register("fast")
class FastTokenizer(Tokenizer):
    """Sequences of varying length, in a batch padded with -1."""

    name = "fast"
    Config = FastConfig

    def __init__(self, config: FastConfig, preset: str = "small"):
        super().__init__(config, preset)
        self._bpe: Any = None
        size = config.horizon * config.action_dim
        self.grammar: Grammar = BpeGrammar(np.ones(config.vocab_size, np.int64), size)

    @property
    def codes_per_position(self) -> int:
        return self.config.vocab_size  # a BPE trained on little data may have fewer tokens

    def coefficients(self, normalized: Tensor) -> np.ndarray:
        """Rounded DCT along time of chunks `[B, H, D]`: int64 `[B, frequencies, D]`."""
        spectrum = dct(normalized.double().cpu().numpy(), axis=1, norm="ortho")
        return np.round(spectrum * self.config.scale).astype(np.int64)

    def fit_codes(self, normalized: Tensor, seed: int) -> None:
        from tokenizers import Tokenizer as Bpe
        from tokenizers.models import BPE
        from tokenizers.trainers import BpeTrainer

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # for reproducible merges
        alphabet = [chr(FIRST_CHARACTER + k) for k in range(self.config.alphabet_size)]
        self._bpe = Bpe(BPE())
        trainer = BpeTrainer(
            vocab_size=self.config.vocab_size, initial_alphabet=alphabet, show_progress=False
        )
        fits = self._has_codes(self.coefficients(normalized))
        if not fits.any():
            raise BadActions("no training chunk has a code for each coefficient; raise `scale`")
        chunks = normalized.cpu()[torch.from_numpy(fits)]
        self._bpe.train_from_iterator(self._texts(chunks), trainer)
        self._read_vocabulary()

    def _encode(self, normalized: Tensor) -> Tensor:
        rows = [text.ids for text in self._bpe.encode_batch(self._texts(normalized))]
        longest = max(len(row) for row in rows)
        padded = [row + [PAD] * (longest - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.int64, device=normalized.device)

    def _decode(self, tokens: Tensor) -> Tensor:
        config = self.config
        rows = ["".join(self._pieces[i] for i in row if i != PAD) for row in tokens.tolist()]
        codes = np.array([[ord(c) for c in row] for row in rows])
        codes = codes - FIRST_CHARACTER - config.max_coefficient
        spectrum = codes.reshape(-1, config.horizon, config.action_dim) / config.scale
        return torch.from_numpy(idct(spectrum, axis=1, norm="ortho")).float().to(tokens.device)

    @property
    def pieces(self) -> tuple[tuple[int, ...], ...]:
        """Rounded coefficients of each token."""
        zero = FIRST_CHARACTER + self.config.max_coefficient
        return tuple(tuple(ord(character) - zero for character in text) for text in self._pieces)

    def _has_codes(self, coefficients: np.ndarray) -> np.ndarray:
        """Bool `[B]`: chunks whose coefficients all have a character. With the range `quantiles`
        a training chunk may have none; it is rejected by `encode`, like any other."""
        return (np.abs(coefficients) <= self.config.max_coefficient).all((1, 2))

    def _texts(self, normalized: Tensor) -> list[str]:
        """Chunks `[B, H, D]` as text, a character for each coefficient."""
        codes, largest = self.coefficients(normalized), self.config.max_coefficient
        outside = np.argwhere(np.abs(codes) > largest)
        if len(outside):
            row, frequency, column = outside[0]
            raise BadActions(
                f"row {row}: coefficient {codes[row, frequency, column]} of column {column} at "
                f"frequency {frequency} has no code; the largest is {largest}. Fit on data that "
                "holds such actions"
            )
        characters = codes.reshape(len(codes), -1) + largest + FIRST_CHARACTER
        return ["".join(map(chr, row)) for row in characters]

    def _read_vocabulary(self) -> None:
        """Sets the text of each token and the grammar from the BPE."""
        vocabulary = self._bpe.get_vocab()
        self._pieces = sorted(vocabulary, key=vocabulary.__getitem__)
        if not self._pieces:
            raise BadTokens("the BPE has no tokens; fit it again")
        lengths = np.array([len(piece) for piece in self._pieces])
        self.grammar = BpeGrammar(lengths, self.config.horizon * self.config.action_dim)

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
        self._read_vocabulary()
        if len(self._pieces) > self.config.vocab_size:
            raise BundleError(
                f"the BPE has {len(self._pieces)} tokens, its config {self.config.vocab_size}; "
                "fit it again"
            )
        alphabet = range(FIRST_CHARACTER, FIRST_CHARACTER + self.config.alphabet_size)
        for piece in self._pieces:
            if not piece or not all(ord(c) in alphabet for c in piece):
                raise BundleError(
                    f"the BPE has the token {piece[:8]!r}, which is no sequence of coefficients; "
                    "fit it again"
                )
