"""How a policy is executed and on which scenes, whoever judges it."""

from dataclasses import dataclass
from typing import Literal, get_args

from nac_ros.core.config import FILE, bounded, check_bounds, named
from nac_ros.core.errors import ConfigError

Seam = Literal["blend", "best", "force"]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """latency_ms: simulated time from observation to chunk, as measured over ROS 2 on two cores
    n_action_steps: executed steps of each chunk, 0 = as the bundle says
    seam: how chunks go on from one another, see nac_ros.inference.chunk_transition
    scenes: how the twin's vary, a name in config/scenes or the path of a YAML file
    """

    latency_ms: float = bounded(100.0, 0.0, 10_000.0, unit="ms")
    n_action_steps: int = bounded(0, 0, 10_000)
    seam: Seam = "blend"
    scenes: str = named("nominal", FILE)

    def __post_init__(self) -> None:
        if self.seam not in get_args(Seam):
            known = ", ".join(get_args(Seam))
            raise ConfigError(f"unknown seam '{self.seam}'; known are: {known}")
        check_bounds(self)
