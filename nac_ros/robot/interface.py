"""RobotInterface: reading the state of a robot or simulator, and sending trajectories to it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nac_ros.core.types import JointTrajectory
from nac_ros.robot.spec import RobotSpec


class RobotInterface(Protocol):
    """A robot arm, real or simulated; the same control loop drives both."""

    spec: RobotSpec

    def now(self) -> float:
        """The robot's clock [s]."""

    def read(self) -> "RobotState":
        """The newest joint state and images."""

    def write(self, trajectory: JointTrajectory) -> None:
        """Sends a trajectory, which replaces the one sent before."""

    def hold(self) -> None:
        """Holds the last set-point."""


@dataclass(frozen=True)
class RobotState:
    """Newest joint positions, float32 `[D]` at `stamp` [s], and images: camera -> (stamp [s],
    uint8 `[H, W, 3]`)."""

    stamp: float
    proprio: np.ndarray
    images: dict[str, tuple[float, np.ndarray]]
