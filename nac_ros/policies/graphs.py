"""Parts of a policy as modules from named tensors to named tensors, for export to ONNX."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nac_ros.core.observation_spec import ObservationSpec
from nac_ros.policies.observation_encoder import Inputs

EXAMPLES = 2  # batch of the example inputs; a batch of one would be taken for a constant

Tensors = dict[str, Tensor]


class Graph(NamedTuple):
    """A part of a policy.

    function: tensors by name, each `[B, ...]` -> outputs in the order of `outputs`
    inputs: examples of the tensors
    constant: inputs without batch axis
    """

    function: Callable[[Tensors], tuple[Tensor, ...]]
    inputs: Tensors
    outputs: tuple[str, ...]
    constant: tuple[str, ...] = ()


class GraphModule(nn.Module):
    """The function of a graph, with the parameters of the policy that it belongs to."""

    def __init__(self, policy: nn.Module, graph: Graph):
        super().__init__()
        self.policy, self._function = policy, graph.function

    def forward(self, tensors: Tensors) -> tuple[Tensor, ...]:
        return self._function(tensors)


def example_observations(spec: ObservationSpec) -> Tensors:
    """Zeros in the shapes of an observation, with the task index."""
    size, steps, n = spec.image_size, spec.n_obs_steps, EXAMPLES
    images = torch.zeros(n, steps, size, size, 3, dtype=torch.uint8)
    tensors = {f"images.{name}": images.clone() for name in spec.cameras}
    tensors["proprio"] = torch.zeros(n, steps, spec.state_dim)
    tensors["task"] = torch.zeros(n, dtype=torch.int64)
    if spec.environment_state_dim:
        tensors["environment_state"] = torch.zeros(n, steps, spec.environment_state_dim)
    if spec.n_past_commands:
        tensors["past_commands"] = torch.zeros(n, spec.n_past_commands, spec.action_dim)
    return tensors


def to_inputs(tensors: Tensors) -> Inputs:
    """Inverse of the names of `example_observations`."""
    prefix = "images."
    images = {key[len(prefix) :]: x for key, x in tensors.items() if key.startswith(prefix)}
    optional = (tensors.get("environment_state"), tensors.get("past_commands"))
    return Inputs(images, tensors["proprio"], tensors["task"], None, *optional)
