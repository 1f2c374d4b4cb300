"""The three values that pass between parts: what was seen, what is planned, what is commanded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nac_ros.core.errors import BadActions


@dataclass(frozen=True)
class Observation:
    """What the robot saw at `stamp` [s], with the history a policy needs, oldest first.

    images: camera name -> uint8 `[K, H, W, 3]` RGB, K = observation history
    proprio: float32 `[K, D]`, joint positions in the robot's order [rad or m]
    task: prompt or task id
    """

    stamp: float
    images: dict[str, np.ndarray]
    proprio: np.ndarray
    task: str

    @property
    def reference(self) -> np.ndarray:
        """Joint state at `stamp`, float32 `[D]`: what relative chunks are relative to."""
        return self.proprio[-1]


@dataclass(frozen=True)
class ActionChunk:
    """A planned piece of motion: `actions[i]` is to be reached at `stamp + (i + 1) / rate_hz`.

    stamp: the observation's stamp [s]; names: joint names, the columns' order
    actions: float32 `[T, D]`, absolute joint set-points [rad or m]
    tokens: int64 `[L]` it was decoded from, empty where there are none
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
        """Float64 `[T]`: when each action is to be reached [s], on the stamp's clock."""
        return self.stamp + (np.arange(len(self.actions)) + 1) / self.rate_hz

    @property
    def end(self) -> float:
        """When the last action is to be reached [s]."""
        return self.stamp + len(self.actions) / self.rate_hz


@dataclass(frozen=True)
class JointTrajectory:
    """What is commanded: joint states `[N, D]` at `times` `[N]` [s] after `stamp` [s].

    The last one is at rest. Between two times every joint's jerk is constant, so the quintic that
    a controller lays through both states is the motion itself.
    """

    stamp: float
    times: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    accelerations: np.ndarray


@dataclass(frozen=True)
class TrajectoryPoint:
    """Positions and optional velocities and accelerations in the trajectory's joint order,
    `time_from_start` [s]."""

    positions: np.ndarray
    time_from_start: float
    velocities: np.ndarray | None = None
    accelerations: np.ndarray | None = None


@dataclass(frozen=True)
class Trajectory:
    """Points for `joint_names`, starting at `stamp` [s]; stamp 0 means on arrival."""

    joint_names: Sequence[str]
    points: Sequence[TrajectoryPoint]
    stamp: float = 0.0

    @classmethod
    def from_arrays(cls, joint_names: Sequence[str], motion: JointTrajectory) -> "Trajectory":
        """A motion of `joint_names`, its states as points."""
        rows = zip(motion.positions, motion.times, motion.velocities, motion.accelerations)
        return cls(joint_names, [TrajectoryPoint(*row) for row in rows], motion.stamp)
