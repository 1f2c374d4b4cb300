"""Behavioural cloning of a token policy from demonstrations with images, resumable."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nac_ros import config as configs
from nac_ros.data.frames import Frames
from nac_ros.errors import ConfigError, DatasetError
from nac_ros.policies.ar import ArPolicy
from nac_ros.policies.base import Inputs, Policy, Targets
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.training import loop
from nac_ros.training.augment import jitter_colours, random_shift

HELD_OUT_FRAMES = 512
ENCODE_BATCH = 2048


@dataclass(frozen=True, kw_only=True)
class PolicyTraining:
    """How a policy is trained.

    shift: pixels an image may be moved; brightness, contrast: largest relative change
    state_noise: joint offset [normalised by its spread] common to all observed steps
    averaging: decay of the averaged weights, which are what is saved
    """

    steps: int = 12_000
    batch: int = 64
    learning_rate: float = 6e-4
    vision_learning_rate: float = 6e-4
    weight_decay: float = 1e-2
    warmup: int = 200
    averaging: float = 0.999
    shift: int = 4
    brightness: float = 0.15
    contrast: float = 0.15
    state_noise: float = 0.02
    bfloat16: bool = True
    gradient_clip: float = 1.0
    log_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.log_every) < 1:
            raise ConfigError("steps, batch and log_every must be at least 1")
        if not 0 <= self.averaging < 1:
            raise ConfigError(f"averaging {self.averaging} must lie in 0 .. 1")


@dataclass(frozen=True)
class Demonstrations:
    """Frames with targets: chunk references, tokens `[N, L]`, latents `[N, L, E]` or None."""

    frames: Frames
    tokenizer: Tokenizer
    task: Tensor
    tokens: Tensor
    latents: Tensor | None

    @classmethod
    def build(cls, frames: Frames, tokenizer: Tokenizer, policy: Policy) -> "Demonstrations":
        """Encodes the chunk that starts at every frame once."""
        task = torch.tensor([policy.task_index(text) for text in frames.tasks])
        tokens, latents = [], []
        for start in range(0, len(frames), ENCODE_BATCH):
            rows = np.arange(start, min(start + ENCODE_BATCH, len(frames)))
            chunk = cls._chunk(frames, tokenizer, rows)
            with torch.no_grad():
                latent = tokenizer.latents(chunk)
            tokens.append(tokenizer.encode(*cls._physical(frames, tokenizer, rows)))
            latents.append(latent)
        joined = None if latents[0] is None else torch.cat(latents)
        return cls(frames, tokenizer, task, torch.cat(tokens), joined)

    def batch(self, rows: np.ndarray, n_obs_steps: int) -> tuple[Inputs, Targets]:
        """Observations and targets of frames `[B]`."""
        history = self.frames.history(rows, n_obs_steps)  # [B, K]
        images = {
            camera: torch.from_numpy(stack[history])
            for camera, stack in self.frames.images.items()
        }
        proprio = torch.from_numpy(self.frames.proprio[history])
        inputs = Inputs(images, proprio, self.task[self.frames.episode[rows]])
        latents = None if self.latents is None else self.latents[rows]
        chunk = self._chunk(self.frames, self.tokenizer, rows)
        return inputs, Targets(chunk, self.tokens[rows], latents)

    def rows(self, held_out: bool) -> np.ndarray:
        """Frames of the held-out or of the training episodes, int64."""
        return np.flatnonzero(self.frames.held_out[self.frames.episode] == held_out)

    @staticmethod
    def _physical(frames: Frames, tokenizer: Tokenizer, rows: np.ndarray):
        actions = frames.actions[frames.future(rows, tokenizer.config.horizon)]  # [B, H, D]
        return actions, frames.proprio[rows]

    @classmethod
    def _chunk(cls, frames: Frames, tokenizer: Tokenizer, rows: np.ndarray) -> Tensor:
        return tokenizer.normalize(*cls._physical(frames, tokenizer, rows))


class PolicyTrainer:
    """Minimises the policy's losses over the training episodes; judges on the held-out ones."""

    def __init__(
        self, policy: Policy, demonstrations: Demonstrations, config: PolicyTraining, out: Path
    ):
        self.policy, self.data, self.config, self.out = policy, demonstrations, config, out
        self._train = demonstrations.rows(held_out=False)
        self._held_out = demonstrations.rows(held_out=True)
        if not len(self._train) or not len(self._held_out):
            raise DatasetError("training needs at least 5 episodes: every fifth is held out")
        policy.fit_state(demonstrations.frames.proprio[self._train])
        if isinstance(policy, ArPolicy):
            latents = demonstrations.latents
            kept = None if latents is None else latents[self._train]
            policy.fit_tokens(kept, demonstrations.tokens[self._train])
        self._optimizer = _optimizer(policy, config)
        self._averaged = loop.AveragedWeights(policy, config.averaging)
        self._step = 0

    def run(self, resume: bool = False) -> dict[str, Any]:
        """Trains to the end and saves the averaged weights in `out`/policy."""
        loop.seed_everything(self.config.seed)
        loop.prepare_folder(self.out, configs.to_plain(self.config), resume)
        if resume:
            self._restore()
        log = loop.Log(self.out / "log.jsonl")
        running: dict[str, float] = {}
        while self._step < self.config.steps:
            for key, value in self._train_step().items():
                running[key] = 0.98 * running.get(key, value) + 0.02 * value
            self._step += 1
            if self._step % self.config.log_every == 0 or self._step == self.config.steps:
                log.write(self._step, {**running, **self.held_out()})
                self._save()
        return self.held_out()

    def held_out(self) -> dict[str, float]:
        """Normalised L1 of the decoded tokens and of the plan on held-out frames."""
        live = {key: value.clone() for key, value in self.policy.state_dict().items()}
        self.policy.load_state_dict(self._averaged.state)
        self.policy.eval()
        rows = np.random.default_rng(0).choice(self._held_out, HELD_OUT_FRAMES)
        inputs, targets = self.data.batch(rows, self.policy.config.n_obs_steps)
        tokens = self.policy.act(inputs, torch.Generator().manual_seed(0))
        figures = {
            "l1_tokens": self._l1(tokens, rows),
            "token_accuracy": self._accuracy(tokens, targets),
        }
        if isinstance(self.policy, ArPolicy):
            figures["l1_plan"] = float((self.policy.plan(inputs) - targets.chunk).abs().mean())
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
        return float((tokens[:, :length] == targets.tokens[:, :length]).float().mean())

    def _train_step(self) -> dict[str, float]:
        self._set_rates()
        self.policy.train()
        rows = np.random.choice(self._train, self.config.batch)
        inputs, targets = self.data.batch(rows, self.policy.config.n_obs_steps)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bfloat16):
            losses = self.policy.losses(self._augment(inputs), targets)
        loop.gradient_step(
            self._optimizer, torch.stack(list(losses.values())).sum(), self.config.gradient_clip
        )
        self._averaged.update(self.policy, self._step)
        return {key: float(value.detach()) for key, value in losses.items()}

    def _augment(self, inputs: Inputs) -> Inputs:
        config = self.config
        images = {
            camera: jitter_colours(
                random_shift(frames, config.shift), config.brightness, config.contrast
            )
            for camera, frames in inputs.images.items()
        }
        offset = torch.randn(len(inputs.task), 1, inputs.proprio.shape[-1])
        proprio = inputs.proprio + config.state_noise * offset * self.policy.state_std
        return Inputs(images, proprio, inputs.task)

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
        loop.save_checkpoint(self.out, state)
        self.policy.load_state_dict(self._averaged.state)
        self.policy.save_pretrained(self.out / "policy")
        self.policy.load_state_dict(live)

    def _restore(self) -> None:
        state = loop.load_checkpoint(self.out)
        if state is None:
            return
        self._step = state["step"]
        self.policy.load_state_dict(state["policy"])
        self._averaged.state = state["averaged"]
        self._optimizer.load_state_dict(state["optimizer"])


def _optimizer(policy: Policy, config: PolicyTraining) -> torch.optim.AdamW:
    vision = {id(parameter) for parameter in policy.vision_parameters()}
    rest = [p for p in policy.parameters() if id(p) not in vision]
    groups = [
        {"params": policy.vision_parameters(), "peak": config.vision_learning_rate},
        {"params": rest, "peak": config.learning_rate},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
