"""Output envelope: the most extreme motions that any token sequence of a codec decodes to.

Random sampling, then a greedy search over single tokens. Both give lower bounds of the worst case.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nac_ros.core import config as configs
from nac_ros.core.device import CPU, ComputeDevice
from nac_ros.core.errors import BadActions, ConfigError
from nac_ros.core.files import sha256, write_text
from nac_ros.export.bundle_files import check_columns
from nac_ros.export.manifest import MANIFEST, add_file, read_manifest
from nac_ros.robot.spec import RobotSpec
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.factory import load_tokenizer, tokenizer_folder
from nac_ros.tokenizers.grammar import PAD, Grammar, random_sequences
from nac_ros.tokenizers.serialization import WEIGHTS_FILE

ENVELOPE = "envelope.json"
MEANING = "a lower bound of the worst case: only the guard bounds what is executed"
SAMPLES = 4096
SEARCH_FACTOR = 6  # sequences that the search may decode for each random one
QUANTITIES = ("lowest", "highest", "velocity", "acceleration", "first_step")
BATCH = 512  # sequences decoded at once; more are not faster
MAX_ALTERNATIVES = 64  # other tokens tried at one position
SWEEPS = 2  # over all positions, to which the search budget is distributed
MIN_GAIN = 1e-6  # relative; smaller differences are rounding errors of float32

Progress = Callable[[int, int], None]  # sequences decoded so far, and at most


@dataclass(frozen=True)
class WorstCase:
    """Largest value found of one quantity of a joint, and the tokens that decode to it.

    value, limit: in the joint's unit, per s or s^2; ratio: value / limit
    found: by "sampling" or "search"; sampled: the largest value of the sampling
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
    """Envelope of one joint.

    relative: whether positions are offsets from the reference
    lowest, highest: positions, or offsets of a relative joint
    beyond_from_home: how far they exceed the robot's limits, offsets counted from home
    position: relative joint: the largest offset, its limit is the whole range (a larger offset
        leaves the range from any reference); absolute joint: the largest distance from the middle
        of the range, its limit is half the range
    velocity, acceleration: finite differences within a chunk at its rate
    first_step: velocity from the reference to the first action
    """

    name: str
    unit: str
    relative: bool
    lowest: float
    highest: float
    beyond_from_home: float
    position: WorstCase
    velocity: WorstCase
    acceleration: WorstCase
    first_step: WorstCase


@dataclass(frozen=True)
class Envelope:
    """Envelope of all joints; samples: random sequences; decoded: all sequences."""

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
    progress: Progress = lambda done, total: None,
    device: ComputeDevice = CPU,
) -> dict[str, Any]:
    """Measures the codec of a tokenizer folder or bundle and writes `envelope.json` into it, with
    the hash of the measured weights; a bundle's manifest then covers the file."""
    folder = Path(folder)
    is_bundle = (folder / MANIFEST).is_file()
    if is_bundle:
        read_manifest(folder)  # rejects an altered bundle before the long computation
    tokenizer = load_tokenizer(folder).to(device.name)
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} is read-only; envelope.json belongs there: copy it first")
    results = configs.to_plain(measure_envelope(tokenizer, robot, samples, seed, progress))
    results["weights_sha256"] = sha256(tokenizer_folder(folder) / WEIGHTS_FILE)
    text = json.dumps(results, indent=1) + "\n"
    if is_bundle:
        add_file(folder, ENVELOPE, text)
    else:
        write_text(folder / ENVELOPE, text)
    return results


