"""Interface of a task: its objects, start poses, success detector and scripted expert."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import FreeBody, HoldTimer, MocapBody
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco

HORIZON = 1000  # action steps per trial
CHECK_EVERY = 8  # physics steps between two checks for success, 62 checks per second
WORKSPACE = (
    0.14,
    0.46,
    -0.28,
    0.28,
)  # where the arm can pick and lift: x from, to, y from, to [m]


@dataclass(frozen=True)
class Outcome:
    """State of a trial and the reason for it."""

    state: Literal["running", "success", "failure"]
    reason: str


RUNNING = Outcome("running", "")


@dataclass(frozen=True)
class StartPose:
    """Where an object starts: a mark on the table, and the largest distance from it.

    x, y, spread: [m], spread to either side along both axes; yaw, yaw_spread: [rad]
    """

    name: str
    x: float
    y: float
    spread: float
    yaw: float = 0.0
    yaw_spread: float = 0.0

    def sample(self, rng: np.random.Generator, share: float) -> tuple[np.ndarray, float]:
        """A position `[2]` [m] and a yaw [rad] within `share` of the spreads."""
        distance, turn = share * self.spread, share * self.yaw_spread
        position = np.array([self.x, self.y]) + rng.uniform(-distance, distance, 2)
        return position, float(self.yaw + rng.uniform(-turn, turn))


class Task(ABC):
    """One task; an instance belongs to one compiled model and is reused for every trial."""

    id: ClassVar[str]
    prompt: ClassVar[str]
    recoverable_steps: ClassVar[int]  # first control periods, in which the expert may be disturbed
    start_poses: ClassVar[tuple[StartPose, ...]]
    hold_s: ClassVar[float]  # for which success must last [s]
    _objects: Sequence[FreeBody | MocapBody]  # placed by `reset`, one for each start pose

    @abstractmethod
    def add_objects(self, scene: "mujoco.MjSpec") -> None:
        """Adds the task's bodies to the scene before it is compiled."""

    def bind(self, model: "mujoco.MjModel", data: "mujoco.MjData", arm: SimulatedArm) -> None:
        """Looks up the task's bodies in the compiled model; to be extended."""
        self._model, self._data, self._arm = model, data, arm
        self._hold = HoldTimer(data, self.hold_s)

    def reset(self, rng: np.random.Generator, share: float = 1.0) -> None:
        """Places the objects for a new trial, within `share` of their start poses' spreads."""
        self._hold.reset()
        for start, body in zip(self.start_poses, self._objects):
            body.place(*start.sample(rng, share))

    def update(self) -> None:  # noqa: B027 - most objects have no mechanism
        """Updates the state of objects with a mechanism; called after every physics step."""

    @abstractmethod
    def check_success(self) -> Outcome:
        """State of the trial now; called at least 50 times per second."""

    @abstractmethod
    def timeout_reason(self) -> str:
        """Why a trial that is still running at the horizon has failed."""

    @abstractmethod
    def expert_setpoints(self, motion: ExpertMotion) -> Iterator[np.ndarray]:
        """Set-points `[D]` of the expert, one per control period, from any state to success."""


class SuccessDetector:
    """Outcome of the current trial; the first success or failure is final.

    horizon_s: simulated time after which a running trial has failed [s]
    """

    def __init__(self, task: Task, horizon_s: float):
        self._task, self._horizon_s = task, horizon_s
        self.reset()

    def reset(self) -> None:
        """Starts a new trial."""
        self.outcome, self._n_steps = RUNNING, 0

    def update(self, now: float) -> None:
        """Called after every physics step with its simulated time [s]."""
        self._n_steps += 1
        if self._n_steps % CHECK_EVERY or self.outcome.state != "running":
            return
        self.outcome = self._task.check_success()
        if self.outcome.state == "running" and now >= self._horizon_s:
            self.outcome = Outcome("failure", self._task.timeout_reason())


def in_workspace(position: np.ndarray) -> bool:
    """Whether a point [m] is over the part of the table where the arm can pick and lift."""
    x_from, x_to, y_from, y_to = WORKSPACE
    return bool(x_from < position[0] < x_to and y_from < position[1] < y_to)
