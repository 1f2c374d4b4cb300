"""Grammars: which tokens may follow a prefix, in numpy alone for the torch and ONNX loops."""

from abc import ABC, abstractmethod

import numpy as np

from nac_ros.core.errors import BadTokens, ConfigError

MAX_TABLE = 1 << 26  # bytes of the table of a FixedGrammar: tokens times positions
PAD = -1  # after the end of sequences shorter than the longest of a batch


class Grammar(ABC):
    """Formal language of a tokenizer's sequences over `vocab_size` tokens.

    token_time_spans: int64 `[L, 2]`, first step of the chunk that each token describes and the
        step after its last; None where every token describes the whole chunk
    """

    vocab_size: int
    max_tokens: int
    token_time_spans: np.ndarray | None = None

    @abstractmethod
    def legal(self, prefix: np.ndarray) -> np.ndarray:
        """Prefix int64 `[B, k]` -> bool `[B, V]`: tokens that may come next."""

    @abstractmethod
    def done(self, prefix: np.ndarray) -> np.ndarray:
        """Prefix int64 `[B, k]` -> bool `[B]`: sequences that are complete."""

    @property
    def codebooks(self) -> np.ndarray:
        """Bool `[N, V]`: the sets of tokens that are alternatives at some position."""
        return np.ones((1, self.vocab_size), bool)

    def check(self, tokens: np.ndarray) -> None:
        """Raises BadTokens unless every row of int64 `[B, L]` is one complete sequence."""
        tokens = np.asarray(tokens)
        self.check_prefix(tokens)
        if not self.done(tokens).all():
            raise BadTokens(f"the sequence ends after {tokens.shape[1]} tokens, incomplete")

    def check_prefix(self, tokens: np.ndarray) -> None:
        """Raises BadTokens unless every row of int64 `[B, k]` is a prefix of a sequence."""
        if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
            raise BadTokens(
                f"tokens must be integers of shape [B, L], got {tokens.dtype} of {tokens.shape}"
            )
        if tokens.shape[1] > self.max_tokens:
            raise BadTokens(
                f"{tokens.shape[1]} tokens in a sequence; this tokenizer has at most "
                f"{self.max_tokens}"
            )
        self._check_rows(tokens)

    def _check_rows(self, tokens: np.ndarray) -> None:
        for position in range(tokens.shape[1]):
            legal = self.legal(tokens[:, :position])
            padding = (tokens[:, position] == PAD) & self.done(tokens[:, :position])
            inside = (tokens[:, position] >= 0) & (tokens[:, position] < self.vocab_size)
            fits = inside & legal[np.arange(len(tokens)), np.where(inside, tokens[:, position], 0)]
            if not (fits | padding).all():
                row = int(np.argmin(fits | padding))
                raise BadTokens(self._illegal(int(tokens[row, position]), position, legal[row]))

    @staticmethod
    def _illegal(token: int, position: int, legal: np.ndarray) -> str:
        allowed = np.flatnonzero(legal)
        if not len(allowed):
            return f"token {token} at position {position}, where the sequence has ended"
        span = f"{allowed[0]} .. {allowed[-1]}"
        return f"token {token} at position {position} is illegal; legal are {span}"


class FixedGrammar(Grammar):
    """Sequences of one length whose position k takes a token in `[starts[k], stops[k])`."""

    def __init__(self, starts: list[int], stops: list[int]):
        self.vocab_size = max(stops)
        self.max_tokens = len(starts)
        self.starts, self.stops = tuple(starts), tuple(stops)
        if self.vocab_size * self.max_tokens > MAX_TABLE:
            raise ConfigError(
                f"{self.max_tokens} positions of {self.vocab_size} tokens make more than "
                f"{MAX_TABLE} pairs; choose fewer tokens"
            )
        tokens = np.arange(self.vocab_size)
        self.table = (tokens >= np.array(starts)[:, None]) & (tokens < np.array(stops)[:, None])

    @property
    def codebooks(self) -> np.ndarray:
        _, first = np.unique(self.table, axis=0, return_index=True)
        return self.table[np.sort(first)]

    def legal(self, prefix: np.ndarray) -> np.ndarray:
        batch, position = prefix.shape
        if position >= self.max_tokens:
            return np.zeros((batch, self.vocab_size), bool)
        return np.broadcast_to(self.table[position], (batch, self.vocab_size))

    def done(self, prefix: np.ndarray) -> np.ndarray:
        return np.full(len(prefix), prefix.shape[1] >= self.max_tokens)

    def _check_rows(self, tokens: np.ndarray) -> None:
        """All positions at once: they do not depend on each other."""
        positions = np.arange(tokens.shape[1])
        known = (tokens >= 0) & (tokens < self.vocab_size)
        fits = known & self.table[positions, np.where(known, tokens, 0)]
        if not fits.all():
            position = int(np.argmin(fits.all(0)))
            token = int(tokens[np.argmin(fits[:, position]), position])
            raise BadTokens(self._illegal(token, position, self.table[position]))


class BpeGrammar(Grammar):
    """Sequences of tokens whose lengths, int64 `[V]` and at least 1, add up to `total`."""

    def __init__(self, lengths: np.ndarray, total: int):
        self.lengths, self.total = lengths, total
        self.vocab_size, self.max_tokens = len(lengths), total

    def legal(self, prefix: np.ndarray) -> np.ndarray:
        return self.lengths <= self._left(prefix)[:, None]

    def done(self, prefix: np.ndarray) -> np.ndarray:
        return self._left(prefix) == 0

    def _left(self, prefix: np.ndarray) -> np.ndarray:
        known = (prefix >= 0) & (prefix < self.vocab_size)
        lengths = np.where(known, self.lengths[np.where(known, prefix, 0)], 0)
        return self.total - lengths.sum(1)


def random_sequences(grammar: Grammar, n: int, generator: np.random.Generator) -> np.ndarray:
    """Complete sequences int64 `[n, L]`, each token drawn uniformly from the legal ones."""
    tokens = np.zeros((n, 0), np.int64)
    while not grammar.done(tokens).all():
        legal = grammar.legal(tokens)
        ranks = np.floor(generator.random(n) * legal.sum(1))  # among the legal tokens
        drawn = (legal.cumsum(1, dtype=np.int32) > ranks[:, None]).argmax(1)
        drawn = np.where(grammar.done(tokens), PAD, drawn)
        tokens = np.concatenate([tokens, drawn[:, None]], 1)
    return tokens