def measure_envelope(
    tokenizer: Tokenizer,
    robot: RobotSpec,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Envelope:
    """Samples, then searches; raises ConfigError if codec and robot do not fit."""
    _check_fit(tokenizer, robot, samples)
    total = samples * (1 + SEARCH_FACTOR)
    search = ExtremeSearch(tokenizer, robot, seed, lambda done: progress(done, total))
    search.sample(samples)
    sampled = search.values.copy()
    search.improve(samples * SEARCH_FACTOR)
    progress(total, total)
    return Envelope(
        meaning=MEANING,
        tokenizer=tokenizer.name,
        preset=tokenizer.preset,
        robot=robot.name,
        rate_hz=tokenizer.config.rate_hz,
        horizon=tokenizer.config.horizon,
        seed=seed,
        samples=samples,
        decoded=search.decoded,
        joints=tuple(_joint(search, sampled, robot, j) for j in range(robot.action_dim)),
    )


class ExtremeSearch:
    """Keeps the most extreme sequence of each quantity and joint, K = 5 D in total, ordered by
    quantity.

    values float64 `[K]`, tokens int64 `[K, max_tokens]` padded, references float32 `[K, D]`
    decoded: number of sequences decoded so far, reported to `progress`
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        robot: RobotSpec,
        seed: int = 0,
        progress: Callable[[int], None] = lambda done: None,
    ):
        self._tokenizer, self._robot, self._progress = tokenizer, robot, progress
        self._generator = np.random.default_rng(seed)
        self.relative = tokenizer.relative.cpu().numpy()
        self._middle = (robot.position_low + robot.position_high) / 2
        k = len(QUANTITIES) * robot.action_dim
        self.values = np.full(k, -np.inf)
        self.tokens = np.full((k, tokenizer.grammar.max_tokens), PAD)
        self.references = np.zeros((k, robot.action_dim), np.float32)
        self.decoded = 0

    def sample(self, n: int) -> None:
        """Decodes `n` random legal sequences at `random_references`."""
        for first in range(0, n, BATCH):
            size = min(BATCH, n - first)
            references = random_references(self._robot, size, self._generator)
            tokens = random_sequences(self._tokenizer.grammar, size, self._generator)
            self._decode(tokens, references)
            self._progress(self.decoded)

    def improve(self, budget: int) -> None:
        """Greedy coordinate search: replaces one token of every extreme sequence at a time,
        position by position, until a sweep over all positions gains nothing or `budget` is spent.

        Every decoded sequence counts for all quantities and joints.
        """
        start = self.decoded
        length = int((self.tokens != PAD).sum(1).max())  # replacing tokens keeps the lengths
        n_alternatives = min(
            MAX_ALTERNATIVES, max(2, budget // (SWEEPS * length * len(self.values)))
        )
        gained = True
        while gained:
            before = self.values.copy()
            for position in self._generator.permutation(length):
                tokens, rows = self._variants(position, length, n_alternatives)
                if self.decoded - start + len(tokens) > budget:
                    return
                references = self.references[rows]
                for first in range(0, len(tokens), BATCH):
                    batch = slice(first, first + BATCH)
                    self._decode(tokens[batch], references[batch])
                self._progress(self.decoded)
            gained = bool((self.values > before + MIN_GAIN * np.abs(before)).any())

    def _variants(self, position: int, length: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Sequences `[N, L]` that differ from the extreme ones at `position`, and the row of each
        one's origin `[N]`."""
        sequences, rows = [], []
        for k, row in enumerate(self.tokens[:, :length]):
            tokens = alternative_tokens(self._tokenizer.grammar, row, position)
            tokens = _choose(tokens, n, self._generator)
            changed = np.repeat(row[None], len(tokens), 0)
            changed[:, position] = tokens
            sequences.append(changed)
            rows += [k] * len(tokens)
        return np.concatenate(sequences), np.array(rows, np.int64)

    def _decode(self, tokens: np.ndarray, references: np.ndarray) -> None:
        tokens = tokens[:, (tokens != PAD).any(0)]
        chunks = self._tokenizer.decode(tokens, references).cpu().numpy()
        self.decoded += len(tokens)
        finite = np.isfinite(chunks).all((1, 2))
        if not finite.all():
            row = int(np.argmin(finite))
            raise BadActions(f"tokens {tokens[row].tolist()} are legal and decode to NaN or inf")
        origins = np.where(self.relative, references, self._middle)
        values = motion_extremes(chunks, references, origins, self._tokenizer.config.rate_hz)
        values = values.reshape(len(tokens), -1)  # [N, K]
        best, largest = values.argmax(0), values.max(0)
        better = largest > self.values
        self.values[better] = largest[better]
        self.tokens[better] = PAD
        self.tokens[better, : tokens.shape[1]] = tokens[best[better]]
        self.references[better] = references[best[better]]


def motion_extremes(
    chunks: np.ndarray, references: np.ndarray, origins: np.ndarray, rate_hz: float
) -> np.ndarray:
    """Chunks `[N, H, D]`, references and origins `[N, D]` -> QUANTITIES `[N, 5, D]`.

    lowest, highest: largest distance below and above the origin
    velocity, acceleration: finite differences; first_step: velocity from reference to first action
    """
    chunks = chunks.astype(np.float64)
    velocity = np.diff(chunks, axis=1) * rate_hz
    acceleration = np.diff(velocity, axis=1) * rate_hz
    extremes = (
        origins - chunks.min(1),
        chunks.max(1) - origins,
        np.abs(velocity).max(1),
        np.abs(acceleration).max(1),
        np.abs(chunks[:, 0] - references) * rate_hz,
    )
    return np.stack(extremes, 1)


def random_references(robot: RobotSpec, n: int, generator: np.random.Generator) -> np.ndarray:
    """Joint states float32 `[n, D]`: home, a corner of the limits, any point inside, in turn."""
    low, high = robot.position_low, robot.position_high
    share = generator.random((n, robot.action_dim))
    kind = np.arange(n)[:, None] % 3
    inside = low + (high - low) * np.where(kind == 1, share.round(), share)
    return np.where(kind == 0, robot.home, inside).astype(np.float32)


def alternative_tokens(grammar: Grammar, row: np.ndarray, position: int) -> np.ndarray:
    """Other tokens int64 `[M]` with which a complete sequence `[L]` stays complete when they
    replace that at `position`; with FAST these are pieces of the same length."""
    if row[position] == PAD:
        return np.zeros(0, np.int64)
    tokens = np.flatnonzero(grammar.legal(row[None, :position])[0])
    tokens = tokens[tokens != row[position]]
    changed = np.repeat(row[None], len(tokens), 0)
    changed[:, position] = tokens
    return tokens[grammar.done(changed)]


def _choose(tokens: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """`n` of the tokens, always the first and the last: those of bins are the most extreme."""
    if len(tokens) <= n:
        return tokens
    inside = generator.choice(tokens[1:-1], n - 2, replace=False)
    return np.concatenate([tokens[[0, -1]], inside])


def _joint(search: ExtremeSearch, sampled: np.ndarray, robot: RobotSpec, j: int) -> JointEnvelope:
    joint, relative = robot.joints[j], bool(search.relative[j])
    low, high = joint.position
    below, above = search.values[j :: robot.action_dim][:2]
    origin, home = (0.0, joint.home) if relative else ((low + high) / 2, 0.0)
    lowest, highest = float(origin - below), float(origin + above)

    def worst(limit: float, *names: str) -> WorstCase:
        rows = [QUANTITIES.index(name) * robot.action_dim + j for name in names]
        return _worst_case(search, sampled, rows, limit)

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


def _worst_case(
    search: ExtremeSearch, sampled: np.ndarray, rows: list[int], limit: float
) -> WorstCase:
    """The largest of the values in `rows` of the search."""
    k = max(rows, key=lambda row: search.values[row])
    value, before = float(search.values[k]), float(sampled[rows].max())
    return WorstCase(
        value=value,
        limit=limit,
        ratio=value / limit,
        found="search" if value > before + MIN_GAIN * abs(before) else "sampling",
        sampled=before,
        tokens=tuple(int(token) for token in search.tokens[k] if token != PAD),
        reference=tuple(float(position) for position in search.references[k]),
    )


def _check_fit(tokenizer: Tokenizer, robot: RobotSpec, samples: int) -> None:
    config, dim = tokenizer.config, robot.action_dim
    if config.action_dim != dim:
        raise ConfigError(
            f"the tokenizer's actions have {config.action_dim} dimensions; robot {robot.name} has "
            f"{dim} joints: {', '.join(robot.joint_names)}"
        )
    check_columns(config, robot)
    if config.rate_hz <= 0:
        raise ConfigError(
            "the tokenizer's control rate is unknown, so velocities are too: train it with "
            "`--model rate_hz=30`, or make it with make_tokenizer(..., rate_hz=30)"
        )
    if config.horizon < 3 or samples < 1:
        raise ConfigError(
            f"an acceleration needs 3 steps and at least 1 sample; the horizon is "
            f"{config.horizon}, samples {samples}"
        )
