"""Image encoders: a small CNN and a ResNet-18, one per camera, and a local pretrained model."""

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nac_ros.core.errors import ConfigError, show_value
from nac_ros.policies.local_models import (
    architecture_config,
    build_model,
    find_model_folder,
    import_transformers,
    load_part,
    read_model_file,
    to_plain_config,
)

GROUPS = 8
RESNET_WIDTHS = (64, 128, 256, 512)  # of the four stages of ResNet-18
CHANNELS_PER_GROUP = 16  # of the ResNet's group norm, as in Diffusion Policy
PREPROCESSOR = "preprocessor_config.json"
EXTRA = "pretrained"  # of setup.py


class CameraEncoders(nn.ModuleDict):
    """Camera -> its own encoder of uint8 images `[B, K, S, S, 3]` into `[B, dim]`."""

    def forward(self, images: dict[str, Tensor]) -> Tensor:
        """Features of all cameras, float32 `[B, cameras, dim]`."""
        return torch.stack([encoder(images[name]).float() for name, encoder in self.items()], 1)


class ImageEncoder(nn.Module, ABC):
    """uint8 images `[B, K, S, S, 3]` of one camera -> `[B, dim]`: `features`, then `project`.

    Frozen, only `project` is trained, and the rest stays in evaluation mode.
    """

    project: nn.Module
    frozen = False

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Features `[B, F]` of the images."""

    def freeze(self) -> None:
        """Only the projection is trained from now on."""
        self.frozen = True
        self.requires_grad_(False)
        self.project.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> "ImageEncoder":
        super().train(mode)
        for name, child in self.named_children():
            child.train(mode and (not self.frozen or name == "project"))
        return self

    def forward(self, images: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.features(images)
        return self.project(features)


class KeypointEncoder(ImageEncoder):
    """A small strided CNN with spatial softmax; the K frames are stacked on the channels.

    Group normalization doubles the time of a layer, but without it the held-out error after the
    same training time is higher.
    """

    def __init__(self, n_frames: int, dim: int, width: int, n_keypoints: int):
        super().__init__()
        widths = (3 * n_frames, width // 2, 3 * width // 4, width, width)
        kernels, strides = (5, 3, 3, 3), (2, 2, 2, 1)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, kernel, stride, kernel // 2)
            for before, after, kernel, stride in zip(widths, widths[1:], kernels, strides)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, after) for after in widths[1:])
        self.keypoints = nn.Conv2d(width, n_keypoints, 1)
        self.project = nn.Linear(2 * n_keypoints + width, dim)

    def features(self, images: Tensor) -> Tensor:
        x = images.permute(0, 1, 4, 2, 3).flatten(1, 2)  # [B, K * 3, S, S]
        x = (x.float() / 255 - 0.5).to(memory_format=torch.channels_last)
        for layer, norm in zip(self.layers, self.norms):
            x = F.relu(norm(layer(x)))  # finally [B, width, S / 8, S / 8]
        pooled = x.float().mean((2, 3))  # [B, width]
        keypoints = spatial_softmax(self.keypoints(x).float())
        return torch.cat([keypoints, pooled], 1)


class ResidualBlock(nn.Module):
    """Basic block of ResNet (arXiv 1512.03385) with group norm instead of batch norm."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = _conv(before, after, 3, stride), _norm(after)
        self.conv2, self.norm2 = _conv(after, after, 3, 1), _norm(after)
        self.shortcut = nn.Identity()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(_conv(before, after, 1, stride), _norm(after))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(self.shortcut(x) + residual)


