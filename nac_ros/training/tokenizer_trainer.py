"""Resumable training of learned tokenizers (NAC Algorithm 1), alone or with a shared codec."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nac_ros.codec import discriminators
from nac_ros.codec.losses import ControlLoss, Kind, ReconstructionLoss
from nac_ros.core import config as configs
from nac_ros.core.config import check_fields, number_field
from nac_ros.core.device import CPU, ComputeDevice
from nac_ros.core.errors import ConfigError, DatasetError
from nac_ros.core.provenance import digest_of
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.cross_embodiment import init_shared_codebooks
from nac_ros.tokenizers.nac import Nac
from nac_ros.training import loop
from nac_ros.training.contrastive_stage import FirstStage
from nac_ros.training.tokenizer_metrics import evaluate

LOG_CHUNKS = 1024  # of each split, for the metrics in the log


@dataclass(frozen=True, kw_only=True)
class TokenizerTrainingConfig:
    """How a tokenizer is trained.

    seconds: training time, instead of `steps`; the number of steps then depends on the machine
    unquantized_share: first share of the steps that run without quantization, so that k-means
        starts from trained latents
    loss: mse, l1, or for comparison dct, spectrogram, mel (nac_ros.codec.losses)
    early_steps, late_weight: with mse and l1, weight of the steps of a chunk after the first
        `early_steps`, which a receding horizon does not execute; 0 = all steps alike
    commitment_weight: the paper's 1000 slows the reconstruction in short runs, hence 0.25
    discriminator: dac = mpd (periods) and mrd (spectrograms) together
    adversarial_start, adversarial_every: share of the steps after which the discriminator is
        used, and in which steps
    velocity_weight, acceleration_weight, transition_weight: of `ControlLoss`; grippers are the
        absolute columns of a relative tokenizer, else the last column
    contrastive_share: first share of the steps, in which encoder and first codebook are trained
        alone with a time-contrastive term, and then frozen (`FirstStage`); 0 = never
    contrastive_weight, contrastive_temperature: of that term
    scale_range, warp_probability, mirror_probability: augmentation by an amplitude per dimension,
        slower motion, and negation of all relative columns
    """

    steps: int = number_field(6000, 1)
    batch: int = number_field(128, 1)
    learning_rate: float = 1e-3
    warmup: int = 100
    unquantized_share: float = number_field(0.15, 0, 1)
    loss: Kind = "mse"
    early_steps: int = 0
    late_weight: float = 1.0
    commitment_weight: float = 0.25
    discriminator: Literal["dac", "mpd", "mrd", "none"] = "dac"
    adversarial_weight: float = 1e-4
    feature_weight: float = 1e-3
    adversarial_start: float = number_field(0.7, 0, 1)
    adversarial_every: int = 2
    velocity_weight: float = number_field(0.0, 0.0)
    acceleration_weight: float = number_field(0.0, 0.0)
    transition_weight: float = number_field(0.0, 0.0)
    contrastive_share: float = number_field(0.0, 0, 0.95)
    contrastive_weight: float = number_field(0.01, 0)
    contrastive_temperature: float = number_field(0.1, 1e-3)
    scale_range: float = 0.2
    warp_probability: float = number_field(0.3, 0, 1)
    mirror_probability: float = number_field(0.0, 0, 1)
    seconds: float = number_field(0.0, 0.0)
    gradient_clip: float = 1.0
    log_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if 0 < self.contrastive_share <= self.unquantized_share:
            raise ConfigError(
                f"contrastive_share {self.contrastive_share:g} must be 0, or above "
                f"unquantized_share {self.unquantized_share:g}"
            )


class TokenizerTrainer:
    """Minimizes reconstruction, commitment and adversarial losses over normalized chunks.

    A run consists of `start`, `advance` until `done`, and `finish`; `run` does all three.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: TokenizerTrainingConfig,
        out: Path,
        sources: Sequence[Mapping[str, Any]] = (),
        device: ComputeDevice = CPU,
    ):
        """sources: origin of the data, for run.json (`nac_ros.datasets.convert.describe`)
        device: to which the tokenizer is moved
        """
        self.tokenizer, self.config, self.out = tokenizer.to(device.name), config, out
        self._sources, self.device = sources, device
        self.discriminator = _make_discriminator(tokenizer, config).to(device.name)
        self._optimizer = _adam(tokenizer, config.learning_rate)
        self._discriminator_optimizer = _adam(self.discriminator, config.learning_rate)
        self._scaler, self._discriminator_scaler = (
            device.gradient_scaler(),
            device.gradient_scaler(),
        )
        self._step, self._quantizing = 0, config.unquantized_share == 0
        self._fit_seconds, self._step_seconds = 0.0, 0.0  # of `fit`, and of all steps
        self._first_stage: FirstStage | None = None  # while it is trained alone
        if config.contrastive_share and tokenizer.learned:
            self._first_stage = FirstStage(tokenizer)
            self._first_stage.train_alone()

    def run(
        self, train: ActionChunks, held_out: ActionChunks, resume: bool = False
    ) -> dict[str, Any]:
        """Trains, saves the tokenizer in `out` and returns its metrics."""
        self.start(train, held_out, resume)
        while not self.done:
            self.advance()
        return self.finish()

    def start(self, train: ActionChunks, held_out: ActionChunks, resume: bool = False) -> bool:
        """Fits statistics and codebooks, or restores the run in `out`; whether it was restored."""
        self._identity = self._identify(train, held_out)
        resumed = loop.start_run(
            self.out,
            self.config,
            self._identity,
            resume,
            self._restore,
            self._sources,
            self.device,
        )
        if not resumed:
            started = time.perf_counter()
            self.tokenizer.fit(*train, seed=self.config.seed)
            self.add_fit_time(time.perf_counter() - started)
        losses = _make_losses(self.tokenizer, self.config)  # needs the statistics of `fit`
        self._losses = [loss.to(self.device.name) for loss in losses]
        self._train, self._held_out = train, held_out
        self.chunks = self.tokenizer.normalize(*train)
        self._consecutive = torch.from_numpy(train.consecutive).to(self.device.name)
        if self._first_stage and not len(self._consecutive):
            raise DatasetError(
                "contrastive_share needs training chunks one step apart; found none"
            )
        self._log = loop.TrainingLog(self.out / "log.jsonl")
        return resumed

    def add_fit_time(self, seconds: float) -> None:
        """Counts time spent on statistics and codebooks as part of the config's `seconds`."""
        self._fit_seconds += seconds

    @property
    def done(self) -> bool:
        return not self.tokenizer.learned or (self._step > 0 and self._progress >= 1)

    @property
    def awaits_codebooks(self) -> bool:
        """Whether the unquantized steps are done and codebooks must be set before the next one."""
        return not self._quantizing and self._progress >= self.config.unquantized_share

    def start_quantizing(self) -> None:
        """Quantizes from the next step on; called once the codebooks are set."""
        self._quantizing = True

    def advance(self) -> None:
        """Runs one step; logs metrics and writes a checkpoint where one is due."""
        started = time.perf_counter()
        metrics = self._train_step(self.chunks)
        self._step += 1
        self._step_seconds += time.perf_counter() - started
        if self._step % self.config.log_every == 0 or self.done:
            shown = {key: float(value) for key, value in metrics.items()}
            self._log.write(self._step, {**shown, **self._evaluate_samples()})
            self._save()

    def finish(self) -> dict[str, Any]:
        """Saves the tokenizer and evaluates it on the held-out chunks."""
        self.tokenizer.eval().save_pretrained(self.out)
        return {
            **evaluate(self.tokenizer, self._held_out),
            "train_steps": self._step,
            "train_seconds": round(self._fit_seconds + self._step_seconds, 1),
        }

    @property
    def _progress(self) -> float:
        """Share of the training that is done; evaluation and checkpoints do not count as time."""
        if self.config.seconds:
            left = self.config.seconds - self._fit_seconds
            return self._step_seconds / left if left > 0 else float(self._step > 0)
        return self._step / self.config.steps

    def _train_step(self, chunks: Tensor) -> dict[str, Tensor | float]:
        config = self.config
        self._set_learning_rates()
        self.tokenizer.train()
        if self.awaits_codebooks:
            self.tokenizer.fit_codes(chunks, config.seed)
            self.start_quantizing()
        if self._first_stage and self._progress >= config.contrastive_share:
            self._freeze_first_stage(chunks)
            self.tokenizer.fit_codes(chunks, config.seed)
        rows = torch.randint(len(chunks), (config.batch,), device=chunks.device)
        real = augment(chunks[rows], config, self.tokenizer.relative)
        with self.device.autocast():
            fake, extra = self.tokenizer.training_step(real, quantize=self._quantizing)
        fake = fake.float()
        reconstruction = torch.stack([loss(fake, real) for loss in self._losses]).sum()
        loss = reconstruction + config.commitment_weight * extra.get("commitment", 0)
        if self._first_stage:
            loss = loss + config.contrastive_weight * self._contrastive_loss(chunks)
        if self._is_adversarial_step():
            loss = loss + self._adversarial_loss(real, fake)
        loop.gradient_step(self._optimizer, loss, config.gradient_clip, self._scaler)
        return {
            "train": reconstruction.detach(),
            "lr": self._optimizer.param_groups[0]["lr"],
        }

    def _contrastive_loss(self, chunks: Tensor) -> Tensor:
        """Time-contrastive term of random training chunks."""
        assert self._first_stage is not None
        n, size = len(self._consecutive), (self.config.batch,)
        drawn = torch.randint(n, size, device=self._consecutive.device)
        rows = self._consecutive[drawn]
        temperature = self.config.contrastive_temperature
        return self._first_stage.contrastive_loss(chunks, rows, temperature)

    def _freeze_first_stage(self, chunks: Tensor) -> None:
        assert self._first_stage is not None
        self._first_stage.freeze(chunks[:2])
        self._first_stage = None

    def _is_adversarial_step(self) -> bool:
        started = self._progress >= self.config.adversarial_start
        used = self.config.discriminator != "none"
        return used and started and self._step % self.config.adversarial_every == 0

    def _adversarial_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Trains the discriminator by one step and returns the generator's loss against it."""
        config = self.config
        loss = discriminators.discriminator_loss(
            self.discriminator(real), self.discriminator(fake.detach())
        )
        loop.gradient_step(
            self._discriminator_optimizer, loss, config.gradient_clip, self._discriminator_scaler
        )
        real_features, fake_features = self.discriminator(real), self.discriminator(fake)
        generator = discriminators.generator_loss(fake_features)
        matching = discriminators.feature_loss(real_features, fake_features)
        return config.adversarial_weight * generator + config.feature_weight * matching

    def _set_learning_rates(self) -> None:
        steps = self._step / self._progress if self._progress else self.config.steps
        warmup = min(self.config.warmup, round(steps) // 5)
        factor = loop.cosine_rate(self._step, round(steps), warmup)
        loop.set_learning_rates(factor, self._optimizer, self._discriminator_optimizer)

    def _evaluate_samples(self) -> dict[str, Any]:
        """Metrics of some chunks of both splits, for the log."""
        metrics = evaluate(self.tokenizer, _spread_sample(self._held_out))
        return {
            "mse_train": evaluate(self.tokenizer, _spread_sample(self._train))["mse"],
            "mse": metrics["mse"],
            "use": metrics["codebook_use"],
            "perplexity": metrics["codebook_perplexity"],
        }

    def _save(self) -> None:
        """Writes a checkpoint, and the tokenizer as it is, in case the run does not end."""
        state = {
            "step": self._step,
            "step_seconds": self._step_seconds,
            "fit_seconds": self._fit_seconds,
            "quantizing": self._quantizing,
            "trains_first_stage": self._first_stage is not None,
            **{name: part.state_dict() for name, part in self._stateful().items()},
        }
        loop.save_checkpoint(self.out, state, self._identity, self.device)
        self.tokenizer.save_pretrained(self.out)

    def _restore(self, state: dict[str, Any]) -> None:
        """Applies a checkpoint; raises if it does not fit."""
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])
        self._step, self._quantizing = int(state["step"]), bool(state["quantizing"])
        self._step_seconds = float(state["step_seconds"])
        self._fit_seconds = float(state["fit_seconds"])
        if self._first_stage and not state["trains_first_stage"]:
            shape = self.tokenizer.config
            chunks = self.tokenizer.low.new_zeros(2, shape.horizon, shape.action_dim)
            self._freeze_first_stage(chunks)

    def _stateful(self) -> dict[str, Any]:
        return {
            "tokenizer": self.tokenizer,
            "discriminator": self.discriminator,
            "optimizer": self._optimizer,
            "discriminator_optimizer": self._discriminator_optimizer,
            "scaler": self._scaler,
            "discriminator_scaler": self._discriminator_scaler,
        }

    def _identify(self, train: ActionChunks, held_out: ActionChunks) -> dict[str, str]:
        tokenizer = self.tokenizer
        return loop.identity_of(
            self.config,
            tokenizer=f"{tokenizer.name} ({tokenizer.preset})",
            model=configs.to_plain(tokenizer.config),
            data=digest_of([*train, *held_out]),
            device=self.device.kind,
            precision=self.device.precision,
        )


