"""The robot interface: what every robot or simulator offers to the code that drives it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nac_ros.core.types import JointTrajectory
from nac_ros.robot.spec import RobotSpec


class RobotInterface(Protocol):
    """The face of an arm, real or simulated, to the one loop that drives both."""

    spec: RobotSpec

    def now(self) -> float:
        """The robot's clock [s]."""

    def read(self) -> "RobotState":
        """The newest joint state and images."""

    def write(self, motion: JointTrajectory) -> None:
        """Sends what is commanded from now on; it replaces what was sent before."""

    def hold(self) -> None:
        """Stays at the last set-point."""


@dataclass(frozen=True)
class RobotState:
    """Newest values: proprio float32 `[D]` at `stamp` [s]; camera -> (stamp, uint8 image)."""

    stamp: float
    proprio: np.ndarray
    images: dict[str, tuple[float, np.ndarray]]