class Resnet18Encoder(ImageEncoder):
    """ResNet-18 with group norm and spatial softmax, from scratch, as in Diffusion Policy
    (arXiv 2303.04137, appendix); each of the K frames is encoded on its own."""

    def __init__(self, n_frames: int, dim: int, n_keypoints: int):
        super().__init__()
        first = RESNET_WIDTHS[0]
        self.stem = nn.Sequential(
            _conv(3, first, 7, 2), _norm(first), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks, before = list[nn.Module](), first
        for stage, width in enumerate(RESNET_WIDTHS):
            blocks.append(ResidualBlock(before, width, 1 if stage == 0 else 2))
            blocks.append(ResidualBlock(width, width, 1))
            before = width
        self.blocks = nn.Sequential(*blocks)
        self.keypoints = nn.Conv2d(before, n_keypoints, 1)
        self.project = nn.Linear(n_frames * 2 * n_keypoints, dim)

    def features(self, images: Tensor) -> Tensor:
        x = images.flatten(0, 1).permute(0, 3, 1, 2).float() / 255 - 0.5  # [B * K, 3, S, S]
        x = self.blocks(self.stem(x))  # [B * K, 512, S / 32, S / 32]
        keypoints = spatial_softmax(self.keypoints(x).float())
        return keypoints.unflatten(0, images.shape[:2]).flatten(1)


class PretrainedEncoder(nn.Module):
    """A `transformers` vision model that all cameras share, with a projection for each camera.

    description: text of `describe_vision_model`, which states the architecture; the weights are
        random until `load_weights`
    frozen: the model is not trained and stays in evaluation mode, only the projections are
    """

    def __init__(
        self, cameras: tuple[str, ...], n_frames: int, dim: int, description: str, frozen: bool
    ):
        super().__init__()
        import_transformers("vision pretrained", EXTRA)
        values = _read_description(description)
        config = architecture_config(values["config"])
        self.cameras, self.frozen = cameras, frozen
        self.size, self.pools = values["size"], values["pools"]
        for name in ("mean", "std"):
            constant = torch.tensor(values[name]).view(3, 1, 1)
            self.register_buffer(name, constant, persistent=False)
        self.model = build_model(config).float()
        self.model.requires_grad_(not frozen)
        size = n_frames * _feature_size(config)
        self.project = nn.ModuleDict({name: nn.Linear(size, dim) for name in cameras})

    def load_weights(self, folder: str) -> None:
        """Copies the weights of the model saved in `folder`."""
        self.model.load_state_dict(_load_vision_model(folder)[0].state_dict())

    def train(self, mode: bool = True) -> "PretrainedEncoder":
        super().train(mode)
        self.model.train(mode and not self.frozen)
        return self

    def forward(self, images: dict[str, Tensor]) -> Tensor:
        """Features of all cameras, float32 `[B, cameras, dim]`."""
        stacked = torch.stack([images[name] for name in self.cameras], 1)  # [B, C, K, S, S, 3]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self._frame_features(stacked.flatten(0, 2))
        features = features.unflatten(0, stacked.shape[:3]).flatten(2)  # [B, C, K * F]
        parts = zip(self.cameras, features.unbind(1))
        return torch.stack([self.project[name](part).float() for name, part in parts], 1)

    def _frame_features(self, frames: Tensor) -> Tensor:
        """uint8 `[N, S, S, 3]` -> `[N, F]`."""
        x = frames.permute(0, 3, 1, 2).float() / 255
        if self.size and x.shape[-1] != self.size:
            size = (self.size, self.size)
            x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        output = self.model((x - self.mean) / self.std)
        if self.pools:
            return output.pooler_output.float().flatten(1)
        hidden = output.last_hidden_state.float()  # [N, tokens, F] or [N, F, h, w]
        return hidden.mean(1) if hidden.ndim == 3 else hidden.mean((2, 3))


def describe_vision_model(folder: str) -> str:
    """JSON text that states the architecture and the inputs of the vision model in `folder`.

    With it a policy is loaded where the folder is absent. Raises ConfigError.
    """
    import_transformers("vision pretrained", EXTRA)
    model, pools = _load_vision_model(folder)
    path = find_model_folder(folder, "vision_folder") / PREPROCESSOR
    if not path.is_file():
        raise ConfigError(f"{path} is missing; it states the mean and std of the model's images")
    preprocessor = read_model_file(path)
    size = getattr(model.config, "image_size", 0)
    description = {
        "config": to_plain_config(model.config),
        "mean": preprocessor.get("image_mean"),
        "std": preprocessor.get("image_std"),
        "size": size if isinstance(size, int) else 0,
        "pools": pools,
    }
    text = json.dumps(description, sort_keys=True)
    _read_description(text)
    return text


def spatial_softmax(maps: Tensor) -> Tensor:
    """Expected image position of each feature map's softmax (Levine et al., arXiv 1504.00702).

    Maps `[B, N, h, w]` -> all x, then all y, in [-1, 1], `[B, 2 N]`.
    """
    _, _, height, width = maps.shape
    weights = maps.flatten(2).softmax(-1).view_as(maps)
    x = torch.linspace(-1, 1, width, device=maps.device)
    y = torch.linspace(-1, 1, height, device=maps.device)
    return torch.cat([(weights.sum(2) * x).sum(-1), (weights.sum(3) * y).sum(-1)], 1)


def _conv(before: int, after: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(width // CHANNELS_PER_GROUP, width)


def _load_vision_model(folder: str) -> tuple[Any, bool]:
    """The vision model of a folder, or the vision half of an image-text model such as CLIP, and
    whether its own pooling was trained; raises ConfigError."""
    path: Path = find_model_folder(folder, "vision_folder")
    model, lacking = load_part(path, "vision_config")
    if missing := [key for key in lacking if "pooler" not in key]:
        raise ConfigError(f"{path} lacks the weight {missing[0]}; copy the model again")
    return model, not lacking and _has_pooling(model)


def _has_pooling(model: Any) -> bool:
    """Whether the model's output has a pooled vector."""
    size = getattr(model.config, "image_size", 0)
    size = size if isinstance(size, int) and size else 64
    channels = getattr(model.config, "num_channels", 3)
    with torch.no_grad():
        output = model(torch.zeros(1, channels, size, size))
    return getattr(output, "pooler_output", None) is not None


def _feature_size(config: Any) -> int:
    """Length of the feature vector of one frame."""
    for value in (getattr(config, "hidden_size", None), getattr(config, "hidden_sizes", None)):
        if value:
            return int(value if isinstance(value, int) else value[-1])
    raise ConfigError(
        f"the size of the features of a {config.model_type} is unknown; choose a vision model "
        "whose config has hidden_size or hidden_sizes"
    )


def _read_description(text: str) -> dict[str, Any]:
    """Inverse of `describe_vision_model`; raises ConfigError."""
    try:
        values = json.loads(text)
        sizes = [len(values[name]) for name in ("mean", "std")]
        is_right = sizes == [3, 3] and isinstance(values["config"], dict)
        is_right = is_right and all(float(std) > 0 for std in values["std"])
        is_right = is_right and 0 <= int(values["size"]) <= 4096 and "pools" in values
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"vision_model does not describe a vision model: {show_value(text)}"
        ) from error
    if not is_right:
        raise ConfigError(f"vision_model does not describe a vision model: {show_value(text)}")
    return values
