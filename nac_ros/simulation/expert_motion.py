"""How experts move: inverse kinematics of the tool, jerk-limited set-points between targets."""

from collections.abc import Iterator
from dataclasses import dataclass

import mink
import numpy as np
import ruckig

from nac_ros.core.errors import SimulationError
from nac_ros.robot.spec import RobotSpec
from nac_ros.simulation.scene import ARM_JOINTS, PREFIX, TOOL_SITE, build_scene

# At speed 1. Far inside the robot's limits: the error of a 120-bit codec grows with the speed of
# chunks (at the shoulder 0.015 rad above 0.8 rad/s, 0.005 rad below 0.3 rad/s), and a button press
# is 7 mm deep.
ARM_VELOCITY, ARM_ACCELERATION, ARM_JERK = 0.7, 3.5, 25.0  # [rad/s], [rad/s^2], [rad/s^3]
GRIPPER_VELOCITY, GRIPPER_ACCELERATION, GRIPPER_JERK = 0.12, 1.0, 15.0  # [m/s], ...


class Kinematics:
    """Forward and inverse kinematics of a tool that points down; deterministic."""

    def __init__(self, spec: RobotSpec):
        model = build_scene(spec).compile()
        self._configuration = mink.Configuration(model)
        self._tool_task = mink.FrameTask(
            TOOL_SITE, "site", position_cost=1.0, orientation_cost=0.3, lm_damping=1e-4
        )
        self._posture_task = mink.PostureTask(model, cost=1e-4)
        self._limits = [mink.ConfigurationLimit(model)]
        self._qpos = [model.joint(PREFIX + joint).qposadr[0] for joint in ARM_JOINTS]
        self._rest = self._configuration.q.copy()
        self._home = spec.home[: len(ARM_JOINTS)]

    def solve(self, position: np.ndarray, yaw: float) -> np.ndarray:
        """Six joint angles with the tool at `position` [m], fingers closing across `yaw` [rad].

        The search starts at home with the waist turned towards the target, so that near targets
        have near solutions. Raises SimulationError for a target out of reach.
        """
        waist = float(np.arctan2(position[1], position[0]))
        start = self._rest.copy()
        start[self._qpos] = self._home
        start[self._qpos[0]] = waist
        start[self._qpos[-1]] = waist - yaw
        self._configuration.update(start)
        self._posture_task.set_target(start)
        self._tool_task.set_target(_tool_down(position, yaw))
        tasks = [self._tool_task, self._posture_task]
        for _ in range(100):
            error = self._tool_task.compute_error(self._configuration)
            if np.linalg.norm(error[:3]) < 2e-4 and np.linalg.norm(error[3:]) < 5e-3:
                return self._configuration.q[self._qpos].copy()
            step = mink.solve_ik(
                self._configuration, tasks, 1.0, "daqp", damping=1e-6, limits=self._limits
            )
            self._configuration.integrate_inplace(step, 1.0)
        raise SimulationError(f"the arm cannot point down at {np.round(position, 3)} m")

    def tool_position(self, joints: np.ndarray) -> np.ndarray:
        """Position of the tool `[3]` [m] at six joint angles."""
        return self._tool_pose(joints).translation()

    def tool_yaw(self, joints: np.ndarray) -> float:
        """The inverse of `solve` for the yaw [rad]; exact when the tool points down."""
        across = self._tool_pose(joints).rotation().as_matrix()[:, 1]
        return float(np.arctan2(-across[0], across[1]))

    def _tool_pose(self, joints: np.ndarray) -> mink.SE3:
        q = self._rest.copy()
        q[self._qpos] = joints
        self._configuration.update(q)
        return self._configuration.get_transform_frame_to_world(TOOL_SITE, "site")


def _tool_down(position: np.ndarray, yaw: float) -> mink.SE3:
    forward = np.array([np.cos(yaw), np.sin(yaw), 0])
    down = np.array([0, 0, -1.0])
    axes = np.stack([down, np.cross(forward, down), forward], axis=1)
    rotation = mink.SO3.from_matrix(axes)
    return mink.SE3.from_rotation_and_translation(rotation, np.asarray(position, float))


