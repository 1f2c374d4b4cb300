"""Training of learned tokenizers (NAC Algorithm 1), resumable."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nac_ros.codec import discriminators as adversary
from nac_ros.codec.losses import ControlLoss, Kind, ReconstructionLoss
from nac_ros.core import config as configs
from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError
from nac_ros.core.provenance import digest_of
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.cross_embodiment import init_shared_codebooks
from nac_ros.tokenizers.nac import Nac
from nac_ros.training import loop
from nac_ros.training.tokenizer_metrics import evaluate

LOG_CHUNKS = 1024  # of each side, for the figures of the log


@dataclass(frozen=True, kw_only=True)
class TokenizerTrainingConfig:
    """How a tokenizer is trained.

    commitment_weight: the paper's 1000 starves the reconstruction in short runs; 0.25 is ours
    unquantized_share: first share of the steps, without quantization: k-means sees trained latents
    loss: mse, l1, or for comparison dct, spectrogram, mel (nac_ros.codec.losses)
    early_steps, late_weight: with mse and l1 steps after the first `early_steps` count this much;
        0 = all alike. A receding horizon never executes the last steps of a chunk.
    discriminator: dac is mpd (periods) and mrd (spectra) together
    adversarial_start: fraction of the steps after which the discriminator joins
    velocity_weight, acceleration_weight, transition_weight: of `ControlLoss`; the gripper is what
        a relative codec leaves absolute, else the last column
    scale_range, warp_probability, mirror_probability: augmentation, amplitude per dimension,
        slower time, all relative columns negated
    seconds: of training, instead of `steps`; how many those are then depends on the machine
    """

    steps: int = 6000
    batch: int = 128
    learning_rate: float = 1e-3
    warmup: int = 100
    unquantized_share: float = 0.15
    loss: Kind = "mse"
    early_steps: int = 0
    late_weight: float = 1.0
    commitment_weight: float = 0.25
    discriminator: Literal["dac", "mpd", "mrd", "none"] = "dac"
    adversarial_weight: float = 1e-4
    feature_weight: float = 1e-3
    adversarial_start: float = 0.7
    adversarial_every: int = 2
    velocity_weight: float = number_field(0.0, 0.0)
    acceleration_weight: float = number_field(0.0, 0.0)
    transition_weight: float = number_field(0.0, 0.0)
    scale_range: float = 0.2
    warp_probability: float = 0.3
    mirror_probability: float = 0.0
    seconds: float = number_field(0.0, 0.0)
    gradient_clip: float = 1.0
    log_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ConfigError(f"steps {self.steps} and batch {self.batch} must be at least 1")
        check_fields(self)
        for name in (
            "adversarial_start",
            "unquantized_share",
            "warp_probability",
            "mirror_probability",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)} must lie in 0 .. 1")


class TokenizerTrainer:
    """Reconstruction + commitment + adversary over normalised chunks, resumable."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: TokenizerTrainingConfig,
        out: Path,
        sources: Sequence[Mapping[str, Any]] = (),
    ):
        """sources: where the data came from, for run.json (`nac_ros.datasets.convert.describe`)"""
        self.tokenizer, self.config, self.out = tokenizer, config, out
        self._sources = sources
        self.discriminator = _discriminator(tokenizer, config)
        self._optimizer = _adam(tokenizer, config.learning_rate)
        self._judge = _adam(self.discriminator, config.learning_rate)
        self._step, self._coding = 0, config.unquantized_share == 0
        self._fitting, self._spent = 0.0, 0.0  # [s] before the first step, and in steps

    def run(
        self, train: ActionChunks, held_out: ActionChunks, resume: bool = False
    ) -> dict[str, Any]:
        """Trains to the end, saves the tokenizer in `out` and returns its figures."""
        self.begin(train, held_out, resume)
        while not self.done:
            self.advance()
        return self.finish()

    def begin(self, train: ActionChunks, held_out: ActionChunks, resume: bool = False) -> bool:
        """Statistics and first codes, or the state of the run in `out`; whether it is resumed."""
        loop.seed_everything(self.config.seed)
        self._identity = self._identify(train, held_out)
        resumed = resume and loop.restore_checkpoint(self.out, self._identity, self._apply)
        loop.prepare_folder(self.out, configs.to_plain(self.config), resume, self._sources)
        if not resumed:
            began = time.perf_counter()
            self.tokenizer.fit(*train, seed=self.config.seed)
            self.charge(time.perf_counter() - began)
        self._losses = _losses(self.tokenizer, self.config)  # in units that `fit` has found
        self._train, self._held_out = train, held_out
        self.chunks = self.tokenizer.normalize(*train)
        self._log = loop.TrainingLog(self.out / "log.jsonl")
        return resumed

    def charge(self, seconds: float) -> None:
        """Counts time [s] spent on statistics and first codes among the training's `seconds`."""
        self._fitting += seconds

    @property
    def done(self) -> bool:
        return not self.tokenizer.learned or (self._step > 0 and self._progress >= 1)

    def advance(self) -> None:
        """One step, and what is due after it: figures, a checkpoint."""
        began = time.perf_counter()
        figures = self._train_step(self.chunks)
        self._step, self._spent = self._step + 1, self._spent + time.perf_counter() - began
        if self._step % self.config.log_every == 0 or self.done:
            self._log.write(self._step, {**figures, **self._brief(self._train, self._held_out)})
            self._save()

    def finish(self) -> dict[str, Any]:
        """Saves the tokenizer and judges it on what was held out."""
        self.tokenizer.eval().save_pretrained(self.out)
        return {
            **evaluate(self.tokenizer, self._held_out),
            "train_steps": self._step,
            "train_seconds": round(self._fitting + self._spent, 1),
        }

    @property
    def _progress(self) -> float:
        """Share of the steps that is done; evaluation and checkpoints take none of their time."""
        if self.config.seconds:
            left = self.config.seconds - self._fitting
            return self._spent / left if left > 0 else float(self._step > 0)
        return self._step / self.config.steps

    def _train_step(self, chunks: Tensor) -> dict[str, float]:
        config = self.config
        self._set_rates()
        self.tokenizer.train()
        if not self._coding and self._progress >= config.unquantized_share:
            self.tokenizer.fit_codes(chunks, config.seed)
            self._coding = True
        rows = torch.randint(len(chunks), (config.batch,))
        real = augment(chunks[rows], config, self.tokenizer.relative)
        fake, extra = self.tokenizer.training_step(real, quantize=self._coding)
        reconstruction = torch.stack([part(fake, real) for part in self._losses]).sum()
        loss = reconstruction + config.commitment_weight * extra.get("commitment", 0)
        if self._adversary_joins():
            loss = loss + self._adversarial(real, fake)
        loop.gradient_step(self._optimizer, loss, config.gradient_clip)
        return {
            "train": float(reconstruction.detach()),
            "lr": self._optimizer.param_groups[0]["lr"],
        }

    def _adversary_joins(self) -> bool:
        started = self._progress >= self.config.adversarial_start
        on = self.config.discriminator != "none"
        return on and started and self._step % self.config.adversarial_every == 0

    def _adversarial(self, real: Tensor, fake: Tensor) -> Tensor:
        judged = adversary.discriminator_loss(
            self.discriminator(real), self.discriminator(fake.detach())
        )
        loop.gradient_step(self._judge, judged, self.config.gradient_clip)
        seen_real, seen_fake = self.discriminator(real), self.discriminator(fake)
        return self.config.adversarial_weight * adversary.generator_loss(
            seen_fake
        ) + self.config.feature_weight * adversary.feature_loss(seen_real, seen_fake)

    def _set_rates(self) -> None:
        steps = self._step / self._progress if self._progress else self.config.steps
        warmup = min(self.config.warmup, round(steps) // 5)
        factor = loop.cosine_rate(self._step, round(steps), warmup)
        for optimizer in (self._optimizer, self._judge):
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate * factor

    def _brief(self, train: ActionChunks, held_out: ActionChunks) -> dict[str, Any]:
        figures = evaluate(self.tokenizer, _some(held_out))
        return {
            "mse_train": evaluate(self.tokenizer, _some(train))["mse"],
            "mse": figures["mse"],
            "use": figures["codebook_use"],
            "perplexity": figures["codebook_perplexity"],
        }

    def _save(self) -> None:
        state = {
            "step": self._step,
            "spent": self._spent,
            "fitting": self._fitting,
            "coding": self._coding,
            "tokenizer": self.tokenizer.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "judge": self._judge.state_dict(),
        }
        loop.save_checkpoint(self.out, state, self._identity)
        self.tokenizer.save_pretrained(
            self.out
        )  # of use already, and all there is if time runs out

    def _apply(self, state: dict[str, Any]) -> None:
        """Takes over a checkpoint; raises one of `loop.DAMAGE` where it does not fit."""
        self.tokenizer.load_state_dict(state["tokenizer"])
        self.discriminator.load_state_dict(state["discriminator"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._judge.load_state_dict(state["judge"])
        self._step, self._coding = int(state["step"]), bool(state["coding"])
        self._spent, self._fitting = float(state["spent"]), float(state["fitting"])

    def _identify(self, train: ActionChunks, held_out: ActionChunks) -> dict[str, str]:
        """What the run depends on and must be the same when it is resumed."""
        tokenizer = self.tokenizer
        return loop.identity_of(
            configs.to_plain(self.config),
            tokenizer=f"{tokenizer.name} ({tokenizer.preset})",
            model=configs.to_plain(tokenizer.config),
            data=digest_of([*train, *held_out]),
        )


def augment(chunks: Tensor, config: TokenizerTrainingConfig, relative: Tensor) -> Tensor:
    """Random amplitude, slower time and mirror images of normalised chunks `[B, H, D]`."""
    batch, horizon, dim = chunks.shape
    scale = 1 + config.scale_range * (2 * torch.rand(batch, 1, dim) - 1)
    mirrored = torch.rand(batch, 1, 1) < config.mirror_probability
    scale = torch.where(mirrored & relative, -scale, scale)
    warped = torch.rand(batch) < config.warp_probability
    speed = torch.where(warped, 0.6 + 0.4 * torch.rand(batch), torch.ones(batch))
    position = torch.arange(horizon) * speed[:, None]  # [B, H], in steps
    left = position.floor().long()
    fraction = (position - left)[..., None]
    right = (left + 1).clamp(max=horizon - 1)

    def pick(index: Tensor) -> Tensor:
        return chunks.gather(1, index[..., None].expand(-1, -1, dim))

    return scale * (pick(left) * (1 - fraction) + pick(right) * fraction)


def _some(windows: ActionChunks) -> ActionChunks:
    rows = np.linspace(0, len(windows.actions) - 1, LOG_CHUNKS).astype(int)
    references = None if windows.references is None else windows.references[rows]
    return ActionChunks(windows.actions[rows], references)


def _discriminator(tokenizer: Tokenizer, config: TokenizerTrainingConfig) -> torch.nn.Module:
    if config.discriminator == "none":
        return torch.nn.Identity()
    facts = tokenizer.config
    try:
        return adversary.Discriminator(config.discriminator, facts.horizon * facts.action_dim)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _losses(tokenizer: Tokenizer, config: TokenizerTrainingConfig) -> list[torch.nn.Module]:
    """Of a decoded and a real chunk; errors count as they do in the published MSE."""
    facts = tokenizer.config
    weights = torch.ones(facts.horizon)
    weights[config.early_steps or facts.horizon :] = config.late_weight
    absolute = [k for k, relative in enumerate(facts.relative) if not relative]
    felt = (config.velocity_weight, config.acceleration_weight, config.transition_weight)
    losses: list[torch.nn.Module] = [
        ReconstructionLoss(config.loss, weights, tokenizer.mse_weights.sqrt())
    ]
    if any(felt):
        losses.append(ControlLoss(*felt, tuple(absolute or [facts.action_dim - 1])))
    return losses


def _adam(module: torch.nn.Module, rate: float) -> torch.optim.AdamW:
    learned = list(module.parameters()) or [torch.zeros(1)]  # AdamW refuses to have nothing
    return torch.optim.AdamW(learned, rate, betas=(0.9, 0.99), fused=True)


Data = Mapping[
    str, tuple[ActionChunks, ActionChunks]
]  # robot -> what to train on, what is held out


def train_cross_embodiment(
    family: Mapping[str, Nac],
    data: Data,
    config: TokenizerTrainingConfig,
    out: Path,
    resume: bool = False,
    sources: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Trains all members, each saved in `out`/<robot>; robot -> figures.

    sources: where each robot's data came from, for its run.json
    `steps` are those of each robot; `seconds` are shared out evenly.
    """
    config = replace(config, seconds=config.seconds / len(family))
    trainers = {
        name: TokenizerTrainer(family[name], config, out / name, (sources or {}).get(name, ()))
        for name in data
    }
    resumed = [trainers[name].begin(*data[name], resume) for name in data]
    if not all(resumed):
        chunks = {name: trainer.chunks for name, trainer in trainers.items()}
        began = time.perf_counter()
        init_shared_codebooks(family, chunks, config.seed)
        for trainer in trainers.values():
            trainer.charge((time.perf_counter() - began) / len(trainers))
    while not all(trainer.done for trainer in trainers.values()):
        for trainer in trainers.values():
            if not trainer.done:
                trainer.advance()
    return {name: trainer.finish() for name, trainer in trainers.items()}
