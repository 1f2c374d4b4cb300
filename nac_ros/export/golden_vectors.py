"""Golden vectors: inputs, and the outputs of the policy when the bundle was made.

Floating-point results differ between machines, so sampled tokens are not compared. The policy
states instead which outputs another machine reproduces (`Policy.golden_outputs`): one that
predicts tokens the log-likelihood and the decoded chunk of the golden tokens, another one the
chunk predicted with a fixed seed. The actions are that chunk in physical units.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from nac_ros.core.errors import BundleError, NacError, show_text
from nac_ros.policies.base import Policy, PolicyOutput
from nac_ros.policies.observation_encoder import Inputs
from nac_ros.robot.spec import RobotSpec
from nac_ros.tokenizers.serialization import load_weights

ToActions = Callable[[PolicyOutput, np.ndarray], np.ndarray]  # `Bundle.to_actions`

N_SAMPLES, MAX_SAMPLES = 4, 64


class Tolerance(NamedTuple):
    """Largest accepted difference of an output, and what to report beyond it."""

    value: float
    unit: str
    output: str
    cause: str


DECODING = Tolerance(1e-4, "rad or m", "decoding", "the ONNX file")
LIKELIHOOD = Tolerance(0.05, "nats", "the log-likelihood", "the policy's weights")
# Denoising in several steps amplifies rounding.
PREDICTION = Tolerance(2e-3, "rad or m", "the prediction", "the policy's weights")


def write(policy: Policy, to_actions: ToActions, robot: RobotSpec, path: Path) -> None:
    """Writes outputs for random images and joint states from a fixed seed."""
    inputs = _inputs(policy, robot, np.random.default_rng(0))
    golden = {f"images.{name}": image for name, image in inputs.images.items()}
    for name in ("proprio", "task", "environment_state", "past_commands"):
        if (values := getattr(inputs, name)) is not None:
            golden[name] = values
    tokens = None
    if policy.predicts_tokens:
        tokens = policy.predict(inputs, generator=torch.Generator().manual_seed(0)).tokens
        golden["tokens"] = tokens
    save_file({**golden, **_outputs(policy, to_actions, inputs, tokens)}, path)


def verify(policy: Policy, to_actions: ToActions, path: Path) -> None:
    """Raises BundleError if policy or detokenizer give other outputs on this machine."""
    golden = load_weights(path)
    _check_layout(golden, policy, path)
    images = {name: golden[f"images.{name}"] for name in policy.config.cameras}
    optional = (golden.get("environment_state"), golden.get("past_commands"))
    inputs = Inputs(images, golden["proprio"], golden["task"], None, *optional)
    tokens = golden["tokens"] if policy.predicts_tokens else None
    try:
        outputs = _outputs(policy, to_actions, inputs, tokens)
    except NacError as error:
        raise BundleError(f"{path}: {show_text(error, 400)}; export the bundle again") from error
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise BundleError(
            f"{path.parent} cannot compute its golden vectors: {show_text(error)}; export it again"
        ) from error
    for name, found in outputs.items():
        tolerance = LIKELIHOOD if name == "log_likelihood" else DECODING
        if tokens is None:
            tolerance = PREDICTION
        _compare(name, found, golden[name], tolerance, path)


def _compare(name: str, found: Tensor, golden: Tensor, tolerance: Tolerance, path: Path) -> None:
    if found.shape != golden.shape:
        raise BundleError(
            f"{path}: {name} of the golden inputs must be of {tuple(found.shape)}, got "
            f"{tuple(golden.shape)}; export the bundle again"
        )
    difference = float((found - golden).abs().max())
    if not difference <= tolerance.value:  # also if it is NaN
        raise BundleError(
            f"{path.parent}: {tolerance.output} of the golden inputs differs by "
            f"{difference:.2e} {tolerance.unit}, more than {tolerance.value}; "
            f"{tolerance.cause} and this version do not match"
        )


def _outputs(
    policy: Policy, to_actions: ToActions, inputs: Inputs, tokens: Tensor | None
) -> dict[str, Tensor]:
    """Actions `[N, H, D]`, and with tokens `[N, L]` also their log-likelihood `[N]`."""
    outputs = policy.golden_outputs(inputs, tokens)
    chunk = PolicyOutput(outputs.pop("chunk"), tokens)
    actions = to_actions(chunk, inputs.proprio[:, -1].numpy())
    return {"actions": torch.from_numpy(actions), **outputs}


def _check_layout(golden: dict[str, Tensor], policy: Policy, path: Path) -> None:
    """Raises BundleError unless every golden tensor is present with its type and shape."""
    config = policy.config
    size, steps, any_size = config.image_size, config.n_obs_steps, -1
    n = len(golden["proprio"]) if "proprio" in golden and golden["proprio"].ndim else 0
    wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "proprio": (torch.float32, (n, steps, config.state_dim)),
        "task": (torch.int64, (n,)),
        "actions": (torch.float32, (n, any_size, config.state_dim)),
    }
    if policy.predicts_tokens:
        wanted["log_likelihood"], wanted["tokens"] = (torch.float32, (n,)), (torch.int64, (n, -1))
    if config.environment_state_dim:
        shape = (n, steps, config.environment_state_dim)
        wanted["environment_state"] = torch.float32, shape
    if config.n_past_commands:
        shape = (n, config.n_past_commands, config.state_dim)
        wanted["past_commands"] = torch.float32, shape
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
    state = state.astype(np.float32)
    task = torch.arange(N_SAMPLES) % len(config.tasks)
    environment = commands = None
    if config.environment_state_dim:
        shape = (N_SAMPLES, steps, config.environment_state_dim)
        environment = torch.from_numpy(generator.standard_normal(shape, np.float32))
    if config.n_past_commands:
        commands = torch.from_numpy(np.repeat(state, config.n_past_commands, 1))
    proprio = torch.from_numpy(np.repeat(state, steps, 1))
    return Inputs(images, proprio, task, None, environment, commands)
