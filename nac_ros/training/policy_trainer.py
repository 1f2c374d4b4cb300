"""Resumable behavioural cloning of a token policy from demonstrations with images."""

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

HELD_OUT_FRAMES = 512  # of one evaluation
ENCODE_BATCH = 2048  # chunks
FEATURE_BATCH = 256  # frames
SCALE_FRAMES = 8192  # drawn to scale the regression targets


@dataclass(frozen=True, kw_only=True)
class PolicyTrainingConfig:
    """How a policy is trained.

    ema_decay: of the averaged weights, which are the ones that are evaluated and saved
    shift: largest translation of an image [pixels]; brightness, contrast: largest relative change
    state_noise: offset of the joint state, the same in all observed steps [standard deviations]
    future_stride: spacing of the H `future_actions` that the policy learns to predict [steps]
    cached_views: 0 = the vision encoder is trained; else it is frozen, and its features of this
        many augmentations of each frame are computed once, which makes the steps far cheaper
    train_on: all frames, or those of interventions alone, of which every fifth is then held out
        (nac_ros.datasets.interventions)
    intervention_weight: how much more often a frame of an intervention is drawn than another
    """

    steps: int = number_field(12_000, 1)
    batch: int = number_field(64, 1)
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
    log_every: int = number_field(500, 1)
    train_on: TrainOn = "all"
    intervention_weight: float = number_field(1.0, 1e-3, 1e3)
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay must be at least 0 and below 1, got {self.ema_decay}")


