"""The twin's tasks as environments: actions are joint set-points of the simulated ViperX 300."""

from collections.abc import Sequence

import numpy as np

from nac_ros.environments import SUITES
from nac_ros.environments.base import (
    ActionSpace,
    Environment,
    EnvironmentSpec,
    Step,
    Suite,
    WorldObservation,
)
from nac_ros.robot.spec import RobotSpec, load_robot
from nac_ros.simulation.seeds import scene_seed
from nac_ros.simulation.tasks import list_tasks, make_task
from nac_ros.simulation.tasks.base import HORIZON

ROBOT = "vx300s"
SCENES = 0  # seed of the scenes


@SUITES.register("twin")
class TwinSuite(Suite):
    """The eight physical tasks in MuJoCo (`nac_ros.simulation`)."""

    install = "pip install 'nac_ros[sim]'"

    def tasks(self) -> tuple[str, ...]:
        return tuple(list_tasks())

    def is_installed(self) -> bool:
        try:
            import mink  # noqa: F401
            import mujoco  # noqa: F401
        except ImportError:
            return False
        return True

    def spec(self, task: str) -> EnvironmentSpec:
        robot = load_robot(ROBOT)
        return EnvironmentSpec(
            name=f"twin/{task}",
            prompt=make_task(task).prompt,
            actions=ActionSpace(
                names=robot.joint_names,
                units=robot.units,
                low=tuple(robot.position_low.tolist()),
                high=tuple(robot.position_high.tolist()),
                rate_hz=robot.action_rate_hz,
            ),
            state_names=robot.joint_names,
            cameras={camera.name: (camera.height, camera.width) for camera in robot.cameras},
            max_steps=HORIZON,
        )

    def make(self, task: str, cameras: Sequence[str]) -> Environment:
        return TwinEnvironment(self.spec(task), task, cameras, load_robot(ROBOT))


class TwinEnvironment(Environment):
    """One task; an action is reached one control period later, without a guard between."""

    def __init__(
        self, spec: EnvironmentSpec, task: str, cameras: Sequence[str], robot: RobotSpec
    ) -> None:
        from nac_ros.simulation.twin import Twin

        super().__init__(spec, cameras)
        self._task = task
        self.twin = Twin(robot, task, render=bool(cameras))

    def start(self, scene: int) -> WorldObservation:
        self.twin.reset(scene_seed(self._task, SCENES, scene))
        return self._observe()

    def advance(self, action: np.ndarray) -> Step:
        from nac_ros.simulation.expert import step_to_setpoint

        step_to_setpoint(self.twin, action)
        state = self.twin.outcome().state
        return Step(self._observe(), state == "success", state != "running")

    def close(self) -> None:
        self.twin.close()

    def _observe(self) -> WorldObservation:
        state = self.twin.read()
        images = {camera: state.images[camera][1] for camera in self.cameras}
        return WorldObservation(state.proprio.astype(np.float32), None, images)
