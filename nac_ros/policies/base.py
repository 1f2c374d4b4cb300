"""Interface of a policy: observations -> tokens of its tokenizer; loading and warm starts."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nac_ros.core import config as configs
from nac_ros.core.config import REQUIRED, check_fields, check_unique, number_field
from nac_ros.core.errors import BadObservation, BundleError, ConfigError, UnknownName
from nac_ros.core.registry import Registry
from nac_ros.core.types import Observation
from nac_ros.policies.sampling import Sampling, TokenSample
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.serialization import (
    WEIGHTS_FILE,
    check_sizes,
    find_class,
    load_model,
    load_weights,
    read_config,
    save_model,
)

POLICIES: Registry["Policy"] = Registry(
    "policy",
    "nac_ros.policies",
    helpers=("base", "codeword_head", "sampling", "transformer", "vision"),
)

MAX_IMAGE, MAX_OBS_STEPS = 4096, 100  # pixels of a side; observations


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Inputs and execution of any policy.

    cameras: names in order; image_size: side of the square images the network takes [pixels]
    tasks: task id -> prompt; an observation may name either
    n_obs_steps: observations of one input
    n_action_steps: executed steps of each chunk before a newer one replaces it
    """

    cameras: tuple[str, ...]
    tasks: dict[str, str]
    state_dim: int = number_field(REQUIRED, 1)
    image_size: int = number_field(96, 1, MAX_IMAGE)
    n_obs_steps: int = number_field(2, 1, MAX_OBS_STEPS)
    n_action_steps: int = number_field(16, 1)

    def __post_init__(self) -> None:
        if not self.cameras or not self.tasks:
            raise ConfigError("a policy needs at least one camera and one task")
        check_fields(self)
        check_sizes(self)
        check_unique("cameras", self.cameras)


class Inputs(NamedTuple):
    """A batch of observations.

    images: camera -> uint8 `[B, K, S, S, 3]`; may be empty where `image_features` are given
    proprio: joint states, float32 `[B, K, D]`
    task: task index, int64 `[B]`
    image_features: output of `Policy.encode_images` for these images, float `[B, cameras, E]`
    """

    images: dict[str, Tensor]
    proprio: Tensor
    task: Tensor
    image_features: Tensor | None = None


class Targets(NamedTuple):
    """Demonstrated actions of a batch.

    chunk: normalized actions `[B, H, D]`
    tokens: their tokens, int64 `[B, L]`
    latents: the vectors that the tokens quantize `[B, L, E]`; None without codewords
    future_actions: normalized actions at wider spacing that also cover the time after the chunk,
        `[B, H, D]`
    """

    chunk: Tensor
    tokens: Tensor
    latents: Tensor | None
    future_actions: Tensor


