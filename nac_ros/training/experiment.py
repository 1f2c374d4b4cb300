"""Training runs that a comparison can rely on: told apart by what they depend on, done once."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nac_ros.core import config as configs
from nac_ros.core import files
from nac_ros.core.provenance import digest_of
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.datasets.lerobot import layout
from nac_ros.tokenizers import Tokenizer, load_tokenizer, make_tokenizer
from nac_ros.tokenizers.base import TOKENIZERS
from nac_ros.training.loop import drop_checkpoints, has_checkpoint, seed_everything
from nac_ros.training.tokenizer_trainer import TokenizerTrainer, TokenizerTrainingConfig

METRICS = "metrics.json"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A tokenizer with its settings; `model` and `training` override what its preset says."""

    name: str
    preset: str = "small"
    model: tuple[tuple[str, Any], ...] = ()
    training: tuple[tuple[str, Any], ...] = ()
    label: str = ""

    @property
    def title(self) -> str:
        return self.label or self.name


@dataclass(frozen=True)
class BenchmarkData:
    """What all candidates are trained and judged on, and how they see it.

    facts: names, units, rate_hz, relative of the columns
    constant: names of dimensions that are held still (`nac_ros.datasets.action_chunks.ChunkSplit`)
    """

    label: str
    train: ActionChunks
    held_out: ActionChunks
    facts: dict[str, Any]
    constant: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Horizon and D."""
        return self.train.actions.shape[1], self.train.actions.shape[2]

    def digest(self) -> str:
        """Hash of every number of both sides."""
        arrays = [part for side in (self.train, self.held_out) for part in side]
        return digest_of(arrays)


@dataclass(frozen=True)
class TrainedCandidate:
    """A trained candidate and its metrics on the held-out side."""

    candidate: Candidate
    tokenizer: Tokenizer
    metrics: dict[str, Any]


def train(
    candidate: Candidate, material: BenchmarkData, common: dict[str, Any], seed: int, cache: Path
) -> TrainedCandidate:
    """Trains `candidate` for the `common` time and batch, or finds it in `cache`.

    A tokenizer that has nothing to train is fitted, and not kept.
    """
    horizon, dim = material.shape
    cls = TOKENIZERS.get(candidate.name)
    seed_everything(seed)
    values = {**material.facts, **dict(candidate.model)}
    made = make_tokenizer(candidate.name, candidate.preset, horizon, dim, **values)
    given = {
        **cls.training_defaults.get(candidate.preset, {}),
        **common,
        **dict(candidate.training),
    }
    training = configs.build(TokenizerTrainingConfig, {**given, "seed": seed}, candidate.title)
    folder = cache / _key(made, training, material)
    if (folder / METRICS).is_file():
        print(f"{candidate.title}, seed {seed}: found in {folder}")
        return TrainedCandidate(
            candidate, load_tokenizer(folder), layout.read_json(folder / METRICS)
        )
    print(f"{candidate.title}, seed {seed}: {made.params_m:.3f} M parameters")
    metrics = TokenizerTrainer(made, training, folder).run(
        material.train, material.held_out, resume=has_checkpoint(folder)
    )
    drop_checkpoints(folder)
    files.write_json(folder / METRICS, metrics)
    return TrainedCandidate(candidate, made, metrics)


def _key(made: Tokenizer, training: TokenizerTrainingConfig, material: BenchmarkData) -> str:
    """Of everything that decides the outcome but the code itself."""
    parts = {
        "name": made.name,
        "model": configs.to_plain(made.config),
        "training": configs.to_plain(training),
        "data": material.digest(),
        "threads": torch.get_num_threads(),
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return f"{made.name}-{digest[:16]}"