@dataclass(frozen=True)
class Demonstrations:
    """Frames with the encoded chunk that starts at each of them.

    task: index of each episode's task; tokens: `[N, L]`; latents: `[N, L, E]` or None
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
        """Encodes the chunk at every frame; raises BadActions if none can be encoded.

        notice: called with how many frames cannot be used, and why
        """
        task = torch.tensor([policy.task_index(text) for text in frames.tasks])
        usable = _finite_frames(frames, notice)
        encoded: list[EncodedChunks] = []
        failed: dict[int, str] = {}  # frame -> reason
        rows = np.flatnonzero(usable)
        pending = np.array_split(rows, -(-len(frames) // ENCODE_BATCH))
        while pending:
            rows = pending.pop()
            try:
                encoded += [_encode(frames, tokenizer, rows)] if len(rows) else []
            except (BadActions, BadTokens) as error:
                if len(rows) == 1:
                    failed[int(rows[0])] = str(error)
                else:  # halve the batch until the failing chunks are alone
                    pending += np.array_split(rows, 2)
        reason = failed[min(failed)] if failed else "every episode holds NaN or inf"
        if not encoded:
            raise BadActions(f"no frame can be used for training: {reason}")
        if failed:
            usable[list(failed)] = False
            notice(f"{len(failed)} of {len(frames)} frames have no tokens, left out: {reason}")
        longest = max(part.tokens.shape[1] for part in encoded)
        tokens = torch.full((len(frames), longest), PAD)
        first = encoded[0].latents
        latents = None if first is None else torch.zeros(len(frames), *first.shape[1:])
        for part in encoded:
            tokens[part.rows, : part.tokens.shape[1]] = part.tokens
            if latents is not None:
                latents[part.rows] = part.latents
        return cls(frames, tokenizer, task, tokens, latents, usable)

    def inputs(self, rows: np.ndarray, n_obs_steps: int, images: bool = True) -> Inputs:
        """Observations of frames `[B]`, with or without their images."""
        history = self.frames.history_indices(rows, n_obs_steps)  # [B, K]
        stacks = self.frames.images if images else {}
        pixels = {camera: torch.from_numpy(stack[history]) for camera, stack in stacks.items()}
        proprio = torch.from_numpy(self.frames.proprio[history])
        return Inputs(pixels, proprio, self.task[self.frames.episode[rows]])

    def targets(self, rows: np.ndarray, future_stride: int) -> Targets:
        """Demonstrated actions of frames `[B]`; future_stride: spacing of the future actions."""
        latents = None if self.latents is None else self.latents[rows]
        future_actions = self.normalized_chunk(rows, future_stride)
        return Targets(self.normalized_chunk(rows), self.tokens[rows], latents, future_actions)

    def normalized_chunk(self, rows: np.ndarray, stride: int = 1) -> Tensor:
        """The actions after frames `[B]`, normalized, `[B, H, D]`."""
        return self.tokenizer.normalize(*_actions_ahead(self.frames, self.tokenizer, rows, stride))


class EncodedChunks(NamedTuple):
    """Frames `[R]`, tokens int64 `[R, L]` of their chunks, latents `[R, L, E]` or None."""

    rows: np.ndarray
    tokens: Tensor
    latents: Tensor | None


def _actions_ahead(
    frames: Frames, tokenizer: Tokenizer, rows: np.ndarray, stride: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """H actions after frames `[B]`, `stride` steps apart, and the joint states as reference."""
    ahead = frames.future_indices(rows, tokenizer.config.horizon, stride)  # [B, H]
    return frames.actions[ahead], frames.proprio[rows]


def _finite_frames(frames: Frames, notice: NoticeCallback) -> np.ndarray:
    """Bool `[N]`: frames of episodes without NaN and inf."""
    finite = np.isfinite(frames.actions).all(1) & np.isfinite(frames.proprio).all(1)
    skipped = np.unique(frames.episode[~finite])
    if len(skipped):
        listed = ", ".join(map(str, skipped[:10])) + (", ..." if len(skipped) > 10 else "")
        notice(f"{len(skipped)} episodes hold NaN or inf and are left out: {listed}")
    return ~np.isin(frames.episode, skipped)


def _encode(frames: Frames, tokenizer: Tokenizer, rows: np.ndarray) -> EncodedChunks:
    """Encodes the chunks at frames `[R]`; raises BadActions or BadTokens if one has no tokens."""
    normalized = tokenizer.normalize(*_actions_ahead(frames, tokenizer, rows))
    tokens = tokenizer.encode_normalized(normalized)
    with torch.no_grad():
        targets = tokenizer.residual_targets(normalized)
        return EncodedChunks(rows, tokens, None if targets is None else targets(tokens))


class PolicyTrainer:
    """Minimizes the policy's losses over the training episodes; evaluates on held-out ones."""

    def __init__(
        self,
        policy: Policy,
        demonstrations: Demonstrations,
        config: PolicyTrainingConfig,
        out: Path,
        sources: Sequence[Mapping[str, Any]] = (),
    ):
        """sources: origin of the data, for run.json (`nac_ros.datasets.convert.describe`)"""
        self.policy, self.data, self.config, self.out = policy, demonstrations, config, out
        self._sources = sources
        frames, horizon = demonstrations.frames, demonstrations.tokenizer.config.horizon
        split = split_frames(frames, config.train_on, horizon)
        self._train, self._held_out = (rows[demonstrations.usable[rows]] for rows in split)
        if not len(self._train) or not len(self._held_out):
            raise DatasetError(
                f"of the usable frames {len(self._train)} are for training and "
                f"{len(self._held_out)} held out; record more episodes, or use another tokenizer"
            )
        self._weights = torch.from_numpy(
            sampling_weights(frames, self._train, config.intervention_weight)
        )
        self._fit_policy()
        self._optimizer = _make_optimizer(policy, config)
        self._averaged = loop.AveragedWeights(policy, config.ema_decay)
        self._step = 0
        self._features: Tensor | None = None  # cached, of the training frames

    def run(self, resume: bool = False) -> dict[str, Any]:
        """Trains, saves the averaged weights in `out`/policy and returns held-out metrics."""
        config, self._identity = self.config, self._identify()
        loop.start_run(self.out, config, self._identity, resume, self._restore, self._sources)
        if config.cached_views:
            self._features = self._cache_features()
        log = loop.TrainingLog(self.out / "log.jsonl")
        running: dict[str, float] = {}  # moving averages of the losses
        metrics: dict[str, float] = {}
        while self._step < config.steps:
            for key, value in self._train_step().items():
                running[key] = 0.98 * running.get(key, value) + 0.02 * value
            self._step += 1
            if self._step % config.log_every == 0 or self._step == config.steps:
                metrics = self.evaluate()
                log.write(self._step, {**running, **metrics})
                self._save()
        return metrics or self.evaluate()

    def evaluate(self) -> dict[str, float]:
        """Normalized L1 of sampled tokens and regressed chunk, and token accuracy, held out."""
        data = self.data
        rows = np.random.default_rng(0).choice(self._held_out, HELD_OUT_FRAMES)
        inputs = data.inputs(rows, self.policy.config.n_obs_steps)
        targets = data.targets(rows, self.config.future_stride)
        with self._averaged.applied_to(self.policy):
            self.policy.eval()
            generator = torch.Generator().manual_seed(0)
            tokens = self.policy.sample_tokens(inputs, generator).tokens
            reference = data.frames.proprio[rows]
            decoded = data.tokenizer.decode(tokens, reference)
            chunk = data.tokenizer.normalize(decoded, reference)
            metrics = {
                "l1_tokens": float((chunk - targets.chunk).abs().mean()),
                "token_accuracy": self._accuracy(tokens, targets.tokens),
            }
            if isinstance(self.policy, ArPolicy):
                error = self.policy.regress_chunk(inputs) - targets.chunk
                metrics["l1_regression"] = float(error.abs().mean())
        return metrics

    def _fit_policy(self) -> None:
        """Sets the policy's statistics from the training frames."""
        policy, data = self.policy, self.data
        policy.fit_state(data.frames.proprio[self._train])
        if isinstance(policy, ArPolicy):
            latents = None if data.latents is None else data.latents[self._train]
            policy.fit_tokens(latents, data.tokens[self._train])
            rows = np.random.default_rng(self.config.seed).choice(self._train, SCALE_FRAMES)
            targets = data.targets(rows, self.config.future_stride)
            policy.fit_regression(targets.chunk, targets.future_actions)

    @staticmethod
    def _accuracy(tokens: Tensor, wanted: Tensor) -> float:
        length = min(tokens.shape[1], wanted.shape[1])
        equal = tokens[:, :length] == wanted[:, :length]
        return float(equal[wanted[:, :length] != PAD].float().mean())

    def _train_step(self) -> dict[str, float]:
        config = self.config
        factor = loop.cosine_rate(self._step, config.steps, config.warmup)
        loop.set_learning_rates(factor, self._optimizer)
        self.policy.train()
        rows = self._train[self._draw().numpy()]
        inputs, targets = (
            self._augmented_inputs(rows),
            self.data.targets(rows, config.future_stride),
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            losses = self.policy.losses(inputs, targets)
        total = torch.stack(list(losses.values())).sum()
        loop.gradient_step(self._optimizer, total, config.gradient_clip)
        self._averaged.update(self.policy, self._step)
        return {key: float(value.detach()) for key, value in losses.items()}

    def _draw(self) -> Tensor:
        """Indices `[B]` into the training frames."""
        if (self._weights == 1).all():
            return torch.randint(len(self._train), (self.config.batch,))
        return torch.multinomial(self._weights, self.config.batch, replacement=True)

    def _augmented_inputs(self, rows: np.ndarray) -> Inputs:
        """Observations of frames `[B]` with augmented images, or cached features, and states."""
        n_obs_steps = self.policy.config.n_obs_steps
        if self._features is None:
            inputs = self._augment_images(self.data.inputs(rows, n_obs_steps))
        else:
            inputs = self.data.inputs(rows, n_obs_steps, images=False)
            view = torch.randint(len(self._features), (len(rows),))
            features = self._features[view, self._feature_index[rows]]
            inputs = inputs._replace(image_features=features)
        offset = torch.randn(len(inputs.task), 1, inputs.proprio.shape[-1])
        proprio = inputs.proprio + self.config.state_noise * offset * self.policy.state_std
        return inputs._replace(proprio=proprio)

    def _augment_images(self, inputs: Inputs) -> Inputs:
        config = self.config
        images = {
            camera: jitter_colours(
                random_shift(frames, config.shift), config.brightness, config.contrast
            )
            for camera, frames in inputs.images.items()
        }
        return inputs._replace(images=images)

    @torch.no_grad()
    def _cache_features(self) -> Tensor:
        """Freezes the vision encoder and computes its features of all training frames.

        float16 `[V, N, cameras, E]`, V = `cached_views` augmentations
        """
        for parameter in self.policy.vision_parameters():
            parameter.requires_grad_(False)
        self.policy.eval()
        self._feature_index = np.zeros(len(self.data.frames), np.int64)  # by frame
        self._feature_index[self._train] = np.arange(len(self._train))
        with torch.random.fork_rng(devices=[]):  # a resumed run draws the same augmentations
            torch.manual_seed(self.config.seed)
            return torch.stack([self._view_features() for _ in range(self.config.cached_views)])

    def _view_features(self) -> Tensor:
        """Features of one augmentation of all training frames, `[N, cameras, E]`."""
        parts = []
        for rows in np.array_split(self._train, -(-len(self._train) // FEATURE_BATCH)):
            inputs = self._augment_images(self.data.inputs(rows, self.policy.config.n_obs_steps))
            with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bfloat16):
                parts.append(self.policy.encode_images(inputs).half())
        return torch.cat(parts)

    def _save(self) -> None:
        state = {
            "step": self._step,
            "policy": self.policy.state_dict(),
            "averaged": self._averaged.state,
            "optimizer": self._optimizer.state_dict(),
        }
        loop.save_checkpoint(self.out, state, self._identity)
        with self._averaged.applied_to(self.policy):
            self.policy.save_pretrained(self.out / "policy")

    def _restore(self, state: dict[str, Any]) -> None:
        """Applies a checkpoint; raises if it does not fit."""
        self.policy.load_state_dict(state["averaged"])  # checks that it fits
        self.policy.load_state_dict(state["policy"])
        self._averaged.state = state["averaged"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._step = int(state["step"])

    def _identify(self) -> dict[str, str]:
        policy, tokenizer = self.policy, self.data.tokenizer
        weights = [value.detach().cpu().numpy() for value in tokenizer.state_dict().values()]
        more = json.dumps([tokenizer.name, configs.to_plain(tokenizer.config)], sort_keys=True)
        return loop.identity_of(
            self.config,
            policy=f"{policy.name} ({policy.preset})",
            model=configs.to_plain(policy.config),
            tokenizer=digest_of(weights, [more]),
            data=self.data.frames.digest(),
        )


def _make_optimizer(policy: Policy, config: PolicyTrainingConfig) -> torch.optim.AdamW:
    vision = {id(parameter) for parameter in policy.vision_parameters()}
    rest = [p for p in policy.parameters() if id(p) not in vision]
    groups = [
        {"params": policy.vision_parameters(), "peak": config.vision_learning_rate},
        {"params": rest, "peak": config.learning_rate},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
