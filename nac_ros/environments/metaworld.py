"""Meta-World (Farama-Foundation, MIT): fifty tasks of a Sawyer arm, with scripted experts.

Version 3.1.1 pins an old MuJoCo and runs with the one of `sim`, so it is installed without its
dependencies.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from nac_ros.core.errors import SimulationError
from nac_ros.environments import SUITES
from nac_ros.environments.base import (
    ActionSpace,
    Environment,
    EnvironmentSpec,
    Step,
    Suite,
    WorldObservation,
)

TASKS = (
    *("assembly", "basketball", "bin-picking", "box-close", "button-press-topdown"),
    *("button-press-topdown-wall", "button-press", "button-press-wall", "coffee-button"),
    *("coffee-pull", "coffee-push", "dial-turn", "disassemble", "door-close", "door-lock"),
    *("door-open", "door-unlock", "drawer-close", "drawer-open", "faucet-close", "faucet-open"),
    *("hammer", "hand-insert", "handle-press-side", "handle-press", "handle-pull-side"),
    *("handle-pull", "lever-pull", "peg-insert-side", "peg-unplug-side", "pick-out-of-hole"),
    *("pick-place", "pick-place-wall", "plate-slide-back-side", "plate-slide-back"),
    *("plate-slide-side", "plate-slide", "push-back", "push", "push-wall", "reach", "reach-wall"),
    *("shelf-place", "soccer", "stick-pull", "stick-push", "sweep-into", "sweep"),
    *("window-close", "window-open"),
)
VERSION = "-v3"  # of the tasks' names in Meta-World
STARTS = 50  # that Meta-World draws at once
IMAGE = (128, 128)
CAMERAS = ("corner2", "gripperPOV", "corner", "corner3", "topview", "behindGripper")
UPSIDE_DOWN = ("corner", "corner2", "corner3")  # as Meta-World mounts them
STATES = ("x", "y", "z", "opening")  # of the hand [m], and of its fingers from 0 to 1
ENVIRONMENT_DIM = 39  # hand and objects now and one step before, and the goal
MAX_STEPS = 500


@SUITES.register("metaworld")
class MetaworldSuite(Suite):
    """MT50; scene k is start k mod 50 of those that Meta-World draws with seed k div 50."""

    install = "pip install 'nac_ros[sim,metaworld]' && pip install --no-deps metaworld==3.1.1"

    def tasks(self) -> tuple[str, ...]:
        return TASKS

    def is_installed(self) -> bool:
        return all(map(find_spec, ("metaworld", "gymnasium")))

    def spec(self, task: str) -> EnvironmentSpec:
        return EnvironmentSpec(
            name=f"metaworld/{task}",
            prompt=task.replace("-", " "),
            actions=ActionSpace(
                names=("x", "y", "z", "gripper"),
                units=("",) * 4,
                low=(-1.0,) * 4,
                high=(1.0,) * 4,
                rate_hz=80.0,
            ),
            state_names=STATES,
            environment_state_dim=ENVIRONMENT_DIM,
            cameras=dict.fromkeys(CAMERAS, IMAGE),
            max_steps=MAX_STEPS,
        )

    def make(self, task: str, cameras: Sequence[str]) -> Environment:
        if not self.is_installed():
            raise SimulationError(f"Meta-World is not installed: {self.install}")
        return MetaworldEnvironment(self.spec(task), task, cameras)


class MetaworldEnvironment(Environment):
    """One task; actions are displacements of the hand and the closing of the gripper."""

    def __init__(self, spec: EnvironmentSpec, task: str, cameras: Sequence[str]):
        super().__init__(spec, cameras)
        self._task = task + VERSION
        self._world = _benchmark(self._task, 0).train_classes[self._task]()
        self._renderer: Any = None

    def start(self, scene: int) -> WorldObservation:
        seed, start = divmod(scene, STARTS)
        self._world.set_task(_benchmark(self._task, seed).train_tasks[start])
        observation, _ = self._world.reset()
        return self._observe(observation)

    def advance(self, action: np.ndarray) -> Step:
        observation, _, _, _, facts = self._world.step(action)
        return Step(self._observe(observation), bool(facts["success"] > 0), False)

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _observe(self, observation: np.ndarray) -> WorldObservation:
        state = observation.astype(np.float32)
        images = {camera: self._render(camera) for camera in self.cameras}
        return WorldObservation(state[: len(STATES)], state, images)

    def _render(self, camera: str) -> np.ndarray:
        from nac_ros.simulation.rendering import open_renderer

        if self._renderer is None:
            self._renderer = open_renderer(self._world.model, IMAGE[1], IMAGE[0])
        self._renderer.update_scene(self._world.data, camera)
        image = self._renderer.render()
        return image[::-1, ::-1].copy() if camera in UPSIDE_DOWN else image.copy()


@lru_cache(maxsize=32)
def _benchmark(task: str, seed: int) -> Any:
    """The fifty starts of a task for a seed."""
    from metaworld import MT1

    return MT1(task, seed=seed)
