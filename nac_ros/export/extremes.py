"""Looks among all that a codec can say for the wildest motion: by sampling, then greedily."""

from collections.abc import Callable

import numpy as np

from nac_ros.errors import BadActions
from nac_ros.robot import RobotSpec
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.grammar import PAD, Grammar, random_sequences

QUANTITIES = ("lowest", "highest", "velocity", "acceleration", "first_step")
BATCH = 512  # sequences decoded at once; more are not faster
CANDIDATES = 64  # other tokens tried at one place, at most
SWEEPS = 2  # over all places that a budget is spread over
GAIN = 1e-6  # relative; less is the arithmetic of float32

Report = Callable[[int], None]  # takes the number of sequences decoded so far


class Extremes:
    """The worst sequence seen of each quantity and joint, K = 5 D of them, quantity by quantity.

    values float64 `[K]`, tokens int64 `[K, max_tokens]` padded, references float32 `[K, D]`
    """

    def __init__(self, tokenizer: Tokenizer, robot: RobotSpec):
        self._tokenizer, self._robot = tokenizer, robot
        self.relative = tokenizer.relative.cpu().numpy()
        self._middle = (robot.position_low + robot.position_high) / 2
        count, dim = len(QUANTITIES) * robot.action_dim, robot.action_dim
        self.values = np.full(count, -np.inf)
        self.tokens = np.full((count, tokenizer.grammar.max_tokens), PAD)
        self.references = np.zeros((count, dim), np.float32)
        self.decoded = 0

    def sample(self, n: int, generator: np.random.Generator, report: Report) -> None:
        """Random legal sequences at `random_references`."""
        for first in range(0, n, BATCH):
            size = min(BATCH, n - first)
            references = random_references(self._robot, size, generator)
            self._take(random_sequences(self._tokenizer.grammar, size, generator), references)
            report(self.decoded)

    def search(self, budget: int, generator: np.random.Generator, report: Report) -> None:
        """Other tokens at one place after another, until a sweep gains nothing or `budget` ends.

        What is tried for one quantity counts for all.
        """
        start, length = self.decoded, self._longest()  # never grows: lengths are kept
        each = min(CANDIDATES, max(2, budget // (SWEEPS * length * len(self.values))))
        gained = True
        while gained:
            before = self.values.copy()
            for place in generator.permutation(length):
                tokens, rows = self._variants(place, length, each, generator)
                if self.decoded - start + len(tokens) > budget:
                    return
                self._take(tokens, self.references[rows])
                report(self.decoded)
            gained = bool((self.values > before + GAIN * np.abs(before)).any())

    def _longest(self) -> int:
        return int((self.tokens != PAD).sum(1).max())

    def _variants(
        self, place: int, length: int, each: int, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sequences `[N, L]` that differ from the worst at `place`, and from which of them."""
        sequences, rows = [], []
        for k, row in enumerate(self.tokens[:, :length]):
            drawn = _draw(alternatives(self._tokenizer.grammar, row, place), each, generator)
            changed = np.repeat(row[None], len(drawn), 0)
            changed[:, place] = drawn
            sequences.append(changed)
            rows += [k] * len(drawn)
        return np.concatenate(sequences), np.array(rows, np.int64)

    def _take(self, tokens: np.ndarray, references: np.ndarray) -> None:
        for first in range(0, len(tokens), BATCH):
            some = slice(first, first + BATCH)
            self._keep(tokens[some], references[some])

    def _keep(self, tokens: np.ndarray, references: np.ndarray) -> None:
        tokens = tokens[:, (tokens != PAD).any(0)]
        chunks = self._tokenizer.decode(tokens, references).cpu().numpy()
        self.decoded += len(tokens)
        if not np.isfinite(chunks).all():
            row = int(np.argmin(np.isfinite(chunks).all((1, 2))))
            raise BadActions(f"tokens {tokens[row].tolist()} are legal and decode to NaN or inf")
        starts = np.where(self.relative, references, self._middle)
        found = quantities(chunks, references, starts, self._tokenizer.config.rate_hz)
        found = found.reshape(len(tokens), -1)  # [N, K]
        best, most = found.argmax(0), found.max(0)
        worse = most > self.values
        self.values[worse] = most[worse]
        self.tokens[worse] = PAD
        self.tokens[worse, : tokens.shape[1]] = tokens[best[worse]]
        self.references[worse] = references[best[worse]]


def quantities(
    chunks: np.ndarray, references: np.ndarray, starts: np.ndarray, rate_hz: float
) -> np.ndarray:
    """Chunks `[N, H, D]`, references and starts `[N, D]` -> QUANTITIES `[N, 5, D]`.

    lowest, highest: distance below and above the start, where positions count from: the reference
        of relative joints, the middle of the limits of others
    velocity, acceleration: finite differences; first_step: velocity from reference to first action
    """
    chunks = chunks.astype(np.float64)
    velocity = np.diff(chunks, axis=1) * rate_hz
    acceleration = np.diff(velocity, axis=1) * rate_hz
    first = (chunks[:, 0] - references) * rate_hz
    lowest, highest = (starts - chunks.min(1)), (chunks.max(1) - starts)
    fastest, hardest = np.abs(velocity).max(1), np.abs(acceleration).max(1)
    return np.stack([lowest, highest, fastest, hardest, np.abs(first)], 1)


def random_references(robot: RobotSpec, n: int, generator: np.random.Generator) -> np.ndarray:
    """Joint states float32 `[n, D]`: in turn home, a corner of the limits, anywhere inside."""
    low, high = robot.position_low, robot.position_high
    share = generator.random((n, robot.action_dim))
    kind = np.arange(n)[:, None] % 3
    inside = low + (high - low) * np.where(kind == 1, share.round(), share)
    return np.where(kind == 0, robot.home, inside).astype(np.float32)


def alternatives(grammar: Grammar, row: np.ndarray, place: int) -> np.ndarray:
    """Other tokens that may stand at `place` of a complete sequence `[L]`, int64 `[M]`.

    It stays complete with them: pieces of FAST are exchanged for others of their length.
    """
    if row[place] == PAD:
        return np.zeros(0, np.int64)
    tokens = np.flatnonzero(grammar.legal(row[None, :place])[0])
    tokens = tokens[tokens != row[place]]
    changed = np.repeat(row[None], len(tokens), 0)
    changed[:, place] = tokens
    return tokens[grammar.done(changed)]


def _draw(tokens: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """`n` of them, the ends always: where tokens are in order, as bins are, they are wildest."""
    if len(tokens) <= n:
        return tokens
    inside = generator.choice(tokens[1:-1], n - 2, replace=False)
    return np.concatenate([tokens[[0, -1]], inside])
