"""Conditions of a rollout: how chunks are executed and how scenes vary."""

from dataclasses import dataclass
from typing import Literal, get_args

from nac_ros.core.config import FILE, bounded, check_bounds, named
from nac_ros.core.errors import ConfigError

Transition = Literal["blend", "best-of-n", "constrained"]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """latency_ms: simulated time from observation to chunk; the default was measured over ROS 2
        on two cores
    n_action_steps: executed steps of each chunk, 0 = as in the bundle
    transition: how a new chunk continues the current one, see nac_ros.inference.chunk_transition
    randomization: domain randomization of the twin, a name in config/randomization or the path of
        a YAML file
    """

    latency_ms: float = bounded(100.0, 0.0, 10_000.0, unit="ms")
    n_action_steps: int = bounded(0, 0, 10_000)
    transition: Transition = "blend"
    randomization: str = named("nominal", FILE)

    def __post_init__(self) -> None:
        if self.transition not in get_args(Transition):
            known = ", ".join(get_args(Transition))
            raise ConfigError(f"unknown transition '{self.transition}'; known are: {known}")
        check_bounds(self)
