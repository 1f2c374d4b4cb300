"""Conditions of a rollout: execution of chunks, and domain randomization."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from nac_ros.core.config import FILE, check_fields, number_field, text_field
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

    latency_ms: float = number_field(100.0, 0.0, 10_000.0, unit="ms")
    n_action_steps: int = number_field(0, 0, 10_000)
    transition: Transition = "blend"
    randomization: str = text_field("nominal", FILE)

    def __post_init__(self) -> None:
        check_choice("transition", self.transition, get_args(Transition))
        check_fields(self)


def check_choice(field: str, value: str, choices: Sequence[str]) -> None:
    """Raises ConfigError unless `value` of `field` is one of `choices`."""
    if value not in choices:
        raise ConfigError(f"unknown {field} '{value}'; known are: {', '.join(choices)}")
