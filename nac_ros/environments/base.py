"""The contract of simulated worlds: spec, scenes, observations, actions, success."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

from nac_ros.core.errors import BadActions, ConfigError, SimulationError


@dataclass(frozen=True, kw_only=True)
class ActionSpace:
    """Actions float64 `[D]`, one each control period.

    names, units: of the D dimensions, such as `waist` and `rad`, "" for a number without unit
    low, high: limits in these units; rate_hz: of the actions [Hz]
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    rate_hz: float

    def __post_init__(self) -> None:
        if len({len(self.names), len(self.units), len(self.low), len(self.high)}) != 1:
            raise ConfigError(
                f"an action space needs as many units and limits as names, which are {self.names}"
            )
        if (
            not np.isfinite([*self.low, *self.high]).all()
            or not np.less(self.low, self.high).all()
        ):
            raise ConfigError(
                f"an action space needs finite limits, low below high, got low {self.low} and "
                f"high {self.high}; correct them, or rescale actions without limits"
            )
        if not 0 < self.rate_hz < 1e5:
            raise ConfigError(f"rate_hz must be above 0 and below 1e5, got {self.rate_hz}")

    @property
    def dim(self) -> int:
        return len(self.names)

    def clip(self, action: Any) -> np.ndarray:
        """The action `[D]` within its limits, float64; raises BadActions unless it is finite and
        of that shape."""
        values = np.asarray(action, np.float64)
        if values.shape != (self.dim,):
            raise BadActions(f"an action must have the shape ({self.dim},), got {values.shape}")
        if not np.isfinite(values).all():
            raise BadActions(f"an action must be finite, got {values.tolist()}")
        return np.clip(values, self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec:
    """What is known of an environment before it starts.

    name: `suite/task`; prompt: the task in words, as a policy gets it
    state_names: of the S joints or numbers of the robot's own state
    environment_state_dim: N, numbers of the low-dimensional state of the scene, 0 without one
    cameras: all that can be observed, name -> (height, width) [pixels]
    max_steps: control periods of a trial
    n_scenes: number of different scenes; None = unlimited
    """

    name: str
    prompt: str
    actions: ActionSpace
    state_names: tuple[str, ...]
    environment_state_dim: int = 0
    cameras: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    max_steps: int
    n_scenes: int | None = None

    def __post_init__(self) -> None:
        if self.max_steps < 1 or self.environment_state_dim < 0:
            raise ConfigError(
                f"{self.name}: max_steps must be at least 1 and environment_state_dim at least 0, "
                f"got {self.max_steps} and {self.environment_state_dim}"
            )


@dataclass(frozen=True)
class WorldObservation:
    """What is observed at one control period.

    proprio: the robot's own state, float32 `[S]`
    environment_state: low-dimensional state of the scene, float32 `[N]`; None without one
    images: camera -> uint8 `[H, W, 3]` RGB
    """

    proprio: np.ndarray
    environment_state: np.ndarray | None = None
    images: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Result of one action.

    solved: whether the task is solved now; ended: whether the trial is over, because it is
        solved, can no longer be solved, or its time has run out
    """

    observation: WorldObservation
    solved: bool
    ended: bool


class Environment(ABC):
    """A task in a simulated world. `reset` starts a trial, which `step` advances until it ends.

    The same scene and actions give the same trial. A subclass implements `start`, `advance` and
    `close`; the checks of actions and observations are here.

    cameras: those whose images are observed
    """

    def __init__(self, spec: EnvironmentSpec, cameras: Sequence[str] = ()):
        if unknown := set(cameras) - set(spec.cameras):
            known = ", ".join(spec.cameras) or "none"
            raise SimulationError(f"{spec.name} has no camera '{min(unknown)}'; it has: {known}")
        self.spec, self.cameras = spec, tuple(cameras)
        self.n_steps = 0  # actions since the reset
        self._running = False

    @abstractmethod
    def start(self, scene: int) -> WorldObservation:
        """Sets up a scene and lets it come to rest."""

    @abstractmethod
    def advance(self, action: np.ndarray) -> Step:
        """Executes an action `[D]` within the limits for one control period; `ended` says whether
        the trial is over for another reason than its time."""

    @abstractmethod
    def close(self) -> None:
        """Frees renderers and processes; may be called twice."""

    def reset(self, scene: int) -> WorldObservation:
        """Starts a trial. scene: number of the scene, from 0; raises SimulationError if there is
        no such scene."""
        count = self.spec.n_scenes
        if scene < 0 or (count is not None and scene >= count):
            last = "" if count is None else f" to {count - 1}"
            raise SimulationError(f"{self.spec.name} has scenes from 0{last}, got {scene}")
        observation = self._checked(self.start(scene))
        self.n_steps, self._running = 0, True
        return observation

    def step(self, action: Any) -> Step:
        """Executes an action `[D]`, clipped to its limits.

        Raises BadActions for one that is not finite or of another shape, and SimulationError if
        no trial is running.
        """
        if not self._running:
            raise SimulationError(f"{self.spec.name}: no trial is running; call reset first")
        found = self.advance(self.spec.actions.clip(action))
        self.n_steps += 1
        ended = found.solved or found.ended or self.n_steps >= self.spec.max_steps
        self._running = not ended
        return Step(self._checked(found.observation), found.solved, ended)

    def _checked(self, observation: WorldObservation) -> WorldObservation:
        """Raises SimulationError unless the observation is that of the spec."""
        spec, states = self.spec, {"proprio": observation.proprio}
        sizes = {"proprio": len(spec.state_names)}
        if spec.environment_state_dim:
            sizes["environment_state"] = spec.environment_state_dim
            states["environment_state"] = observation.environment_state
        for name, values in states.items():
            if values is None or values.shape != (sizes[name],) or values.dtype != np.float32:
                raise SimulationError(f"{spec.name}: {name} must be float32 of {sizes[name]}")
            if not np.isfinite(values).all():
                raise SimulationError(f"{spec.name}: {name} is not finite: {values.tolist()}")
        for camera in self.cameras:
            image = observation.images.get(camera)
            shape = (*spec.cameras[camera], 3)
            if image is None or image.shape != shape or image.dtype != np.uint8:
                raise SimulationError(f"{spec.name}: camera {camera} must give uint8 of {shape}")
        return observation

    def __enter__(self) -> "Environment":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Suite(ABC):
    """A family of environments that share a simulator.

    install: command that installs what the suite needs, "" if nothing
    """

    install: str = ""

    @abstractmethod
    def tasks(self) -> tuple[str, ...]:
        """Names of its tasks, also while it is not installed."""

    @abstractmethod
    def is_installed(self) -> bool:
        """Whether its environments can be started."""

    @abstractmethod
    def spec(self, task: str) -> EnvironmentSpec:
        """Of a task, without starting it."""

    @abstractmethod
    def make(self, task: str, cameras: Sequence[str]) -> Environment:
        """Starts a task; raises SimulationError if the suite is not installed."""