def augment(chunks: Tensor, config: TokenizerTrainingConfig, relative: Tensor) -> Tensor:
    """Random amplitude, slower motion and mirrored copies of normalized chunks `[B, H, D]`."""
    batch, horizon, dim = chunks.shape

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, device=chunks.device)

    scale = 1 + config.scale_range * (2 * random(batch, 1, dim) - 1)
    mirrored = random(batch, 1, 1) < config.mirror_probability
    scale = torch.where(mirrored & relative, -scale, scale)
    speed = torch.where(random(batch) < config.warp_probability, 0.6 + 0.4 * random(batch), 1.0)
    position = torch.arange(horizon, device=chunks.device) * speed[:, None]  # [B, H], in steps
    left = position.floor().long()
    fraction = (position - left)[..., None]
    right = (left + 1).clamp(max=horizon - 1)

    def pick(index: Tensor) -> Tensor:
        return chunks.gather(1, index[..., None].expand(-1, -1, dim))

    return scale * (pick(left) * (1 - fraction) + pick(right) * fraction)


def _spread_sample(chunks: ActionChunks) -> ActionChunks:
    """LOG_CHUNKS evenly spaced chunks."""
    return chunks.select(np.linspace(0, len(chunks.actions) - 1, LOG_CHUNKS).astype(int))


