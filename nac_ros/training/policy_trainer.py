"""Behavioural cloning of a token policy from demonstrations with images, resumable."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nac_ros.core import config as configs
from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import BadActions, BadTokens, ConfigError, DatasetError
from nac_ros.core.provenance import digest_of
from nac_ros.datasets.action_chunks import NoticeCallback, print_notice
from nac_ros.datasets.frames import Frames
from nac_ros.datasets.interventions import TrainOn, sampling_weights, split_frames
from nac_ros.policies.ar import ArPolicy
from nac_ros.policies.base import Inputs, Policy, Targets
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.grammar import PAD
from nac_ros.training import loop
from nac_ros.training.image_augmentation import jitter_colours, random_shift

HELD_OUT_FRAMES = 512
ENCODE_BATCH = 2048
SEE_BATCH = 256
SCALED_FRAMES = 8192  # drawn for the spread of the targets


@dataclass(frozen=True, kw_only=True)
class PolicyTrainingConfig:
    """How a policy is trained.

    shift: pixels an image may be moved; brightness, contrast: largest relative change
    state_noise: joint offset [normalised by its spread] common to all observed steps
    future_stride: spacing [steps] of the H further actions that the policy learns to foresee
    cached_views: 0 = the vision encoder learns; else it stays as it is, and sees each frame this
        many times, differently augmented, before training begins. Steps are then far cheaper.
    ema_decay: decay of the averaged weights, which are what is saved
    train_on: what is learned from, everything or interventions alone, of which every fifth is then
        held out (`nac_ros.datasets.interventions.rows_alone`)
    intervention_weight: how much more often a frame by a hand that had taken over is drawn
    """

    steps: int = 12_000
    batch: int = 64
    learning_rate: float = 1e-3
    vision_learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup: int = 200
    ema_decay: float = 0.999
    shift: int = 1
    brightness: float = 0.15
    contrast: float = 0.15
    state_noise: float = 0.02
    future_stride: int = 4
    cached_views: int = 0
    bfloat16: bool = True
    gradient_clip: float = 1.0
    log_every: int = 500
    train_on: TrainOn = "all"
    intervention_weight: float = number_field(1.0, 1e-3, 1e3)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.log_every) < 1:
            raise ConfigError("steps, batch and log_every must be at least 1")
        check_fields(self)
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay {self.ema_decay} must lie in 0 .. 1")


@dataclass(frozen=True)
class Demonstrations:
    """Frames with targets: chunk references, tokens `[N, L]`, latents `[N, L, E]` or None.

    usable: bool `[N]`, False for frames that hold NaN or inf, or whose chunk has no tokens
    """

    frames: Frames
    tokenizer: Tokenizer
    task: Tensor
    tokens: Tensor
    latents: Tensor | None
    usable: np.ndarray

    @classmethod
    def build(
        cls,
        frames: Frames,
        tokenizer: Tokenizer,
        policy: Policy,
        notice: NoticeCallback = print_notice,
    ) -> "Demonstrations":
        """Encodes the chunk that starts at every frame once.

        notice: is told how many frames cannot be used; raises BadActions where none can
        """
        task = torch.tensor([policy.task_index(text) for text in frames.tasks])
        usable = _finite(frames, notice)
        parts: list[Encoded] = []
        failed: list[tuple[int, str]] = []
        for rows in np.array_split(np.flatnonzero(usable), -(-len(frames) // ENCODE_BATCH)):
            found, lost = _encode(frames, tokenizer, rows)
            parts, failed = parts + found, failed + lost
        reason = failed[0][1] if failed else "every episode holds NaN or inf"
        if not parts:
            raise BadActions(f"no frame can be learned from: {reason}")
        if failed:
            usable[[row for row, _ in failed]] = False
            notice(f"{len(failed)} of {len(frames)} frames have no tokens, left out: {reason}")
        longest = max(part.tokens.shape[1] for part in parts)
        tokens = torch.full((len(frames), longest), PAD)
        first = parts[0].latents
        latents = None if first is None else torch.zeros(len(frames), *first.shape[1:])
        for part in parts:
            tokens[part.rows, : part.tokens.shape[1]] = part.tokens
            if latents is not None:
                latents[part.rows] = part.latents
        return cls(frames, tokenizer, task, tokens, latents, usable)

    def inputs(self, rows: np.ndarray, n_obs_steps: int, images: bool = True) -> Inputs:
        """Observations of frames `[B]`, with or without their images."""
        history = self.frames.history_indices(rows, n_obs_steps)  # [B, K]
        stacks = self.frames.images if images else {}
        seen = {camera: torch.from_numpy(stack[history]) for camera, stack in stacks.items()}
        proprio = torch.from_numpy(self.frames.proprio[history])
        return Inputs(seen, proprio, self.task[self.frames.episode[rows]])

    def targets(self, rows: np.ndarray, future_stride: int) -> Targets:
        """What is learned from frames `[B]`; `future_stride`: spacing of the later actions."""
        latents = None if self.latents is None else self.latents[rows]
        chunk = self._chunk(self.frames, self.tokenizer, rows)
        later = self._chunk(self.frames, self.tokenizer, rows, future_stride)
        return Targets(chunk, self.tokens[rows], latents, later)

    @staticmethod
    def _physical(frames: Frames, tokenizer: Tokenizer, rows: np.ndarray, stride: int = 1):
        ahead = frames.future_indices(rows, tokenizer.config.horizon, stride)  # [B, H]
        return frames.actions[ahead], frames.proprio[rows]

    @classmethod
    def _chunk(
        cls, frames: Frames, tokenizer: Tokenizer, rows: np.ndarray, stride: int = 1
    ) -> Tensor:
        return tokenizer.normalize(*cls._physical(frames, tokenizer, rows, stride))


class Encoded(NamedTuple):
    """Frames `[R]`, tokens int64 `[R, L]` of their chunks, latents `[R, L, E]` or None."""

    rows: np.ndarray
    tokens: Tensor
    latents: Tensor | None


def _finite(frames: Frames, notice: NoticeCallback) -> np.ndarray:
    """Bool `[N]`: frames of episodes that hold neither NaN nor inf."""
    finite = np.isfinite(frames.actions).all(1) & np.isfinite(frames.proprio).all(1)
    spoilt = np.unique(frames.episode[~finite])
    if len(spoilt):
        listed = ", ".join(map(str, spoilt[:10])) + (", ..." if len(spoilt) > 10 else "")
        notice(f"{len(spoilt)} episodes hold NaN or inf and are left out: {listed}")
    return ~np.isin(frames.episode, spoilt)


def _encode(frames: Frames, tokenizer: Tokenizer, rows: np.ndarray) -> tuple[list[Encoded], list]:
    """Tokens of the chunks that start at frames `[R]`, and (frame, reason) of those without."""
    if not len(rows):
        return [], []
    try:
        tokens = tokenizer.encode(*Demonstrations._physical(frames, tokenizer, rows))
    except (BadActions, BadTokens) as error:
        if len(rows) == 1:
            return [], [(int(rows[0]), str(error))]
        halves = [_encode(frames, tokenizer, half) for half in np.array_split(rows, 2)]
        return halves[0][0] + halves[1][0], halves[0][1] + halves[1][1]
    with torch.no_grad():
        naming = tokenizer.residual_targets(Demonstrations._chunk(frames, tokenizer, rows))
        latents = None if naming is None else naming(tokens)
    return [Encoded(rows, tokens, latents)], []


class PolicyTrainer:
    """Minimises the policy's losses over the training episodes; judges on the held-out ones."""

    def __init__(
        self,
        policy: Policy,
        demonstrations: Demonstrations,
        config: PolicyTrainingConfig,
        out: Path,
        sources: Sequence[Mapping[str, Any]] = (),
    ):
        """sources: where the data came from, for run.json (`nac_ros.datasets.convert.describe`)"""
        self.policy, self.data, self.config, self.out = policy, demonstrations, config, out
        self._sources = sources
        frames, horizon = demonstrations.frames, demonstrations.tokenizer.config.horizon
        split = split_frames(frames, config.train_on, horizon)
        self._train, self._held_out = (rows[demonstrations.usable[rows]] for rows in split)
        if not len(self._train) or not len(self._held_out):
            raise DatasetError(
                f"of the frames that can be used {len(self._train)} are left to train on and "
                f"{len(self._held_out)} held out; record more episodes, or take another tokenizer"
            )
        self._odds = torch.from_numpy(
            sampling_weights(frames, self._train, config.intervention_weight)
        )
        policy.fit_state(demonstrations.frames.proprio[self._train])
        if isinstance(policy, ArPolicy):
            latents = demonstrations.latents
            kept = None if latents is None else latents[self._train]
            policy.fit_tokens(kept, demonstrations.tokens[self._train])
            some = np.random.default_rng(config.seed).choice(self._train, SCALED_FRAMES)
            targets = demonstrations.targets(some, config.future_stride)
            policy.fit_regression(targets.chunk, targets.future_actions)
        self._optimizer = _optimizer(policy, config)
        self._averaged = loop.AveragedWeights(policy, config.ema_decay)
        self._step = 0
        self._seen: Tensor | None = None

    def run(self, resume: bool = False) -> dict[str, Any]:
        """Trains to the end and saves the averaged weights in `out`/policy."""
        loop.seed_everything(self.config.seed)
        self._identity = self._identify()
        if resume:
            loop.restore_checkpoint(self.out, self._identity, self._apply)
        loop.prepare_folder(self.out, configs.to_plain(self.config), resume, self._sources)
        if self.config.cached_views:
            self._seen = self._see_all()
        log = loop.TrainingLog(self.out / "log.jsonl")
        running: dict[str, float] = {}
        figures: dict[str, float] = {}
        while self._step < self.config.steps:
            for key, value in self._train_step().items():
                running[key] = 0.98 * running.get(key, value) + 0.02 * value
            self._step += 1
            if self._step % self.config.log_every == 0 or self._step == self.config.steps:
                figures = self.held_out()
                log.write(self._step, {**running, **figures})
                self._save()
        return figures or self.held_out()

    def held_out(self) -> dict[str, float]:
        """Normalised L1 of the decoded tokens and of the plan on held-out frames."""
        live = {key: value.clone() for key, value in self.policy.state_dict().items()}
        self.policy.load_state_dict(self._averaged.state)
        self.policy.eval()
        rows = np.random.default_rng(0).choice(self._held_out, HELD_OUT_FRAMES)
        inputs = self.data.inputs(rows, self.policy.config.n_obs_steps)
        targets = self.data.targets(rows, self.config.future_stride)
        tokens = self.policy.sample_tokens(inputs, torch.Generator().manual_seed(0)).tokens
        figures = {
            "l1_tokens": self._l1(tokens, rows),
            "token_accuracy": self._accuracy(tokens, targets),
        }
        if isinstance(self.policy, ArPolicy):
            figures["l1_plan"] = float(
                (self.policy.regress_chunk(inputs) - targets.chunk).abs().mean()
            )
        self.policy.load_state_dict(live)
        return figures

    def _l1(self, tokens: Tensor, rows: np.ndarray) -> float:
        tokenizer, frames = self.data.tokenizer, self.data.frames
        reference = frames.proprio[rows]
        decoded = tokenizer.normalize(tokenizer.decode(tokens, reference), reference)
        return float((decoded - Demonstrations._chunk(frames, tokenizer, rows)).abs().mean())

    @staticmethod
    def _accuracy(tokens: Tensor, targets: Targets) -> float:
        length = min(tokens.shape[1], targets.tokens.shape[1])
        wanted = targets.tokens[:, :length]
        return float((tokens[:, :length] == wanted)[wanted != PAD].float().mean())

    def _train_step(self) -> dict[str, float]:
        self._set_rates()
        self.policy.train()
        rows = self._train[self._drawn().numpy()]
        inputs, targets = self._inputs(rows), self.data.targets(rows, self.config.future_stride)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bfloat16):
            losses = self.policy.losses(inputs, targets)
        loop.gradient_step(
            self._optimizer, torch.stack(list(losses.values())).sum(), self.config.gradient_clip
        )
        self._averaged.update(self.policy, self._step)
        return {key: float(value.detach()) for key, value in losses.items()}

    def _drawn(self) -> Tensor:
        """Places `[B]` among the frames to train on."""
        if (self._odds == 1).all():
            return torch.randint(len(self._train), (self.config.batch,))
        return torch.multinomial(self._odds, self.config.batch, replacement=True)

    def _inputs(self, rows: np.ndarray) -> Inputs:
        """Augmented observations of frames `[B]`."""
        if self._seen is None:
            inputs = self._augment(self.data.inputs(rows, self.policy.config.n_obs_steps))
        else:
            inputs = self.data.inputs(rows, self.policy.config.n_obs_steps, images=False)
            view = torch.randint(len(self._seen), (len(rows),))
            inputs = inputs._replace(image_features=self._seen[view, self._place[rows]])
        offset = torch.randn(len(inputs.task), 1, inputs.proprio.shape[-1])
        proprio = inputs.proprio + self.config.state_noise * offset * self.policy.state_std
        return inputs._replace(proprio=proprio)

    def _augment(self, inputs: Inputs) -> Inputs:
        config = self.config
        images = {
            camera: jitter_colours(
                random_shift(frames, config.shift), config.brightness, config.contrast
            )
            for camera, frames in inputs.images.items()
        }
        return inputs._replace(images=images)

    @torch.no_grad()
    def _see_all(self) -> Tensor:
        """Features of all training frames in `cached_views` augmentations, float16
        `[V, N, cameras, E]`; the vision encoder no longer learns."""
        for parameter in self.policy.vision_parameters():
            parameter.requires_grad_(False)
        self.policy.eval()
        self._place = np.zeros(len(self.data.frames), np.int64)
        self._place[self._train] = np.arange(len(self._train))
        with torch.random.fork_rng(
            devices=[]
        ):  # a resumed run draws as one that was never stopped
            torch.manual_seed(self.config.seed)
            return torch.stack([self._view() for _ in range(self.config.cached_views)])

    def _view(self) -> Tensor:
        parts = []
        for rows in np.array_split(self._train, -(-len(self._train) // SEE_BATCH)):
            inputs = self._augment(self.data.inputs(rows, self.policy.config.n_obs_steps))
            with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bfloat16):
                parts.append(self.policy.encode_images(inputs).half())
        return torch.cat(parts)

    def _set_rates(self) -> None:
        factor = loop.cosine_rate(self._step, self.config.steps, self.config.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * factor

    def _save(self) -> None:
        live = {key: value.clone() for key, value in self.policy.state_dict().items()}
        state = {
            "step": self._step,
            "policy": live,
            "averaged": self._averaged.state,
            "optimizer": self._optimizer.state_dict(),
        }
        loop.save_checkpoint(self.out, state, self._identity)
        self.policy.load_state_dict(self._averaged.state)
        self.policy.save_pretrained(self.out / "policy")
        self.policy.load_state_dict(live)

    def _apply(self, state: dict[str, Any]) -> None:
        """Takes over a checkpoint; raises one of `loop.DAMAGE` where it does not fit."""
        self.policy.load_state_dict(state["averaged"])  # only if it fits may it be used
        self.policy.load_state_dict(state["policy"])
        self._averaged.state = state["averaged"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._step = int(state["step"])

    def _identify(self) -> dict[str, str]:
        """What the run depends on and must be the same when it is resumed."""
        policy, tokenizer = self.policy, self.data.tokenizer
        weights = [value.detach().cpu().numpy() for value in tokenizer.state_dict().values()]
        more = json.dumps([tokenizer.name, configs.to_plain(tokenizer.config)], sort_keys=True)
        return loop.identity_of(
            configs.to_plain(self.config),
            policy=f"{policy.name} ({policy.preset})",
            model=configs.to_plain(policy.config),
            tokenizer=digest_of(weights, [more]),
            data=self.data.frames.digest(),
        )


def _optimizer(policy: Policy, config: PolicyTrainingConfig) -> torch.optim.AdamW:
    vision = {id(parameter) for parameter in policy.vision_parameters()}
    rest = [p for p in policy.parameters() if id(p) not in vision]
    groups = [
        {"params": policy.vision_parameters(), "peak": config.vision_learning_rate},
        {"params": rest, "peak": config.learning_rate},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