@dataclass(frozen=True)
class MotionStyle:
    """What differs between episodes: speed, and a random generator for paths and pauses."""

    speed: float
    rng: np.random.Generator

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "MotionStyle":
        return cls(speed=float(rng.uniform(0.8, 1.25)), rng=rng)


class ExpertMotion:
    """Turns targets into set-points `[D]`, one per control period, with bounded jerk (Ruckig).

    A new target continues from the last set-point and its velocity, so the motion stays smooth.
    """

    def __init__(
        self,
        spec: RobotSpec,
        kinematics: Kinematics,
        style: MotionStyle,
        positions: np.ndarray,
        velocities: np.ndarray,
    ):
        """positions, velocities: `[D]`, of the set-point at which the motion starts"""
        self.kinematics, self.style = kinematics, style
        self._low, self._high = spec.position_low, spec.position_high
        dof = spec.action_dim
        self._ruckig = ruckig.Ruckig(dof, 1 / spec.action_rate_hz)
        self._output = ruckig.OutputParameter(dof)
        self._input = ruckig.InputParameter(dof)
        self._input.current_position = list(positions)
        self._input.target_position = list(positions)
        self._input.current_velocity = list(velocities)
        self._input.synchronization = ruckig.Synchronization.Phase
        self._set_limits(1.0)

    @property
    def positions(self) -> np.ndarray:
        """The last set-point `[D]`; clipped, as a fast start may pass a limit by microns."""
        return np.clip(self._input.current_position, self._low, self._high)

    @property
    def tool_position(self) -> np.ndarray:
        """Tool position of the last set-point [m], `[3]`."""
        return self.kinematics.tool_position(self.positions[:-1])

    @property
    def tool_yaw(self) -> float:
        """Direction across which the fingers close at the last set-point, from above [rad]."""
        return self.kinematics.tool_yaw(self.positions[:-1])

    def move_tool(
        self,
        position: np.ndarray,
        yaw: float,
        opening: float,
        speed: float = 1.0,
        blend: float = 0.0,
    ) -> Iterator[np.ndarray]:
        """Moves the tool to a pose; `speed` and `blend` as for `move_joints`."""
        joints = self.kinematics.solve(position, yaw)
        return self.move_joints(np.append(joints, opening), speed, blend)

    def move_joints(
        self, target: np.ndarray, speed: float = 1.0, blend: float = 0.0
    ) -> Iterator[np.ndarray]:
        """Set-points up to `target` `[D]`.

        speed: share of the episode's velocity
        blend: the motion ends as soon as all joints are this near to the target [rad]; 0 = at rest
        """
        self._set_limits(speed)
        target = np.clip(target, self._low, self._high)
        self._input.target_position = list(target)
        for finished in self._steps():
            yield self.positions
            if finished or np.abs(self.positions - target)[:-1].max() < blend:
                return

    def move_gripper(self, opening: float, pause: int = 0) -> Iterator[np.ndarray]:
        """Opens or closes the gripper at the last target of the arm, then waits."""
        target = np.array(self._input.target_position)
        target[-1] = opening
        yield from self.move_joints(target)
        yield from self.wait(pause)

    def wait(self, steps: int) -> Iterator[np.ndarray]:
        """`steps` control periods in which the arm reaches its last target and stays there."""
        for _, _ in zip(range(steps), self._steps()):
            yield self.positions

    def _steps(self) -> Iterator[bool]:
        """Advances one control period at a time; True when at rest on the target."""
        while True:
            result = self._ruckig.update(self._input, self._output)
            if result not in (ruckig.Result.Working, ruckig.Result.Finished):
                target = np.round(self._input.target_position, 3)
                raise SimulationError(f"no jerk-limited trajectory to {target}: {result}")
            self._output.pass_to_input(self._input)
            yield result == ruckig.Result.Finished

    def _set_limits(self, speed: float) -> None:
        arm, style = self._input.degrees_of_freedom - 1, self.style.speed
        self._input.max_velocity = [ARM_VELOCITY * style * speed] * arm + [GRIPPER_VELOCITY]
        self._input.max_acceleration = [ARM_ACCELERATION * style] * arm + [GRIPPER_ACCELERATION]
        self._input.max_jerk = [ARM_JERK * style] * arm + [GRIPPER_JERK]
