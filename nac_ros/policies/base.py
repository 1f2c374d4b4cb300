"""The seam every policy stands behind: observations -> a normalised chunk, with its tokens."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nac_ros.core import config as configs
from nac_ros.core.errors import BadObservation, BundleError, ConfigError, UnknownName, show_text
from nac_ros.core.registry import Registry
from nac_ros.core.types import Observation
from nac_ros.policies.sampling import Sampling, TokenSample
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.serialization import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    build_config,
    check_sizes,
    fill,
    limit_size,
    load_weights,
    read_config,
    refuse_misfit,
    save_weights,
)

POLICIES: Registry["Policy"] = Registry(
    "policy",
    "nac_ros.policies",
    helpers=("base", "codeword_head", "sampling", "transformer", "vision"),
)


MAX_IMAGE, MAX_OBS_STEPS = 4096, 100  # pixels of a side; steps of history


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """What every policy knows about its inputs.

    cameras: names in order; image_size: pixels of the square images the network sees
    tasks: task id -> prompt; either is accepted as an observation's task
    n_action_steps: executed steps of each chunk before a newer one takes over
    """

    cameras: tuple[str, ...]
    tasks: dict[str, str]
    state_dim: int
    image_size: int = 96
    n_obs_steps: int = 2
    n_action_steps: int = 16

    def __post_init__(self) -> None:
        if not self.cameras or not self.tasks:
            raise ConfigError("a policy needs at least one camera and one task")
        if min(self.n_obs_steps, self.n_action_steps, self.state_dim) < 1:
            raise ConfigError(
                f"n_obs_steps {self.n_obs_steps}, n_action_steps {self.n_action_steps} and "
                f"state_dim {self.state_dim} must be at least 1"
            )
        check_sizes(self)
        if not 1 <= self.image_size <= MAX_IMAGE or self.n_obs_steps > MAX_OBS_STEPS:
            raise ConfigError(
                f"image_size {self.image_size} must be in 1 .. {MAX_IMAGE} and n_obs_steps "
                f"{self.n_obs_steps} at most {MAX_OBS_STEPS}"
            )
        if len(set(self.cameras)) < len(self.cameras):
            raise ConfigError(f"cameras {list(self.cameras)} names one twice; name each once")


class Inputs(NamedTuple):
    """A batch of observations: uint8 images `[B, K, S, S, 3]` per camera, proprio float32
    `[B, K, D]`, task index int64 `[B]`; `image_features`: the output of `encode_images`
    for these images, float `[B, cameras, E]`; `images` may then be empty."""

    images: dict[str, Tensor]
    proprio: Tensor
    task: Tensor
    image_features: Tensor | None = None


class Targets(NamedTuple):
    """What the demonstrations did: normalised chunk `[B, H, D]`, tokens int64 `[B, L]`, the
    latents `[B, L, E]` the tokens stand for (None for tokenizers without geometry), and `future_actions`
    `[B, H, D]`, normalised actions ahead at wider spacing."""

    chunk: Tensor
    tokens: Tensor
    latents: Tensor | None
    future_actions: Tensor


class Policy(nn.Module, ABC):
    """Maps Inputs to tokens of its tokenizer."""

    Config: ClassVar[type[PolicyConfig]] = PolicyConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    name: ClassVar[str]
    token_parts: ClassVar[tuple[str, ...]] = ()  # prefixes of state that belongs to the tokens
    task_parts: ClassVar[tuple[str, ...]] = ()  # state that has one row for each of config.tasks

    def __init__(self, config: PolicyConfig, preset: str):
        super().__init__()
        self.config, self.preset = config, preset
        self.register_buffer("state_mean", torch.zeros(config.state_dim))
        self.register_buffer("state_std", torch.ones(config.state_dim))

    @abstractmethod
    def losses(self, inputs: Inputs, targets: Targets) -> dict[str, Tensor]:
        """Scalar losses; their sum is minimised."""

    @abstractmethod
    def sample_tokens(
        self,
        inputs: Inputs,
        generator: torch.Generator | None = None,
        sampling: Sampling | None = None,
        forced: Tensor | None = None,
    ) -> TokenSample:
        """Complete sequences of the tokenizer's grammar.

        sampling: the config's own where None
        forced: int64 `[B, L]`, tokens that are given, -1 where the policy chooses
        """

    def act(self, inputs: Inputs, generator: torch.Generator | None = None) -> Tensor:
        """Tokens int64 `[B, L]`, complete sequences of the tokenizer's grammar."""
        return self.say(inputs, generator).tokens

    @abstractmethod
    def token_log_probs(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        """Log-probabilities `[B, L, V]` of each next token along `tokens`, -inf where illegal."""

    @abstractmethod
    def encode_images(self, inputs: Inputs) -> Tensor:
        """Features `[B, cameras, E]` of the images, all that `losses` and `act` use of them."""

    @abstractmethod
    def vision_parameters(self) -> list[nn.Parameter]:
        """Parameters of the vision encoder, which may learn at another rate."""

    @property
    def params_m(self) -> float:
        """Millions of parameters."""
        return sum(p.numel() for p in self.parameters()) / 1e6

    def fit_state(self, proprio: np.ndarray) -> None:
        """Mean and standard deviation of joint states `[N, D]`."""
        self.state_mean.copy_(torch.from_numpy(proprio.mean(0)))
        self.state_std.copy_(torch.from_numpy(proprio.std(0) + 1e-3))

    def task_index(self, task: str) -> int:
        """Index of a task id or prompt; raises UnknownName with those the policy learned."""
        for index, (task_id, prompt) in enumerate(self.config.tasks.items()):
            if task in (task_id, prompt):
                return index
        known = "; ".join(f"{i} ('{p}')" for i, p in self.config.tasks.items())
        raise UnknownName(f"unknown task '{task}'; this policy learned: {known}")

    def inputs(self, observation: Observation) -> Inputs:
        """One observation as a batch of one; raises BadObservation where it does not fit."""
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
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        facts = {
            "name": self.name,
            "preset": self.preset,
            "config": configs.to_plain(self.config),
        }
        (folder / CONFIG_FILE).write_text(json.dumps(facts, indent=1) + "\n")
        save_weights(self, folder / WEIGHTS_FILE, half)


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
    """Takes over what fits from the policy saved in `folder`; the number of tensors taken.

    Eyes and plan are kept also over another tokenizer; what is tied to the tokens is not. Tasks
    that both know are kept, by id, wherever they stand among the others.
    """
    path = Path(folder) / WEIGHTS_FILE
    if not path.is_file():
        raise BundleError(f"no policy to start from at {folder}: {path.name} is missing")
    own, saved = policy.state_dict(), load_weights(path)
    vectors = "geometry.vectors"
    same = vectors in own and vectors in saved and torch.equal(own[vectors], saved[vectors])
    dropped = () if same else policy.token_parts
    kept = {
        key: value
        for key, value in saved.items()
        if key in own and own[key].shape == value.shape and not key.startswith(dropped)
    }
    for key in set(policy.task_parts) & set(saved):
        kept[key] = _known_tasks(policy, own[key], saved[key], Path(folder))
    policy.load_state_dict(kept, strict=False)
    return len(kept)


def _known_tasks(policy: Policy, own: Tensor, saved: Tensor, folder: Path) -> Tensor:
    """`own` rows `[tasks, D]` with those of tasks that the policy saved in `folder` knew."""
    before = list(read_config(folder, "policy")["config"].get("tasks", ()))
    rows = own.clone()
    for index, task in enumerate(policy.config.tasks):
        if task in before and saved.shape[1:] == own.shape[1:]:
            rows[index] = saved[before.index(task)]
    return rows


def load_policy(folder: Path | str, tokenizer: Tokenizer) -> Policy:
    """The policy saved in `folder`, over its `tokenizer`; raises BundleError."""
    folder = Path(folder)
    facts, weights = read_config(folder, "policy"), folder / WEIGHTS_FILE
    try:
        cls = POLICIES.get(facts["name"])
    except UnknownName as error:
        raise BundleError(f"{folder} cannot be loaded: {show_text(error, 400)}") from error
    config = build_config(cls.Config, facts, folder)
    with refuse_misfit(folder, "policy"):
        with limit_size(weights):
            policy = cls(config, facts["preset"], tokenizer)
        fill(policy, weights)
    if not bool((policy.state_std > 0).all()):
        raise BundleError(f"{weights}: state_std must be above 0; train or export it anew")
    return policy.eval()
