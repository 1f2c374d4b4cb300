"""Golden vectors: inputs, and the outputs of policy and detokenizer when the bundle was made.

Floating-point results differ between machines, so sampled tokens are not compared. Instead the
policy must give the golden tokens the stored log-likelihood, and they must decode to the stored
actions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from nac_ros.core.errors import BundleError, NacError, show_text
from nac_ros.policies.base import Inputs, Policy
from nac_ros.robot.spec import RobotSpec
from nac_ros.tokenizers.serialization import load_weights

Decode = Callable[[np.ndarray, np.ndarray], np.ndarray]

N_SAMPLES, MAX_SAMPLES = 4, 64
ACTION_TOLERANCE = 1e-4  # rad or m
LIKELIHOOD_TOLERANCE = 0.05  # nats for a whole sequence


def write(policy: Policy, decode: Decode, robot: RobotSpec, path: Path) -> None:
    """Writes outputs for random images and joint states from a fixed seed."""
    inputs = _inputs(policy, robot, np.random.default_rng(0))
    tokens = policy.sample_tokens(inputs, torch.Generator().manual_seed(0)).tokens
    images = {f"images.{name}": image for name, image in inputs.images.items()}
    outputs = {
        "tokens": tokens,
        "actions": torch.from_numpy(decode(tokens.numpy(), _reference(inputs))),
        "log_likelihood": _log_likelihood(policy, inputs, tokens),
    }
    save_file({**images, "proprio": inputs.proprio, "task": inputs.task, **outputs}, path)


def verify(policy: Policy, decode: Decode, path: Path) -> None:
    """Raises BundleError if policy or detokenizer give other outputs on this machine."""
    golden = load_weights(path)
    _check_layout(golden, policy, path)
    images = {name: golden[f"images.{name}"] for name in policy.config.cameras}
    inputs = Inputs(images, golden["proprio"], golden["task"])
    decoded = _computed(path, lambda: decode(golden["tokens"].numpy(), _reference(inputs)))
    if decoded.shape != tuple(golden["actions"].shape):
        raise BundleError(
            f"{path.parent}: the golden tokens decode to {decoded.shape}, {path.name} holds "
            f"actions of {tuple(golden['actions'].shape)}; export the bundle again"
        )
    error = float(np.abs(decoded - golden["actions"].numpy()).max())
    if not error <= ACTION_TOLERANCE:
        raise BundleError(
            f"{path.parent}: decoding the golden tokens differs by {error:.2e} rad or m, more "
            f"than {ACTION_TOLERANCE}; the ONNX file and this runtime do not match"
        )
    log_likelihood = _computed(path, lambda: _log_likelihood(policy, inputs, golden["tokens"]))
    drift = float((log_likelihood - golden["log_likelihood"]).abs().max())
    if not drift <= LIKELIHOOD_TOLERANCE:
        raise BundleError(
            f"{path.parent}: the log-likelihood of the golden tokens differs by {drift:.3f} nats, "
            f"more than {LIKELIHOOD_TOLERANCE}; its weights and this version do not match"
        )


def _check_layout(golden: dict[str, torch.Tensor], policy: Policy, path: Path) -> None:
    """Raises BundleError unless every golden tensor is present with its type and shape."""
    config = policy.config
    size, steps, any_size = config.image_size, config.n_obs_steps, -1
    n = len(golden["proprio"]) if "proprio" in golden and golden["proprio"].ndim else 0
    wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "proprio": (torch.float32, (n, steps, config.state_dim)),
        "task": (torch.int64, (n,)),
        "tokens": (torch.int64, (n, any_size)),
        "actions": (torch.float32, (n, any_size, config.state_dim)),
        "log_likelihood": (torch.float32, (n,)),
    }
    for name in config.cameras:
        wanted[f"images.{name}"] = torch.uint8, (n, steps, size, size, 3)
    for name, (dtype, shape) in wanted.items():
        found = golden.get(name)
        if found is None or found.dtype != dtype or not _fits(tuple(found.shape), shape):
            got = "nothing" if found is None else f"{found.dtype} of {tuple(found.shape)}"
            raise BundleError(
                f"{path}: '{show_text(name, 80)}' must be {dtype} of {shape} (-1: any), got "
                f"{show_text(got)}; export the bundle again"
            )
    known = bool(((golden["task"] >= 0) & (golden["task"] < len(config.tasks))).all())
    if not 1 <= n <= MAX_SAMPLES or not known:
        raise BundleError(
            f"{path}: wanted 1 to {MAX_SAMPLES} samples of the {len(config.tasks)} tasks, got "
            f"{n}; export the bundle again"
        )


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(b in (a, -1) for a, b in zip(shape, wanted))


def _computed(path: Path, compute: Callable[[], Any]) -> Any:
    """Runs a network on golden inputs; its errors become BundleErrors."""
    try:
        return compute()
    except NacError as error:
        raise BundleError(f"{path}: {show_text(error, 400)}; export the bundle again") from error
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise BundleError(
            f"{path.parent} cannot compute its golden vectors: {show_text(error)}; export it again"
        ) from error


@torch.no_grad()
def _log_likelihood(policy: Policy, inputs: Inputs, tokens: torch.Tensor) -> torch.Tensor:
    log_probs = policy.token_log_probs(inputs, tokens)  # [B, L, V]
    of_tokens = log_probs.gather(2, tokens.clamp(min=0)[..., None])[..., 0]
    return of_tokens.masked_fill(tokens < 0, 0).sum(1)


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
