"""How a policy is executed and on which scenes, whoever judges it."""

from dataclasses import dataclass
from typing import Literal, get_args

from nac_ros.errors import ConfigError

Seam = Literal["blend", "best", "force"]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """latency_ms: simulated time from observation to chunk, as measured over ROS 2 on two cores
    n_action_steps: executed steps of each chunk, 0 = as the bundle says
    seam: how chunks go on from one another, see nac_ros.runtime.seams
    scenes: how the twin's vary, a name in config/scenes or the path of a YAML file
    """

    latency_ms: float = 100.0
    n_action_steps: int = 0
    seam: Seam = "blend"
    scenes: str = "nominal"

    def __post_init__(self) -> None:
        if self.seam not in get_args(Seam):
            known = ", ".join(get_args(Seam))
            raise ConfigError(f"unknown seam '{self.seam}'; known are: {known}")
        if not 0 <= self.latency_ms < 1e4:
            raise ConfigError(f"latency_ms must be in 0 .. 10000, got {self.latency_ms}")
        if self.n_action_steps < 0:
            raise ConfigError(f"n_action_steps must be at least 0, got {self.n_action_steps}")
