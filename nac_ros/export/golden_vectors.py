"""Golden vectors: inputs, and the outputs of policy and detokenizer when the bundle was made.

Floating-point results differ between machines, so sampled tokens are not compared. Instead the
policy must give the golden tokens the stored log-likelihood, and they must decode to the stored
actions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

from nac_ros.core.errors import BundleError, NacError, show_text
from nac_ros.policies.base import Inputs, Policy
from nac_ros.robot.spec import RobotSpec
from nac_ros.tokenizers.serialization import load_weights

Decode = Callable[[np.ndarray, np.ndarray], np.ndarray]

N_SAMPLES, MAX_SAMPLES = 4, 64


class Tolerance(NamedTuple):
    """Largest accepted difference of an output, and what to report beyond it."""

    value: float
    unit: str
    output: str
    cause: str


TOLERANCES = {
    "actions": Tolerance(1e-4, "rad or m", "decoding", "the ONNX file"),
    "log_likelihood": Tolerance(0.05, "nats", "the log-likelihood", "the policy's weights"),
}


def write(policy: Policy, decode: Decode, robot: RobotSpec, path: Path) -> None:
    """Writes outputs for random images and joint states from a fixed seed."""
    inputs = _inputs(policy, robot, np.random.default_rng(0))
    tokens = policy.sample_tokens(inputs, torch.Generator().manual_seed(0)).tokens
    golden = {f"images.{name}": image for name, image in inputs.images.items()}
    golden |= {"proprio": inputs.proprio, "task": inputs.task, "tokens": tokens}
    save_file({**golden, **_outputs(policy, decode, inputs, tokens)}, path)


def verify(policy: Policy, decode: Decode, path: Path) -> None:
    """Raises BundleError if policy or detokenizer give other outputs on this machine."""
    golden = load_weights(path)
    _check_layout(golden, policy, path)
    images = {name: golden[f"images.{name}"] for name in policy.config.cameras}
    inputs = Inputs(images, golden["proprio"], golden["task"])
    try:
        outputs = _outputs(policy, decode, inputs, golden["tokens"])
    except NacError as error:
        raise BundleError(f"{path}: {show_text(error, 400)}; export the bundle again") from error
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise BundleError(
            f"{path.parent} cannot compute its golden vectors: {show_text(error)}; export it again"
        ) from error
    for name, tolerance in TOLERANCES.items():
        if outputs[name].shape != golden[name].shape:
            raise BundleError(
                f"{path}: {name} of the golden tokens must be of {tuple(outputs[name].shape)}, "
                f"got {tuple(golden[name].shape)}; export the bundle again"
            )
        difference = float((outputs[name] - golden[name]).abs().max())
        if not difference <= tolerance.value:  # also if it is NaN
            raise BundleError(
                f"{path.parent}: {tolerance.output} of the golden tokens differs by "
                f"{difference:.2e} {tolerance.unit}, more than {tolerance.value}; "
                f"{tolerance.cause} and this version do not match"
            )


@torch.no_grad()
def _outputs(
    policy: Policy, decode: Decode, inputs: Inputs, tokens: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Decoded actions `[N, H, D]` and log-likelihood `[N]` of tokens `[N, L]`."""
    actions = torch.from_numpy(decode(tokens.numpy(), inputs.proprio[:, -1].numpy()))
    log_probs = policy.token_log_probs(inputs, tokens)  # [N, L, V]
    of_tokens = log_probs.gather(2, tokens.clamp(min=0)[..., None])[..., 0]
    return {
        "actions": actions,
        "log_likelihood": of_tokens.masked_fill(tokens < 0, 0).sum(1),
    }


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
