"""Observations as context vectors: images, joint states, task, environment state, commands."""

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from nac_ros.policies.vision import (
    CameraEncoders,
    ImageEncoder,
    KeypointEncoder,
    PretrainedEncoder,
    Resnet18Encoder,
)

VisionKind = Literal["keypoints", "resnet18", "pretrained"]


class Inputs(NamedTuple):
    """A batch of observations.

    images: camera -> uint8 `[B, K, S, S, 3]`; may be empty where `image_features` are given
    proprio: joint states, float32 `[B, K, D]`
    task: task index, int64 `[B]`
    image_features: output of `Policy.encode_images` for these images, float `[B, cameras, E]`
    environment_state: low-dimensional state of the scene, float32 `[B, K, N]`; None without
    past_commands: the last executed actions, oldest first, float32 `[B, P, D]`; None without
    prompt: embedding of the task's prompt, float32 `[B, E]`, which `Policy.normalized_inputs`
        adds where the policy has a text encoder
    """

    images: dict[str, Tensor]
    proprio: Tensor
    task: Tensor
    image_features: Tensor | None = None
    environment_state: Tensor | None = None
    past_commands: Tensor | None = None
    prompt: Tensor | None = None


class ObservationConfig(Protocol):
    """The fields of a policy's config that the encoder needs."""

    cameras: tuple[str, ...]
    tasks: dict[str, str]
    state_dim: int
    environment_state_dim: int
    n_past_commands: int
    n_obs_steps: int
    vision: VisionKind
    vision_model: str
    freeze_vision: bool
    vision_width: int
    n_keypoints: int
    text_dim: int


class ObservationEncoder(nn.Module):
    """Normalized Inputs -> context vectors `[B, n_vectors, dim]`.

    The vectors are: one for each camera, the joint states, the task, and where the config has
    them the environment state and the past commands with their differences.

    state_only: without vectors of cameras and task, for a policy that reads both in another way
    """

    def __init__(
        self, config: ObservationConfig, dim: int, action_dim: int, state_only: bool = False
    ):
        super().__init__()
        self.cameras = () if state_only else config.cameras
        self.vision = _make_vision(config, self.cameras, dim)
        self.state_encoder = _mlp(config.n_obs_steps * config.state_dim, dim)
        self.task_embedding = self.task_projection = None
        if config.text_dim and not state_only:
            self.task_projection = nn.Linear(config.text_dim, dim)
        elif not state_only:
            self.task_embedding = nn.Embedding(len(config.tasks), dim)
        self.environment_encoder = self.command_encoder = None
        if config.environment_state_dim:
            size = config.n_obs_steps * config.environment_state_dim
            self.environment_encoder = _mlp(size, dim)
        if config.n_past_commands:
            size = (2 * config.n_past_commands - 1) * action_dim
            self.command_encoder = _mlp(size, dim)

    @property
    def n_vectors(self) -> int:
        """Number of context vectors."""
        optional = (
            self.task_embedding,
            self.task_projection,
            self.environment_encoder,
            self.command_encoder,
        )
        return len(self.cameras) + 1 + sum(encoder is not None for encoder in optional)

    def load_vision(self, folder: str) -> None:
        """Copies the weights of a pretrained vision model, if the encoder has one."""
        if isinstance(self.vision, PretrainedEncoder):
            self.vision.load_weights(folder)

    def encode_images(self, inputs: Inputs) -> Tensor:
        """Features `[B, cameras, dim]`, or those that `inputs` has already."""
        if inputs.image_features is not None:
            return inputs.image_features.float()
        if not self.cameras:
            return inputs.proprio.new_zeros(inputs.proprio.shape[0], 0, 0)
        return self.vision(inputs.images)

    def forward(self, inputs: Inputs, features: Tensor) -> Tensor:
        """inputs: normalized (`Policy.normalized_inputs`); features: of `encode_images`"""
        vectors = [*features.unbind(1), self.state_encoder(inputs.proprio.flatten(1))]
        if self.task_embedding is not None:
            vectors.append(self.task_embedding(inputs.task))
        if self.task_projection is not None:
            vectors.append(self.task_projection(inputs.prompt))
        if self.environment_encoder is not None:
            vectors.append(self.environment_encoder(inputs.environment_state.flatten(1)))
        if self.command_encoder is not None:
            commands = inputs.past_commands
            known = torch.cat([commands, commands.diff(dim=1)], 1)
            vectors.append(self.command_encoder(known.flatten(1)))
        return torch.stack(vectors, 1)

    @torch.no_grad()
    def rescale_state(self, mean: Tensor, std: Tensor, new_mean: Tensor, new_std: Tensor) -> None:
        """Changes the first layer so that new statistics of the joint states, each `[D]`, give the
        same output for the same joint states as the old ones did."""
        self._rescale(self.state_encoder[0], mean, std, new_mean, new_std)

    @torch.no_grad()
    def rescale_environment(
        self, mean: Tensor, std: Tensor, new_mean: Tensor, new_std: Tensor
    ) -> None:
        """The same for the statistics of the environment states, each `[N]`."""
        self._rescale(self.environment_encoder[0], mean, std, new_mean, new_std)

    @staticmethod
    def _rescale(
        first: nn.Linear, mean: Tensor, std: Tensor, new_mean: Tensor, new_std: Tensor
    ) -> None:
        steps = first.in_features // len(mean)
        ratio, shift = (new_std / std).repeat(steps), ((new_mean - mean) / std).repeat(steps)
        first.bias.add_(first.weight @ shift)
        first.weight.mul_(ratio)


def _make_vision(
    config: ObservationConfig, cameras: tuple[str, ...], dim: int
) -> CameraEncoders | PretrainedEncoder:
    if config.vision == "pretrained" and cameras:
        sizes = (config.n_obs_steps, dim)
        return PretrainedEncoder(cameras, *sizes, config.vision_model, config.freeze_vision)
    return CameraEncoders({name: _make_encoder(config, dim) for name in cameras})


def _make_encoder(config: ObservationConfig, dim: int) -> ImageEncoder:
    """The encoder of one camera."""
    encoder: ImageEncoder
    if config.vision == "resnet18":
        encoder = Resnet18Encoder(config.n_obs_steps, dim, config.n_keypoints)
    else:
        sizes = (config.n_obs_steps, dim, config.vision_width, config.n_keypoints)
        encoder = KeypointEncoder(*sizes)
    if config.freeze_vision:
        encoder.freeze()
    return encoder


def _mlp(size: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, dim), nn.GELU(), nn.Linear(dim, dim))
