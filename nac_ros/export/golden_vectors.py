"""Golden vectors: inputs, and the outputs of the policy when the bundle was made.

Floating-point results differ between machines, so sampled tokens are not compared. The policy
states instead which outputs another machine reproduces (`Policy.golden_outputs`): one that
predicts tokens the log-likelihood and the decoded chunk of the golden tokens, another one the
chunk predicted with a fixed seed. The actions are that chunk in physical units.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from nac_ros.core.errors import BundleError, NacError, show_text
from nac_ros.export.golden_file import IMAGES, INPUTS, compare, read_golden
from nac_ros.policies.base import Policy, PolicyOutput
from nac_ros.policies.graphs import to_inputs
from nac_ros.policies.observation_encoder import Inputs
from nac_ros.robot.spec import RobotSpec

ToActions = Callable[[PolicyOutput, np.ndarray], np.ndarray]  # `Bundle.to_actions`

N_SAMPLES = 4


def write(policy: Policy, to_actions: ToActions, robot: RobotSpec, path: Path) -> None:
    """Writes outputs for random images and joint states from a fixed seed."""
    inputs = _inputs(policy, robot, np.random.default_rng(0))
    golden = {f"{IMAGES}{name}": image for name, image in inputs.images.items()}
    for name in INPUTS:
        if (values := getattr(inputs, name)) is not None:
            golden[name] = values
    tokens = None
    if policy.predicts_tokens:
        tokens = policy.predict(inputs, generator=np.random.default_rng(0)).tokens
        golden["tokens"] = tokens
    save_file({**golden, **_outputs(policy, to_actions, inputs, tokens)}, path)


def verify(policy: Policy, to_actions: ToActions, path: Path) -> None:
    """Raises BundleError if policy or detokenizer give other outputs on this machine."""
    has_tokens = policy.predicts_tokens
    golden = read_golden(path, policy.observation_spec, has_tokens)
    tensors = {name: torch.from_numpy(array).to(policy.device) for name, array in golden.items()}
    inputs, tokens = to_inputs(tensors), tensors.get("tokens")
    try:
        outputs = _outputs(policy, to_actions, inputs, tokens)
    except NacError as error:
        raise BundleError(f"{path}: {show_text(error, 400)}; export the bundle again") from error
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise BundleError(
            f"{path.parent} cannot compute its golden vectors: {show_text(error)}; export it again"
        ) from error
    arrays = {name: output.numpy() for name, output in outputs.items()}
    compare(arrays, golden, has_tokens, path)


def _outputs(
    policy: Policy, to_actions: ToActions, inputs: Inputs, tokens: Tensor | None
) -> dict[str, Tensor]:
    """Actions `[N, H, D]`, and with tokens `[N, L]` also their log-likelihood `[N]`."""
    outputs = policy.golden_outputs(inputs, tokens)
    chunk = PolicyOutput(outputs.pop("chunk"), tokens)
    actions = to_actions(chunk, inputs.proprio[:, -1].cpu().numpy())
    on_cpu = {name: values.cpu() for name, values in outputs.items()}
    return {"actions": torch.from_numpy(actions), **on_cpu}


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
