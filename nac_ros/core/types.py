"""The values that pass between parts: observation, action chunk, and trajectories."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nac_ros.core.errors import BadActions


@dataclass(frozen=True)
class Observation:
    """Synchronised sensor data at `stamp` [s], with the history that a policy needs, oldest first.

    images: camera name -> uint8 `[K, H, W, 3]` RGB, K = n_obs_steps
    proprio: float32 `[K, D]`, joint positions in the robot's order [rad or m]
    task: prompt or task id
    environment_state: low-dimensional state of the scene, float32 `[K, N]`; None if not observed
    past_commands: the last executed actions, oldest first, float32 `[P, D]` [rad or m]; or None
    """

    stamp: float
    images: dict[str, np.ndarray]
    proprio: np.ndarray
    task: str
    environment_state: np.ndarray | None = None
    past_commands: np.ndarray | None = None

    @property
    def reference(self) -> np.ndarray:
        """Joint state at `stamp`, float32 `[D]`, to which relative actions are added."""
        return self.proprio[-1]


@dataclass(frozen=True)
class ActionChunk:
    """Joint set-points of the next second or so: `actions[i]` is due at stamp + (i + 1) / rate_hz.

    stamp: of the observation [s]; names: joint names, in the order of the columns
    actions: float32 `[T, D]`, absolute joint positions [rad or m]
    tokens: int64 `[L]` from which it was decoded, empty if there are none

    Raises BadActions for actions of another shape.
    """

    stamp: float
    rate_hz: float
    names: tuple[str, ...]
    actions: np.ndarray
    tokens: np.ndarray

    def __post_init__(self) -> None:
        shape = np.shape(self.actions)
        if len(shape) != 2 or shape[0] < 1 or shape[1] != len(self.names):
            wanted = f"[T >= 1, {len(self.names)}]"
            raise BadActions(f"a chunk's actions must have the shape {wanted}, got {shape}")

    @property
    def times(self) -> np.ndarray:
        """Float64 `[T]`: when each action is due [s], on the clock of the stamp."""
        return self.stamp + (np.arange(len(self.actions)) + 1) / self.rate_hz

    @property
    def end(self) -> float:
        """When the last action is due [s]."""
        return self.stamp + len(self.actions) / self.rate_hz


@dataclass(frozen=True)
class JointTrajectory:
    """Commanded joint states `[N, D]` at `times` `[N]` [s] after `stamp` [s]; the last is at rest.

    Between two times every joint's jerk is constant, so the quintic with which a controller
    interpolates the two states is exactly the planned motion.
    """

    stamp: float
    times: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    accelerations: np.ndarray


@dataclass(frozen=True)
class TrajectoryPoint:
    """Point of a trajectory message: positions, optional velocities and accelerations in the
    message's joint order, and `time_from_start` [s]."""

    positions: np.ndarray
    time_from_start: float
    velocities: np.ndarray | None = None
    accelerations: np.ndarray | None = None


@dataclass(frozen=True)
class Trajectory:
    """Content of a trajectory message: points for `joint_names` that start at `stamp` [s]; stamp 0
    means on arrival."""

    joint_names: Sequence[str]
    points: Sequence[TrajectoryPoint]
    stamp: float = 0.0

    @classmethod
    def from_arrays(cls, joint_names: Sequence[str], trajectory: JointTrajectory) -> "Trajectory":
        """The states of `trajectory`, for `joint_names`, as points."""
        t = trajectory
        rows = zip(t.positions, t.times, t.velocities, t.accelerations)
        return cls(joint_names, [TrajectoryPoint(*row) for row in rows], t.stamp)
