"""Training runs for comparisons, cached under a hash of everything that they depend on."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nac_ros.core import config as configs
from nac_ros.core import files
from nac_ros.core.device import CPU, ComputeDevice
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
    """A tokenizer with its settings; `model` and `training` override those of its preset."""

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
    """Chunks that all candidates are trained and evaluated on.

    validation: settings are chosen by the error on these; test: published errors are of these,
        None if there are too few episodes
    columns: names, units, rate_hz, relative of the tokenizer config
    constant: names of dimensions held at their training value (`ChunkSplit`)
    """

    label: str
    train: ActionChunks
    validation: ActionChunks
    columns: dict[str, Any]
    test: ActionChunks | None = None
    constant: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Horizon and D."""
        return self.train.actions.shape[1], self.train.actions.shape[2]

    def digest(self) -> str:
        """Hash of the chunks and references that a trained candidate depends on."""
        return digest_of([*self.train, *self.validation])


@dataclass(frozen=True)
class TrainedCandidate:
    """A trained candidate and its metrics on the validation chunks."""

    candidate: Candidate
    tokenizer: Tokenizer
    metrics: dict[str, Any]


def train(
    candidate: Candidate,
    data: BenchmarkData,
    common: dict[str, Any],
    seed: int,
    cache: Path,
    device: ComputeDevice = CPU,
) -> TrainedCandidate:
    """Trains `candidate` on a device, or loads it from `cache`.

    common: fields of the training config that all candidates share, such as `seconds`
    """
    horizon, dim = data.shape
    cls = TOKENIZERS.get(candidate.name)
    seed_everything(seed)
    values = {**data.columns, **dict(candidate.model)}
    tokenizer = make_tokenizer(candidate.name, candidate.preset, horizon, dim, **values)
    defaults = cls.training_defaults.get(candidate.preset, {})
    given = {**defaults, **common, **dict(candidate.training), "seed": seed}
    config = configs.build(TokenizerTrainingConfig, given, candidate.title)
    folder = cache / _key(tokenizer, config, data, device)
    if (folder / METRICS).is_file():
        print(f"{candidate.title}, seed {seed}: found in {folder}")
        metrics = layout.read_json(folder / METRICS)
        return TrainedCandidate(candidate, load_tokenizer(folder).to(device.name), metrics)
    print(f"{candidate.title}, seed {seed}: {tokenizer.params_m:.3f} M parameters")
    trainer = TokenizerTrainer(tokenizer, config, folder, device=device)
    metrics = trainer.run(data.train, data.validation, resume=has_checkpoint(folder))
    drop_checkpoints(folder)
    files.write_json(folder / METRICS, metrics)
    return TrainedCandidate(candidate, tokenizer, metrics)


def _key(
    tokenizer: Tokenizer,
    config: TokenizerTrainingConfig,
    data: BenchmarkData,
    device: ComputeDevice,
) -> str:
    """Folder name: a hash of everything but the code that the result depends on."""
    parts = {
        "name": tokenizer.name,
        "model": configs.to_plain(tokenizer.config),
        "training": configs.to_plain(config),
        "data": data.digest(),
        "threads": torch.get_num_threads(),
    }
    if device != CPU:
        parts |= {"device": device.kind, "precision": device.precision}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return f"{tokenizer.name}-{digest[:16]}"