def _make_discriminator(tokenizer: Tokenizer, config: TokenizerTrainingConfig) -> torch.nn.Module:
    if config.discriminator == "none":
        return torch.nn.Identity()
    size = tokenizer.config.horizon * tokenizer.config.action_dim
    try:
        return discriminators.Discriminator(config.discriminator, size)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _make_losses(tokenizer: Tokenizer, config: TokenizerTrainingConfig) -> list[torch.nn.Module]:
    """Losses of decoded and real chunks; squared errors are weighted as in the published MSE."""
    shape = tokenizer.config
    weights = torch.ones(shape.horizon, device=tokenizer.low.device)
    weights[config.early_steps or shape.horizon :] = config.late_weight
    absolute = [k for k, relative in enumerate(shape.relative) if not relative]
    control = (config.velocity_weight, config.acceleration_weight, config.transition_weight)
    losses: list[torch.nn.Module] = [
        ReconstructionLoss(config.loss, weights, tokenizer.mse_weights.sqrt())
    ]
    if any(control):
        losses.append(ControlLoss(*control, tuple(absolute or [shape.action_dim - 1])))
    return losses


def _adam(module: torch.nn.Module, rate: float) -> torch.optim.AdamW:
    # AdamW rejects an empty list
    learned = list(module.parameters()) or [torch.zeros(1, device="cpu")]
    groups = [{"params": learned, "peak": rate}]
    return torch.optim.AdamW(groups, rate, betas=(0.9, 0.99), fused=True)


