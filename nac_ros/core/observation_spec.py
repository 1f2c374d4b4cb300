"""What a policy observes, and the check of an observation against it, in numpy alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nac_ros.core.config import REQUIRED, check_fields, number_field
from nac_ros.core.errors import BadObservation, UnknownName, show_text
from nac_ros.core.types import Observation


@dataclass(frozen=True, kw_only=True)
class ObservationSpec:
    """Sizes of an observation of one policy; see the fields of the same names in PolicyConfig."""

    cameras: tuple[str, ...]
    tasks: dict[str, str]
    state_dim: int = number_field(REQUIRED, 1)
    action_dim: int = number_field(REQUIRED, 1)
    image_size: int = number_field(REQUIRED, 1)
    n_obs_steps: int = number_field(REQUIRED, 1)
    environment_state_dim: int = number_field(REQUIRED, 0)
    n_past_commands: int = number_field(REQUIRED, 0)

    def __post_init__(self) -> None:
        check_fields(self)

    def task_index(self, task: str) -> int | None:
        """Index of a task id or prompt; None if it is neither."""
        for index, names in enumerate(self.tasks.items()):
            if task in names:
                return index
        return None

    def arrays(self, observation: Observation) -> dict[str, np.ndarray]:
        """Arrays of one observation as a batch of one; raises BadObservation for other shapes.

        images.<camera>: uint8 `[1, K, S, S, 3]`; proprio: float32 `[1, K, D]`; where they are
        observed environment_state `[1, K, N]` and past_commands `[1, P, D]`, float32
        """
        arrays = {f"images.{name}": self._image(observation, name) for name in self.cameras}
        shape: tuple[int, ...] = (self.n_obs_steps, self.state_dim)
        arrays["proprio"] = _finite("proprioception", observation.proprio, shape)
        if self.environment_state_dim:
            shape = (self.n_obs_steps, self.environment_state_dim)
            values = observation.environment_state
            arrays["environment_state"] = _finite("environment_state", values, shape)
        if self.n_past_commands:
            shape = (self.n_past_commands, self.action_dim)
            arrays["past_commands"] = _finite("past_commands", observation.past_commands, shape)
        return arrays

    def _image(self, observation: Observation, camera: str) -> np.ndarray:
        size, steps = self.image_size, self.n_obs_steps
        if camera not in observation.images:
            known = ", ".join(observation.images) or "none"
            raise BadObservation(f"no image of camera '{camera}'; the observation has: {known}")
        frames = observation.images[camera]
        if frames.shape != (steps, size, size, 3) or frames.dtype != np.uint8:
            raise BadObservation(
                f"camera {camera}: the policy needs uint8 images of "
                f"{(steps, size, size, 3)}, got {frames.dtype} of {frames.shape}"
            )
        return np.ascontiguousarray(frames)[None]


def unknown_task(task: str, tasks: Mapping[str, str]) -> UnknownName:
    """The error for a text that names no task, with those of the policy."""
    return UnknownName(f"unknown task '{show_text(task, 200)}'; {list_tasks(tasks)}")


def list_tasks(tasks: Mapping[str, str]) -> str:
    """The tasks of a policy, for errors."""
    known = "; ".join(f"{task_id} ('{prompt}')" for task_id, prompt in tasks.items())
    return f"this policy learned: {known}"


def _finite(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    if values is None or values.shape != shape or not np.isfinite(values).all():
        found = "nothing" if values is None else str(values.shape)
        raise BadObservation(f"{name} must be finite and of shape {shape}, got {found}")
    return np.ascontiguousarray(values[None], np.float32)
