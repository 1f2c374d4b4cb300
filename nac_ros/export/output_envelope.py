"""Looks among all that a codec can say for the wildest motion: by sampling, then greedily."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nac_ros.core import config as configs
from nac_ros.core.errors import BadActions, ConfigError
from nac_ros.core.files import put, sha256
from nac_ros.export.manifest import MANIFEST, add_file, read_manifest
from nac_ros.robot.spec import RobotSpec
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.factory import load_tokenizer, tokenizer_folder
from nac_ros.tokenizers.grammar import PAD, Grammar, random_sequences
from nac_ros.tokenizers.serialization import WEIGHTS_FILE

QUANTITIES = ("lowest", "highest", "velocity", "acceleration", "first_step")
BATCH = 512  # sequences decoded at once; more are not faster
CANDIDATES = 64  # other tokens tried at one place, at most
SWEEPS = 2  # over all places that a budget is spread over
GAIN = 1e-6  # relative; less is the arithmetic of float32

Progress = Callable[[int], None]  # takes the number of sequences decoded so far


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

    def sample(self, n: int, generator: np.random.Generator, report: Progress) -> None:
        """Random legal sequences at `random_references`."""
        for first in range(0, n, BATCH):
            size = min(BATCH, n - first)
            references = random_references(self._robot, size, generator)
            self._take(random_sequences(self._tokenizer.grammar, size, generator), references)
            report(self.decoded)

    def search(self, budget: int, generator: np.random.Generator, report: Progress) -> None:
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


ENVELOPE = "envelope.json"
MEANING = "a lower bound of the worst case: the guard stays the only bound"
SAMPLES = 4096
SEARCHED = 6  # sequences that the search may decode, for each one sampled

Report = Callable[[int, int], None]  # sequences decoded so far, and at most


@dataclass(frozen=True)
class Worst:
    """The largest value seen of one quantity of a joint, and the tokens that decode to it.

    value, limit: in the joint's unit, per s or s^2; ratio: value / limit
    found: by "sampling" or "search"; sampled: the largest value of sampling alone
    """

    value: float
    limit: float
    ratio: float
    found: str
    sampled: float
    tokens: tuple[int, ...]
    reference: tuple[float, ...]


@dataclass(frozen=True)
class JointEnvelope:
    """The worst of one joint.

    relative: whether positions are offsets from the reference, which may be anywhere
    lowest, highest: positions or offsets; beyond_from_home: how far they lie outside the robot's
        limits, relative ones counted from home
    position: relative, the largest offset beside the whole range of the limits, more than which
        leaves them from anywhere; absolute, from the middle of the limits beside half their range
    velocity, acceleration: finite differences within a chunk at its rate
    first_step: velocity from the reference, a plausible one for absolute joints, to a first action
    """

    name: str
    unit: str
    relative: bool
    lowest: float
    highest: float
    beyond_from_home: float
    position: Worst
    velocity: Worst
    acceleration: Worst
    first_step: Worst


@dataclass(frozen=True)
class Envelope:
    """Every joint's worst; decoded: sequences of which `samples` were random; meaning: read it."""

    meaning: str
    tokenizer: str
    preset: str
    robot: str
    rate_hz: float
    horizon: int
    seed: int
    samples: int
    decoded: int
    joints: tuple[JointEnvelope, ...]


def write_envelope(
    folder: Path | str,
    robot: RobotSpec,
    samples: int = SAMPLES,
    seed: int = 0,
    report: Report = lambda done, most: None,
) -> dict[str, Any]:
    """Measures the codec of a tokenizer folder or bundle and puts `envelope.json` at its root.

    The figures, with the hash of the weights that they are of; a bundle's manifest covers them.
    """
    folder = Path(folder)
    is_bundle = (folder / MANIFEST).is_file()
    if is_bundle:
        read_manifest(folder)  # what was altered is refused before the long part
    tokenizer = load_tokenizer(folder)
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} is read-only; envelope.json belongs there: copy it first")
    figures = configs.to_plain(measure(tokenizer, robot, samples, seed, report))
    figures["weights_sha256"] = sha256(tokenizer_folder(folder) / WEIGHTS_FILE)
    text = json.dumps(figures, indent=1) + "\n"
    if is_bundle:
        add_file(folder, ENVELOPE, text)
    else:
        put(folder / ENVELOPE, text)
    return figures


