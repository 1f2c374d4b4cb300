"""What every task gives to the twin: its objects, start places, judge and scripted expert."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco

HORIZON = 1000  # action steps per trial
REACH = (0.14, 0.46, -0.28, 0.28)  # where the arm can pick and lift: x from, to, y from, to [m]


@dataclass(frozen=True)
class Outcome:
    """How a trial stands, and why."""

    state: Literal["running", "success", "failure"]
    reason: str


RUNNING = Outcome("running", "")


@dataclass(frozen=True)
class StartPlace:
    """Where an object's trials begin: a mark on the table, and how far from it at most.

    x, y, spread: [m], spread to either side along both axes; yaw, yaw_spread: [rad]
    """

    name: str
    x: float
    y: float
    spread: float
    yaw: float = 0.0
    yaw_spread: float = 0.0

    def draw(self, rng: np.random.Generator, share: float) -> tuple[np.ndarray, float]:
        """A place `[2]` [m] and a yaw [rad] within `share` of the spreads."""
        reach, turn = share * self.spread, share * self.yaw_spread
        place = np.array([self.x, self.y]) + rng.uniform(-reach, reach, 2)
        return place, float(self.yaw + rng.uniform(-turn, turn))


class Task(ABC):
    """One task; an instance belongs to one compiled model and is reused for every trial."""

    id: ClassVar[str]
    prompt: ClassVar[str]
    recoverable_steps: ClassVar[int]  # control periods in which the expert may be disturbed
    starts: ClassVar[tuple[StartPlace, ...]]

    @abstractmethod
    def add_objects(self, scene: "mujoco.MjSpec") -> None:
        """Adds the task's bodies to the scene before it is compiled."""

    @abstractmethod
    def bind(self, model: "mujoco.MjModel", arm: SimulatedArm) -> None:
        """Looks up the task's parts in the compiled model."""

    @abstractmethod
    def place(self, data: "mujoco.MjData", rng: np.random.Generator, share: float = 1.0) -> None:
        """Puts the objects on their start places, up to `share` of each spread beside the mark,
        and forgets the last trial."""

    @abstractmethod
    def update(self, data: "mujoco.MjData") -> None:
        """Follows the objects' own behaviour; called after every physics step."""

    @abstractmethod
    def judge(self, data: "mujoco.MjData") -> Outcome:
        """How the trial stands now; called at least 50 times per second."""

    @abstractmethod
    def at_horizon(self, data: "mujoco.MjData") -> str:
        """Why a trial that is still running at the horizon has failed."""

    @abstractmethod
    def expert(self, data: "mujoco.MjData", mover: ExpertMotion) -> Iterator[np.ndarray]:
        """Set-points `[D]`, one per control period, from wherever the arm is to success."""