def train_cross_embodiment(
    members: Mapping[str, Nac],
    data: Mapping[str, tuple[ActionChunks, ActionChunks]],
    config: TokenizerTrainingConfig,
    out: Path,
    resume: bool = False,
    sources: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    device: ComputeDevice = CPU,
) -> dict[str, Any]:
    """Trains tokenizers with a shared codec, one step of each at a time; robot -> metrics.

    members, data: by robot, the latter as training and held-out chunks
    config: `steps` are those of each robot; `seconds` are divided evenly among them
    out: each tokenizer is saved in `out`/<robot>
    sources: origin of each robot's data, for its run.json
    """
    if config.contrastive_share:
        raise ConfigError("contrastive_share is for one robot; leave it at 0 with --embodiments")
    config = replace(config, seconds=config.seconds / len(members))
    trainers = {
        name: TokenizerTrainer(
            members[name], config, out / name, (sources or {}).get(name, ()), device
        )
        for name in data
    }
    resumed = [trainer.start(*data[name], resume) for name, trainer in trainers.items()]
    if not all(resumed):
        _set_shared_codebooks(members, trainers, config.seed)
    while training := [trainer for trainer in trainers.values() if not trainer.done]:
        if any(trainer.awaits_codebooks for trainer in training):
            _set_shared_codebooks(members, trainers, config.seed)
            for trainer in trainers.values():
                trainer.start_quantizing()
        for trainer in training:
            trainer.advance()
    return {name: trainer.finish() for name, trainer in trainers.items()}


def _set_shared_codebooks(
    members: Mapping[str, Nac], trainers: Mapping[str, TokenizerTrainer], seed: int
) -> None:
    """k-means over the chunks of all robots, whose time counts for each in equal shares."""
    started = time.perf_counter()
    chunks = {name: trainer.chunks for name, trainer in trainers.items()}
    init_shared_codebooks(members, chunks, seed)
    for trainer in trainers.values():
        trainer.add_fit_time((time.perf_counter() - started) / len(trainers))