def measure(
    tokenizer: Tokenizer,
    robot: RobotSpec,
    samples: int = SAMPLES,
    seed: int = 0,
    report: Report = lambda done, most: None,
) -> Envelope:
    """Samples, then searches; raises ConfigError when codec and robot do not fit."""
    _check_fit(tokenizer, robot, samples)
    generator, most = np.random.default_rng(seed), samples * (1 + SEARCHED)
    extremes = Extremes(tokenizer, robot)
    extremes.sample(samples, generator, lambda done: report(done, most))
    sampled = extremes.values.copy()
    extremes.search(samples * SEARCHED, generator, lambda done: report(done, most))
    report(most, most)
    return Envelope(
        meaning=MEANING,
        tokenizer=tokenizer.name,
        preset=tokenizer.preset,
        robot=robot.name,
        rate_hz=tokenizer.config.rate_hz,
        horizon=tokenizer.config.horizon,
        seed=seed,
        samples=samples,
        decoded=extremes.decoded,
        joints=tuple(_joint(extremes, sampled, robot, j) for j in range(robot.action_dim)),
    )


def _joint(extremes: Extremes, sampled: np.ndarray, robot: RobotSpec, j: int) -> JointEnvelope:
    joint, relative = robot.joints[j], bool(extremes.relative[j])
    (low, high), below, above = joint.position, *extremes.values[j :: robot.action_dim][:2]
    start, home = (0.0, joint.home) if relative else ((low + high) / 2, 0.0)
    lowest, highest = float(start - below), float(start + above)

    def worst(limit: float, *names: str) -> Worst:
        places = [QUANTITIES.index(name) * robot.action_dim + j for name in names]
        return _worst(extremes, sampled, places, limit)

    return JointEnvelope(
        name=joint.name,
        unit=joint.unit,
        relative=relative,
        lowest=lowest,
        highest=highest,
        beyond_from_home=max(0.0, low - home - lowest, home + highest - high),
        position=worst((high - low) / (1 if relative else 2), "lowest", "highest"),
        velocity=worst(joint.velocity, "velocity"),
        acceleration=worst(joint.acceleration, "acceleration"),
        first_step=worst(joint.velocity, "first_step"),
    )


def _worst(extremes: Extremes, sampled: np.ndarray, places: list[int], limit: float) -> Worst:
    k = max(places, key=lambda place: extremes.values[place])
    value, before = float(extremes.values[k]), float(sampled[places].max())
    return Worst(
        value=value,
        limit=limit,
        ratio=value / limit,
        found="search" if value > before + GAIN * abs(before) else "sampling",
        sampled=before,
        tokens=tuple(int(token) for token in extremes.tokens[k] if token != PAD),
        reference=tuple(float(position) for position in extremes.references[k]),
    )


def _check_fit(tokenizer: Tokenizer, robot: RobotSpec, samples: int) -> None:
    config, dim = tokenizer.config, robot.action_dim
    if config.action_dim != dim:
        raise ConfigError(
            f"the tokenizer's actions have {config.action_dim} dimensions; robot {robot.name} has "
            f"{dim} joints: {', '.join(robot.joint_names)}"
        )
    for what, ours, theirs in (
        ("names", config.names, robot.joint_names),
        ("units", config.units, robot.units),
    ):
        if ours and ours != theirs:
            raise ConfigError(
                f"the tokenizer's {what} are {', '.join(ours)}; robot {robot.name} has "
                f"{', '.join(theirs)}"
            )
    if config.rate_hz <= 0:
        raise ConfigError(
            "the tokenizer does not know its control rate, and velocities need it: train it with "
            "`--model rate_hz=30`, or make it with make_tokenizer(..., rate_hz=30)"
        )
    if config.horizon < 3 or samples < 1:
        raise ConfigError(
            f"an acceleration needs 3 steps and a sequence; the horizon is {config.horizon}, "
            f"samples {samples}"
        )