class Policy(nn.Module, ABC):
    """Predicts token sequences of its tokenizer from Inputs.

    token_prefixes: prefixes of the state_dict keys that depend on the tokenizer
    task_tables: state_dict keys with one row per task of the config
    """

    Config: ClassVar[type[PolicyConfig]] = PolicyConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    name: ClassVar[str]
    token_prefixes: ClassVar[tuple[str, ...]] = ()
    task_tables: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: PolicyConfig, preset: str):
        super().__init__()
        self.config, self.preset = config, preset
        self.register_buffer("state_mean", torch.zeros(config.state_dim))
        self.register_buffer("state_std", torch.ones(config.state_dim))

    @abstractmethod
    def losses(self, inputs: Inputs, targets: Targets) -> dict[str, Tensor]:
        """Named scalar losses; training minimizes their sum."""

    @abstractmethod
    def sample_tokens(
        self,
        inputs: Inputs,
        generator: torch.Generator | None = None,
        sampling: Sampling | None = None,
        forced: Tensor | None = None,
    ) -> TokenSample:
        """Samples complete token sequences of the tokenizer's grammar.

        sampling: None = that of the config
        forced: int64 `[B, L]`, the token that a position must have, or -1
        """

    @abstractmethod
    def token_log_probs(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        """Log-probabilities `[B, L, V]` of each next token along `tokens`, -inf where illegal."""

    @abstractmethod
    def encode_images(self, inputs: Inputs) -> Tensor:
        """Features `[B, cameras, E]` of the images; the policy uses nothing else of them."""

    @abstractmethod
    def vision_parameters(self) -> list[nn.Parameter]:
        """Parameters of the vision encoder, which may have their own learning rate."""

    @property
    def params_m(self) -> float:
        """Millions of parameters."""
        return sum(p.numel() for p in self.parameters()) / 1e6

    def fit_state(self, proprio: np.ndarray) -> None:
        """Sets mean and standard deviation of the joint states from `[N, D]`."""
        self.state_mean.copy_(torch.from_numpy(proprio.mean(0)))
        self.state_std.copy_(torch.from_numpy(proprio.std(0) + 1e-3))

    def task_index(self, task: str) -> int:
        """Index of a task id or prompt; raises UnknownName, which lists the known ones."""
        for index, (task_id, prompt) in enumerate(self.config.tasks.items()):
            if task in (task_id, prompt):
                return index
        known = "; ".join(f"{i} ('{p}')" for i, p in self.config.tasks.items())
        raise UnknownName(f"unknown task '{task}'; this policy learned: {known}")

    def inputs(self, observation: Observation) -> Inputs:
        """One observation as a batch of one; raises BadObservation where its shapes do not fit."""
        size, steps = self.config.image_size, self.config.n_obs_steps
        images = {}
        for camera in self.config.cameras:
            if camera not in observation.images:
                known = ", ".join(observation.images) or "none"
                raise BadObservation(
                    f"no image of camera '{camera}'; the observation has: {known}"
                )
            frames = observation.images[camera]
            if frames.shape != (steps, size, size, 3) or frames.dtype != np.uint8:
                raise BadObservation(
                    f"camera {camera}: the policy needs uint8 images of "
                    f"{(steps, size, size, 3)}, got {frames.dtype} of {frames.shape}"
                )
            images[camera] = torch.from_numpy(np.ascontiguousarray(frames))[None]
        wanted = (steps, self.config.state_dim)
        if observation.proprio.shape != wanted or not np.isfinite(observation.proprio).all():
            raise BadObservation(
                f"proprioception must be finite and {wanted}, got {observation.proprio.shape}"
            )
        proprio = torch.from_numpy(observation.proprio.astype(np.float32))[None]
        return Inputs(images, proprio, torch.tensor([self.task_index(observation.task)]))

    def save_pretrained(self, folder: Path | str, half: bool = False) -> None:
        """Writes config.json and model.safetensors; `half` stores matrices in float16."""
        save_model(self, folder, half)


def make_policy(name: str, preset: str, tokenizer: Tokenizer, **config: Any) -> Policy:
    """A new policy over `tokenizer`; `config` overrides the preset."""
    cls = POLICIES.get(name)
    if preset not in cls.presets:
        raise UnknownName(
            f"policy {name} has no preset '{preset}'; known are: {', '.join(cls.presets)}"
        )
    values = {**cls.presets[preset], **config}
    return cls(configs.build(cls.Config, values, f"policy {name}"), preset, tokenizer)


def warm_start(policy: Policy, folder: Path | str) -> int:
    """Copies every fitting tensor of the policy saved in `folder`; returns how many.

    With another tokenizer only tensors that do not depend on it are copied. Rows of tasks that
    both policies know are copied by task id.
    """
    path = Path(folder) / WEIGHTS_FILE
    if not path.is_file():
        raise BundleError(f"no policy to start from at {folder}: {path.name} is missing")
    own, saved = policy.state_dict(), load_weights(path)
    codewords = "codeword_head.codewords"
    same_tokenizer = (
        codewords in own and codewords in saved and torch.equal(own[codewords], saved[codewords])
    )
    skipped = () if same_tokenizer else policy.token_prefixes
    copied = {
        key: value
        for key, value in saved.items()
        if key in own and own[key].shape == value.shape and not key.startswith(skipped)
    }
    for key in set(policy.task_tables) & set(saved):
        copied[key] = _merge_task_rows(policy, own[key], saved[key], Path(folder))
    policy.load_state_dict(copied, strict=False)
    return len(copied)


def _merge_task_rows(policy: Policy, own: Tensor, saved: Tensor, folder: Path) -> Tensor:
    """`own` rows `[tasks, D]`, replaced where the policy saved in `folder` knows the task."""
    saved_tasks = list(read_config(folder, "policy").config.get("tasks", ()))
    rows = own.clone()
    for index, task in enumerate(policy.config.tasks):
        if task in saved_tasks and saved.shape[1:] == own.shape[1:]:
            rows[index] = saved[saved_tasks.index(task)]
    return rows


def load_policy(folder: Path | str, tokenizer: Tokenizer) -> Policy:
    """The policy saved in `folder`, over its `tokenizer`; raises BundleError."""
    saved = read_config(folder, "policy")
    cls = find_class(POLICIES, saved)

    def make(config: PolicyConfig) -> Policy:
        return cls(config, saved.preset, tokenizer)

    policy = load_model(saved, "policy", cls.Config, make)
    if not bool((policy.state_std > 0).all()):
        raise BundleError(
            f"{saved.folder / WEIGHTS_FILE}: state_std must be above 0; train or export it again"
        )
    return policy.eval()
