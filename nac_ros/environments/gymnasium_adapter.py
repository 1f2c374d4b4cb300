"""Gymnasium environments as ours, and ours as Gymnasium environments."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError, NacError, SimulationError
from nac_ros.environments.base import (
    ActionSpace,
    Environment,
    EnvironmentSpec,
    Step,
    WorldObservation,
)

try:
    import gymnasium
except ImportError as error:
    raise SimulationError(
        "Gymnasium is not installed: pip install 'nac_ros[metaworld]'"
    ) from error


@dataclass(frozen=True, kw_only=True)
class GymnasiumConfig:
    """A Gymnasium environment with a success flag.

    id, options: of `gymnasium.make`; module: imported first if it registers the id
    prompt: the task in words; rate_hz: of the actions
    success: key of the flag in `info`
    proprio, environment_state: keys in a dictionary of observations; an empty proprio is the whole
        observation, a vector, and an empty environment_state is none
    cameras: name -> key of its image in the observations
    names: of the action dimensions, by default numbered
    """

    id: str
    prompt: str
    rate_hz: float = number_field(30.0, 1e-3, 1e4)
    max_steps: int = number_field(500, 1)
    success: str = "is_success"
    module: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    proprio: str = ""
    environment_state: str = ""
    cameras: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)


def wrap(config: GymnasiumConfig, cameras: Sequence[str] = ()) -> Environment:
    """The Gymnasium environment of a config; raises ConfigError if they do not fit."""
    try:
        if config.module:
            importlib.import_module(config.module)
        world = gymnasium.make(config.id, **config.options)
    except (ImportError, gymnasium.error.Error, TypeError) as error:
        raise ConfigError(
            f"gymnasium.make('{config.id}') failed: {error}; install or name the module that "
            "registers it, or correct id and options"
        ) from error
    try:
        return WrappedEnvironment(_spec_of(config, world), world, config, cameras)
    except NacError:
        world.close()
        raise


class WrappedEnvironment(Environment):
    """A Gymnasium environment; the scene is the seed of its reset."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        world: gymnasium.Env,
        config: GymnasiumConfig,
        cameras: Sequence[str],
    ):
        super().__init__(spec, cameras)
        self._world, self._config = world, config

    def start(self, scene: int) -> WorldObservation:
        observation, _ = self._world.reset(seed=scene)
        return self._observe(observation)

    def advance(self, action: np.ndarray) -> Step:
        dtype = self._world.action_space.dtype
        observation, _, terminated, truncated, info = self._world.step(action.astype(dtype))
        if self._config.success not in info:
            raise SimulationError(
                f"{self.spec.name}: no '{self._config.success}' in info, which has: "
                f"{', '.join(map(str, info)) or 'nothing'}; set success to the key of the flag"
            )
        ended = bool(terminated) or bool(truncated)
        return Step(self._observe(observation), bool(info[self._config.success]), ended)

    def close(self) -> None:
        self._world.close()

    def _observe(self, observation: Any) -> WorldObservation:
        config, environment = self._config, None
        if config.environment_state:
            environment = _vector(observation, config.environment_state)
        images = {c: np.asarray(observation[config.cameras[c]]) for c in self.cameras}
        return WorldObservation(_vector(observation, config.proprio), environment, images)


class GymnasiumView(gymnasium.Env):
    """One of our environments for programs that expect Gymnasium's interface.

    Observations are a dictionary: `proprio`, where it exists `environment_state`, and images by
    camera. The reward is 1 in the step that solves the task, which is also `info["is_success"]`.
    """

    def __init__(self, environment: Environment):
        spec = environment.spec
        self._environment, actions = environment, spec.actions
        low, high = np.array(actions.low), np.array(actions.high)
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float64)
        sizes = {"proprio": len(spec.state_names)}
        if spec.environment_state_dim:
            sizes["environment_state"] = spec.environment_state_dim
        spaces: dict[str, gymnasium.Space[Any]] = {
            name: gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
            for name, size in sizes.items()
        }
        for camera in environment.cameras:
            shape = (*spec.cameras[camera], 3)
            spaces[camera] = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.observation_space = gymnasium.spaces.Dict(spaces)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """seed: number of the scene, modulo their number; without one the scene is random"""
        super().reset(seed=seed)
        count = self._environment.spec.n_scenes or 2**31
        scene = int(self.np_random.integers(count)) if seed is None else seed % count
        return _as_dictionary(self._environment.reset(scene)), {"scene": scene}

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        found = self._environment.step(action)
        truncated = found.ended and not found.solved
        facts = {"is_success": found.solved}
        return (
            _as_dictionary(found.observation),
            float(found.solved),
            found.solved,
            truncated,
            facts,
        )

    def close(self) -> None:
        self._environment.close()


def _as_dictionary(observation: WorldObservation) -> dict[str, np.ndarray]:
    found = {"proprio": observation.proprio, **observation.images}
    if observation.environment_state is not None:
        found["environment_state"] = observation.environment_state
    return found


def _vector(observation: Any, key: str) -> np.ndarray:
    values = observation[key] if isinstance(observation, Mapping) else observation
    return np.asarray(values, np.float32).reshape(-1)


def _spec_of(config: GymnasiumConfig, world: gymnasium.Env) -> EnvironmentSpec:
    space = world.action_space
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise ConfigError(f"{config.id}: its actions are {space}, wanted a Box of one dimension")
    names = config.names or tuple(f"action.{k}" for k in range(space.shape[0]))
    return EnvironmentSpec(
        name=f"gymnasium/{config.id}",
        prompt=config.prompt,
        actions=ActionSpace(
            names=names,
            units=("",) * len(names),
            low=tuple(space.low.astype(float).tolist()),
            high=tuple(space.high.astype(float).tolist()),
            rate_hz=config.rate_hz,
        ),
        state_names=_numbered("state", _size_of(world, config.proprio)),
        environment_state_dim=(
            _size_of(world, config.environment_state) if config.environment_state else 0
        ),
        cameras={name: _image_size(world, key) for name, key in config.cameras.items()},
        max_steps=config.max_steps,
    )


def _space_of(world: gymnasium.Env, key: str) -> gymnasium.Space[Any]:
    """The space of an observation; raises ConfigError if there is none with that key."""
    space = world.observation_space
    if not key:
        return space
    if not isinstance(space, gymnasium.spaces.Dict) or key not in space.spaces:
        known = ", ".join(getattr(space, "spaces", {})) or "no keys"
        raise ConfigError(f"the observations have no '{key}'; they have {known}")
    return space[key]


def _size_of(world: gymnasium.Env, key: str) -> int:
    space = _space_of(world, key)
    if not isinstance(space, gymnasium.spaces.Box):
        raise ConfigError(f"'{key}' is {space}, wanted a Box; name a key of the observations")
    return int(np.prod(space.shape))


def _image_size(world: gymnasium.Env, key: str) -> tuple[int, int]:
    shape = _space_of(world, key).shape
    if shape is None or len(shape) != 3:
        raise ConfigError(f"'{key}' has the shape {shape}, wanted an image [H, W, 3]")
    return shape[0], shape[1]


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}.{k}" for k in range(count))
