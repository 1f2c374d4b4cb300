"""Tiny policies of any method, random observations that fit their config, and a training loop."""

from dataclasses import MISSING, fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tiny_vlm import save_tiny_vlm
from torch import Tensor

from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.policies.base import (
    POLICIES,
    Inputs,
    Policy,
    PredictionContext,
    Targets,
    make_policy,
)
from nac_ros.tokenizers import Tokenizer

TASKS = {"weighing": "Turn on the weighing machine.", "marker": "Place the marker in the bin."}
# Sizes by the end of a config field's name, so that they fit methods that are not known here.
SIZES = {"layers": 1, "heads": 2, "vision_width": 32, "n_keypoints": 4, "image_size": 24}
SIZES |= {"dropout": 0.0}
FACTS = {"cameras": (), "tasks": TASKS, "state_dim": 3}


def tiny_sizes(config_class: type) -> dict[str, Any]:
    """Values for the fields of a policy's config that make its networks small."""
    names = [field.name for field in fields(config_class)]
    sizes = {name: size for name in names for end, size in SIZES.items() if name.endswith(end)}
    return {**sizes, **({"dim": 32} if "dim" in names else {})}


def missing_facts(cls: type[Policy]) -> set[str]:
    """Fields of a policy's config that `make_tiny` cannot set, such as a folder with a model."""
    required = {
        field.name
        for field in fields(cls.Config)
        if field.default is MISSING and field.default_factory is MISSING
    }
    folders = {cls.required_folder} - {""}
    if cls.name == "vlm" and find_spec("transformers") and find_spec("peft"):
        folders = set()  # see `local_model`
    return required - FACTS.keys() - {"chunk_spec"} | folders


@cache
def _model_folder() -> TemporaryDirectory:
    """Folder of a tiny vision-language model, removed when the tests end."""
    folder = TemporaryDirectory(prefix="tiny_vlm")
    save_tiny_vlm(Path(folder.name), "idefics3")
    return folder


def local_model(name: str) -> dict[str, Any]:
    """Values for the config of a policy that needs a local model."""
    return {"model_folder": _model_folder().name, "dtype": "float32"} if name == "vlm" else {}


def make_tiny(name: str, source: Tokenizer | ChunkSpec, seed: int = 0, **changes: Any) -> Policy:
    """A policy with small networks, random weights and fitted statistics where it has its own."""
    torch.manual_seed(seed)
    sizes = tiny_sizes(POLICIES.get(name).Config)
    values = {**FACTS, **sizes, **local_model(name), **changes}
    policy = make_policy(name, "small", source, **values)
    if isinstance(source, ChunkSpec):
        bounds = torch.ones(2, 1, source.action_dim)
        bounds[0] = -1
        policy.fit_actions(bounds.numpy(), bounds[:, 0].numpy())
    return policy


def random_inputs(policy: Policy, batch: int, seed: int = 0) -> Inputs:
    """Noise images, joint states, environment states and past commands."""
    config, generator = policy.config, torch.Generator().manual_seed(seed)
    size, steps = config.image_size, config.n_obs_steps

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator)

    shape = (batch, steps, size, size, 3)
    images = {
        camera: torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        for camera in config.cameras
    }
    proprio = normal(steps, config.state_dim)
    task = torch.randint(len(config.tasks), (batch,), generator=generator)
    environment = commands = None
    if config.environment_state_dim:
        environment = normal(steps, config.environment_state_dim)
    if config.n_past_commands:
        commands = normal(config.n_past_commands, policy.chunk_spec.action_dim)
    return Inputs(images, proprio, task, None, environment, commands)


def chunk_under_way(actions: Tensor, n_committed: int, n_known: int) -> PredictionContext:
    """The context of normalized actions `[B, H, D]` with as many committed and known steps."""
    index = torch.arange(actions.shape[1], device=actions.device).expand(actions.shape[:2])
    return PredictionContext(actions, index < n_committed, index < n_known)


def train(policy: Policy, inputs: Inputs, targets: Targets, steps: int, rate: float) -> float:
    """Adam steps on one batch with a falling rate; the mean loss of the last tenth."""
    policy.train()
    optimizer = torch.optim.Adam(policy.parameters(), rate)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        loss = sum(policy.loss(inputs, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    policy.eval()
    return float(torch.stack(losses[-max(steps // 10, 1) :]).mean())


def mean_loss(policy: Policy, inputs: Inputs, targets: Targets, repeats: int = 20) -> float:
    """Loss without training, averaged over the random numbers that some losses draw."""
    with torch.no_grad():
        losses = [sum(policy.loss(inputs, targets).values()) for _ in range(repeats)]
    return float(torch.stack(losses).mean())


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
