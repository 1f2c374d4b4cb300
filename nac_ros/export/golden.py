"""Golden vectors: inputs and the outputs they gave when a bundle was made.

Floating point differs between machines, so tokens are not compared for equality: the policy must
give the golden tokens the probability it gave them then, and decoding them must give the actions.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from nac_ros.errors import BundleError
from nac_ros.policies.base import Inputs, Policy
from nac_ros.robot import RobotSpec

Decode = Callable[[np.ndarray, np.ndarray], np.ndarray]

N_SAMPLES = 4
ACTION_TOLERANCE = 1e-4  # rad or m
LIKELIHOOD_TOLERANCE = 0.05  # nats for a whole sequence


def write(policy: Policy, decode: Decode, robot: RobotSpec, path: Path) -> None:
    """Random images and states from a fixed seed, through policy and detokenizer."""
    inputs = _inputs(policy, robot, np.random.default_rng(0))
    tokens = policy.act(inputs, torch.Generator().manual_seed(0))
    images = {f"images.{name}": image for name, image in inputs.images.items()}
    outputs = {
        "tokens": tokens,
        "actions": torch.from_numpy(decode(tokens.numpy(), _reference(inputs))),
        "likelihood": _likelihood(policy, inputs, tokens),
    }
    save_file({**images, "proprio": inputs.proprio, "task": inputs.task, **outputs}, path)


def verify(policy: Policy, decode: Decode, path: Path) -> None:
    """Raises BundleError when this machine computes something else from the golden inputs."""
    golden = load_file(path)
    images = {name: golden[f"images.{name}"] for name in policy.config.cameras}
    inputs = Inputs(images, golden["proprio"], golden["task"])
    decoded = decode(golden["tokens"].numpy(), _reference(inputs))
    error = float(np.abs(decoded - golden["actions"].numpy()).max())
    if not error <= ACTION_TOLERANCE:
        raise BundleError(
            f"{path.parent}: decoding the golden tokens differs by {error:.2e} rad or m, more "
            f"than {ACTION_TOLERANCE}; the ONNX file and this runtime do not belong together"
        )
    likelihood = _likelihood(policy, inputs, golden["tokens"])
    drift = float((likelihood - golden["likelihood"]).abs().max())
    if not drift <= LIKELIHOOD_TOLERANCE:
        raise BundleError(
            f"{path.parent}: the policy rates the golden tokens {drift:.3f} nats off, more than "
            f"{LIKELIHOOD_TOLERANCE}; its weights and this version do not belong together"
        )


@torch.no_grad()
def _likelihood(policy: Policy, inputs: Inputs, tokens: torch.Tensor) -> torch.Tensor:
    rated = policy.likelihood(inputs, tokens)  # [B, L, V]
    said = rated.gather(2, tokens.clamp(min=0)[..., None])[..., 0]
    return said.masked_fill(tokens < 0, 0).sum(1)


def _inputs(policy: Policy, spec: RobotSpec, generator: np.random.Generator) -> Inputs:
    config = policy.config
    size, steps = config.image_size, config.n_obs_steps
    images = {
        name: torch.from_numpy(
            generator.integers(0, 256, (N_SAMPLES, steps, size, size, 3), dtype=np.uint8)
        )
        for name in config.cameras
    }
    span = generator.uniform(0.4, 0.6, (N_SAMPLES, 1, spec.action_dim))
    state = spec.position_low + span * (spec.position_high - spec.position_low)
    proprio = torch.from_numpy(np.repeat(state, steps, 1).astype(np.float32))
    task = torch.arange(N_SAMPLES) % len(config.tasks)
    return Inputs(images, proprio, task)


def _reference(inputs: Inputs) -> np.ndarray:
    return inputs.proprio[:, -1].numpy()
