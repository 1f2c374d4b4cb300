"""Resumable behavioural cloning of a policy from demonstrations."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nac_ros.core import config as configs
from nac_ros.core import files
from nac_ros.core.config import check_fields, number_field
from nac_ros.core.device import POLICY_TRAINING_PRECISION, ComputeDevice
from nac_ros.core.errors import BadActions, BadTokens, ConfigError, DatasetError
from nac_ros.core.provenance import digest_of
from nac_ros.datasets.action_chunks import NoticeCallback, print_notice
from nac_ros.datasets.frames import Frames
from nac_ros.datasets.interventions import TrainOn, sampling_weights, split_frames
from nac_ros.policies.base import Policy, Targets
from nac_ros.policies.observation_encoder import Inputs
from nac_ros.training import loop
from nac_ros.training.image_augmentation import jitter_colours, random_shift

HELD_OUT_FRAMES = 512  # of one evaluation
PREPARE_BATCH = 2048  # chunks
FEATURE_BATCH = 256  # frames
DEVICE = ComputeDevice(precision=POLICY_TRAINING_PRECISION)
FIT_FRAMES = 8192  # drawn for `Policy.fit_targets`


@dataclass(frozen=True, kw_only=True)
class PolicyTrainingConfig:
    """How a policy is trained.

    ema_decay: of the averaged weights, which are the ones that are evaluated and saved
    shift: largest translation of an image [pixels]; brightness, contrast: largest relative change
    state_noise: offset of the joint state, the same in all observed steps [standard deviations];
        relative actions are relative to the state with its offset
    cached_views: 0 = the image encoders are trained; else they are frozen, and their features of
        this many augmentations of each frame are computed once, which makes the steps far cheaper
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
    cached_views: int = 0
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
    """Frames as inputs and targets of a policy.

    task: index of each episode's task, int64 `[episodes]`
    """

    frames: Frames
    policy: Policy
    task: Tensor

    @classmethod
    def of(cls, frames: Frames, policy: Policy) -> "Demonstrations":
        """Raises UnknownName for a task that the policy does not have, and DatasetError where the
        frames lack what the policy observes."""
        size = policy.config.image_size
        wanted, found = policy.config.environment_state_dim, frames.environment_state
        if wanted and (found is None or found.shape[1] != wanted):
            has = "none" if found is None else str(found.shape[1])
            raise DatasetError(
                f"the policy observes an environment state of {wanted} numbers, the frames have "
                f"{has}; set environment_state_dim to 0, or to that of the data"
            )
        for camera in policy.config.cameras:
            if (found := frames.images[camera].shape[1:3]) != (size, size):
                raise DatasetError(
                    f"images of camera '{camera}' have {found[0]} x {found[1]} pixels, the policy "
                    f"takes {size} x {size}; load the frames with image_size {size}"
                )
        task = torch.tensor([policy.task_index(text) for text in frames.tasks])
        return cls(frames, policy, task)

    def inputs(self, rows: np.ndarray, images: bool = True) -> Inputs:
        """Observations of frames `[B]`, with or without their images."""
        config, frames = self.policy.config, self.frames
        history = frames.history_indices(rows, config.n_obs_steps)  # [B, K]
        stacks = {name: frames.images[name] for name in config.cameras} if images else {}
        pixels = {camera: self._tensor(stack[history]) for camera, stack in stacks.items()}
        task = self.task[frames.episode[rows]].to(self.policy.device)
        commands = None
        if config.n_past_commands:
            commands = self._tensor(frames.past_commands(rows, config.n_past_commands))
        proprio = self._tensor(frames.proprio[history])
        environment = None
        if config.environment_state_dim:
            environment = self._tensor(frames.environment_state[history])
        return Inputs(pixels, proprio, task, None, environment, commands)

    def targets(self, rows: np.ndarray, references: Tensor | None = None) -> Targets:
        """Training targets of frames `[B]`; references: joint states `[B, D]` [rad or m], by
        default the recorded ones."""
        if references is None:
            references = self._tensor(self.frames.proprio[rows])
        actions = self._tensor(self.actions(rows, self.policy.target_offsets))
        return self.policy.prepare_targets(actions, references)

    def actions(self, rows: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Actions `offsets` `[M]` steps after frames `[B]`, `[B, M, D]`."""
        return self.frames.actions[self.frames.indices_after(rows, offsets)]

    def usable_rows(self, rows: np.ndarray, notice: NoticeCallback) -> np.ndarray:
        """The frames `[B]` whose targets the policy can represent, in any order.

        notice: called with how many cannot be used, and why. Raises BadActions if none can.
        """
        usable = list[np.ndarray]()
        failed: dict[int, str] = {}  # frame -> reason
        pending = np.array_split(rows, -(-len(rows) // PREPARE_BATCH))
        while pending:
            part = pending.pop()
            try:
                self.targets(part)
                usable.append(part)
            except (BadActions, BadTokens) as error:
                if len(part) == 1:
                    failed[int(part[0])] = str(error)
                else:  # halve the batch until the failing chunks are alone
                    pending += np.array_split(part, 2)
        if failed and not usable:
            raise BadActions(f"no frame can be used for training: {failed[min(failed)]}")
        if failed:
            reason = failed[min(failed)]
            notice(f"{len(failed)} of {len(rows)} frames have no targets, left out: {reason}")
        return np.concatenate(usable)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.policy.device)


def _finite_frames(frames: Frames, notice: NoticeCallback) -> np.ndarray:
    """Bool `[N]`: frames of episodes without NaN and inf."""
    finite = np.isfinite(frames.actions).all(1) & np.isfinite(frames.proprio).all(1)
    skipped = np.unique(frames.episode[~finite])
    if len(skipped):
        listed = ", ".join(map(str, skipped[:10])) + (", ..." if len(skipped) > 10 else "")
        notice(f"{len(skipped)} episodes hold NaN or inf and are left out: {listed}")
    return ~np.isin(frames.episode, skipped)


class PolicyTrainer:
    """Minimizes the policy's losses over the training episodes; evaluates on held-out ones."""

    def __init__(
        self,
        policy: Policy,
        frames: Frames,
        config: PolicyTrainingConfig,
        out: Path,
        sources: Sequence[Mapping[str, Any]] = (),
        notice: NoticeCallback = print_notice,
        features_dir: Path | None = None,
        device: ComputeDevice = DEVICE,
    ):
        """sources: origin of the data, for run.json (`nac_ros.datasets.convert.describe`)
        notice: called with each remark on the data
        features_dir: folder where runs with the same image encoders, frames and augmentation
            share the features of `cached_views`
        device: to which the policy is moved

        Raises DatasetError or BadActions if too few frames can be used.
        """
        self.policy, self.config, self.out = policy.to(device.name), config, out
        self.data, self._sources, self.device = Demonstrations.of(frames, policy), sources, device
        self._features_dir = features_dir
        finite = _finite_frames(frames, notice)
        split = split_frames(frames, config.train_on, policy.chunk_spec.horizon)
        self._train, self._held_out = (rows[finite[rows]] for rows in split)
        if not finite.any():
            raise BadActions("no frame can be used for training: every episode holds NaN or inf")
        self._check_split()
        self._fit_statistics()
        usable = self.data.usable_rows(np.concatenate([self._train, self._held_out]), notice)
        self._train = np.intersect1d(self._train, usable)
        self._held_out = np.intersect1d(self._held_out, usable)
        self._check_split()
        self._weights = torch.from_numpy(
            sampling_weights(frames, self._train, config.intervention_weight)
        )
        self._draws_uniformly = bool((self._weights == 1).all())
        rows = np.random.default_rng(config.seed).choice(self._train, FIT_FRAMES)
        policy.fit_targets(self.data.targets(rows))
        self._optimizer, self._scaler = _make_optimizer(policy, config), device.gradient_scaler()
        self._averaged = loop.AveragedWeights(policy, config.ema_decay, policy.is_stored_elsewhere)
        self._step = 0
        self._features: Tensor | None = None  # cached, of the training frames

    def run(self, resume: bool = False) -> dict[str, Any]:
        """Trains, saves the averaged weights in `out`/policy and returns held-out metrics."""
        config, self._identity = self.config, self._identify()
        loop.start_run(
            self.out, config, self._identity, resume, self._restore, self._sources, self.device
        )
        if config.cached_views:
            self._features = self._cache_features()
        log = loop.TrainingLog(self.out / "log.jsonl")
        running: dict[str, Tensor] = {}  # moving averages of the losses, on the device
        metrics: dict[str, float] = {}
        while self._step < config.steps:
            for key, value in self._train_step().items():
                running[key] = 0.98 * running.get(key, value) + 0.02 * value
            self._step += 1
            if self._step % config.log_every == 0 or self._step == config.steps:
                metrics = self.evaluate()
                means = {key: float(value) for key, value in running.items()}
                log.write(self._step, {**means, **metrics})
                self._save()
        return metrics or self.evaluate()

    def evaluate(self) -> dict[str, float]:
        """Held-out metrics of the averaged weights (`Policy.evaluate`)."""
        rows = np.random.default_rng(0).choice(self._held_out, HELD_OUT_FRAMES)
        inputs, targets = self.data.inputs(rows), self.data.targets(rows)
        with self._averaged.applied_to(self.policy):
            self.policy.eval()
            return self.policy.evaluate(inputs, targets, self.device.generator(0))

    def _check_split(self) -> None:
        if not len(self._train) or not len(self._held_out):
            raise DatasetError(
                f"of the usable frames {len(self._train)} are for training and "
                f"{len(self._held_out)} held out; record more episodes"
            )

    def _fit_statistics(self) -> None:
        """Sets the policy's statistics of states and actions from the training frames."""
        policy, frames, rows = self.policy, self.data.frames, self._train
        observed = policy.config.environment_state_dim > 0
        policy.fit_state(
            frames.proprio[rows], frames.environment_state[rows] if observed else None
        )
        chunks = self.data.actions(rows, np.arange(policy.chunk_spec.horizon))
        policy.fit_actions(chunks, frames.proprio[rows])

    def _train_step(self) -> dict[str, Tensor]:
        config = self.config
        factor = loop.cosine_rate(self._step, config.steps, config.warmup)
        loop.set_learning_rates(factor, self._optimizer)
        self.policy.train()
        inputs, targets = self._batch(self._train[self._draw().numpy()])
        with self.device.autocast():
            losses = self.policy.loss(inputs, targets)
        total = torch.stack(list(losses.values())).sum()
        loop.gradient_step(self._optimizer, total, config.gradient_clip, self._scaler)
        self._averaged.update(self.policy, self._step)
        return {key: value.detach().double() for key, value in losses.items()}

    def _draw(self) -> Tensor:
        """Indices `[B]` into the training frames, which are in the main memory."""
        if self._draws_uniformly:
            return torch.randint(len(self._train), (self.config.batch,), device="cpu")
        return torch.multinomial(self._weights, self.config.batch, replacement=True)

    def _batch(self, rows: np.ndarray) -> tuple[Inputs, Targets]:
        """Augmented inputs and targets of frames `[B]`.

        The joint states get an offset, and the targets are relative to the state with its offset.
        A tokenizer may be unable to encode such a chunk; the batch then goes without offsets.
        """
        inputs = self._augmented_images(rows)
        shape = (len(rows), 1, inputs.proprio.shape[-1])
        offset = torch.randn(shape, device=self.policy.device)
        noisy = inputs.proprio + self.config.state_noise * offset * self.policy.state_std
        try:
            return inputs._replace(proprio=noisy), self.data.targets(rows, noisy[:, -1])
        except (BadActions, BadTokens):
            return inputs, self.data.targets(rows)

    def _augmented_images(self, rows: np.ndarray) -> Inputs:
        """Observations of frames `[B]` with augmented images, or cached features of some."""
        if self._features is None:
            return self._augment_images(self.data.inputs(rows))
        view = torch.randint(len(self._features), (len(rows),), device="cpu")
        features = self._features[view, self._feature_index[rows]]
        inputs = self.data.inputs(rows, images=False)
        return inputs._replace(image_features=features.to(self.policy.device))

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
        """Freezes the image encoders and gives their features of all training frames.

        float16 `[V, N, cameras, E]`, V = `cached_views` augmentations
        """
        for parameter in self.policy.vision_parameters():
            parameter.requires_grad_(False)
        self.policy.eval()
        self._feature_index = np.zeros(len(self.data.frames), np.int64)  # by frame
        self._feature_index[self._train] = np.arange(len(self._train))
        file = None
        if self._features_dir is not None:
            file = self._features_dir / f"{self._features_digest()[:16]}.npy"
            if file.is_file():
                return torch.from_numpy(np.load(file))
        cuda = [self.policy.device] if self.device.kind == "cuda" else []
        with torch.random.fork_rng(cuda):  # a resumed run draws the same augmentations
            torch.manual_seed(self.config.seed)
            views = [self._view_features() for _ in range(self.config.cached_views)]
            features = torch.stack(views)
        if file is not None:
            files.replace_atomically(file, lambda path: _write_array(path, features.numpy()))
        return features

    def _features_digest(self) -> str:
        """Hash of everything that the cached features depend on."""
        names = ("cached_views", "shift", "brightness", "contrast", "seed")
        config, policy = configs.to_plain(self.config), configs.to_plain(self.policy.config)
        observed = {key: policy[key] for key in ("cameras", "n_obs_steps", "vision")}
        settings = [{name: config[name] for name in names}, observed]
        settings += [self.device.kind, self.device.precision]
        weights = [p.detach().cpu().numpy() for p in self.policy.vision_parameters()]
        texts = [json.dumps(settings, sort_keys=True), self.data.frames.digest()]
        return digest_of([*weights, self._train], texts)

    def _view_features(self) -> Tensor:
        """Features of one augmentation of all training frames, `[N, cameras, E]`."""
        parts = []
        for rows in np.array_split(self._train, -(-len(self._train) // FEATURE_BATCH)):
            inputs = self._augment_images(self.data.inputs(rows))
            with self.device.autocast():
                parts.append(self.policy.encode_images(inputs).half().cpu())
        return torch.cat(parts)

    def _save(self) -> None:
        state = {
            "step": self._step,
            "policy": self.policy.own_state(),
            "averaged": self._averaged.state,
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        loop.save_checkpoint(self.out, state, self._identity, self.device)
        with self._averaged.applied_to(self.policy):
            self.policy.save_pretrained(self.out / "policy")

    def _restore(self, state: dict[str, Any]) -> None:
        """Applies a checkpoint; raises if it does not fit."""
        for key in ("averaged", "policy"):  # both must fit
            loop.load_partly(self.policy, state[key], self.policy.is_stored_elsewhere)
        self._averaged.load(state["averaged"])
        self._scaler.load_state_dict(state["scaler"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step = int(state["step"])

    def _identify(self) -> dict[str, str]:
        policy = self.policy
        return loop.identity_of(
            self.config,
            policy=f"{policy.name} ({policy.preset})",
            model=configs.to_plain(policy.config),
            tokenizer=_digest_of_tokenizer(policy),
            data=self.data.frames.digest(),
            device=self.device.kind,
            precision=self.device.precision,
        )


def _write_array(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def _digest_of_tokenizer(policy: Policy) -> str:
    """Hash of a policy's tokenizer, its config and weights; `none` without."""
    tokenizer = getattr(policy, "tokenizer", None)
    if tokenizer is None:
        return "none"
    weights = [value.detach().cpu().numpy() for value in tokenizer.state_dict().values()]
    more = json.dumps([tokenizer.name, configs.to_plain(tokenizer.config)], sort_keys=True)
    return digest_of(weights, [more])


def _make_optimizer(policy: Policy, config: PolicyTrainingConfig) -> torch.optim.AdamW:
    vision = {id(parameter) for parameter in policy.vision_parameters()}
    trained = [p for p in policy.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if id(p) in vision],
            "peak": config.vision_learning_rate,
        },
        {"params": [p for p in trained if id(p) not in vision], "peak": config.learning_rate},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
