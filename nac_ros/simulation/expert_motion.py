"""How experts move: poses by inverse kinematics, and jerk-limited set-points between them."""

from collections.abc import Iterator
from dataclasses import dataclass

import mink
import numpy as np
import ruckig

from nac_ros.core.errors import SimulationError
from nac_ros.robot.spec import RobotSpec
from nac_ros.simulation.arm import kinematic_model
from nac_ros.simulation.scene import ARM_JOINTS, PREFIX, TOOL_SITE

# At speed 1. Far inside the robot's own limits: a codec of 120 bits misses fast chunks by more
# (0.015 rad of the shoulder above 0.8 rad/s, 0.005 rad below 0.3 rad/s), and a press is 7 mm deep.
ARM_VELOCITY, ARM_ACCELERATION, ARM_JERK = 0.7, 3.5, 25.0  # [rad/s], [rad/s^2], [rad/s^3]
GRIPPER_VELOCITY, GRIPPER_ACCELERATION, GRIPPER_JERK = 0.12, 1.0, 15.0  # [m/s], ...


class Kinematics:
    """Joint angles that bring the tool, pointing down, to a place; the same place, same angles."""

    def __init__(self, spec: RobotSpec):
        model = kinematic_model(spec)
        self._configuration = mink.Configuration(model)
        self._task = mink.FrameTask(
            TOOL_SITE, "site", position_cost=1.0, orientation_cost=0.3, lm_damping=1e-4
        )
        self._posture = mink.PostureTask(model, cost=1e-4)
        self._limits = [mink.ConfigurationLimit(model)]
        self._address = [model.joint(PREFIX + joint).qposadr[0] for joint in ARM_JOINTS]
        self._rest = self._configuration.q.copy()
        self._home = spec.home[: len(ARM_JOINTS)]

    def solve(self, position: np.ndarray, yaw: float) -> np.ndarray:
        """Six joint angles with the tool at `position` [m], fingers closing across `yaw` [rad].

        Always starts from the same posture, turned towards the target, so that near targets give
        near angles. Raises SimulationError out of reach.
        """
        waist = float(np.arctan2(position[1], position[0]))
        start = self._rest.copy()
        start[self._address] = self._home
        start[self._address[0]] = waist
        start[self._address[-1]] = waist - yaw
        self._configuration.update(start)
        self._posture.set_target(start)
        target = _tool_down(position, yaw)
        self._task.set_target(target)
        for _ in range(100):
            error = self._task.compute_error(self._configuration)
            if np.linalg.norm(error[:3]) < 2e-4 and np.linalg.norm(error[3:]) < 5e-3:
                return self._configuration.q[self._address].copy()
            step = mink.solve_ik(
                self._configuration,
                [self._task, self._posture],
                1.0,
                solver="daqp",
                damping=1e-6,
                limits=self._limits,
            )
            self._configuration.integrate_inplace(step, 1.0)
        raise SimulationError(f"the arm cannot point down at {np.round(position, 3)} m")

    def tool(self, joints: np.ndarray) -> np.ndarray:
        """Position of the tool `[3]` [m] at six joint angles."""
        return self._tool_pose(joints).translation()

    def yaw(self, joints: np.ndarray) -> float:
        """The inverse of `solve` for the yaw [rad]; exact when the tool points down."""
        across = self._tool_pose(joints).rotation().as_matrix()[:, 1]
        return float(np.arctan2(-across[0], across[1]))

    def _tool_pose(self, joints: np.ndarray) -> mink.SE3:
        q = self._rest.copy()
        q[self._address] = joints
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
    """How one episode differs from another: speed, and a generator for path and pauses."""

    speed: float
    rng: np.random.Generator

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "MotionStyle":
        return cls(speed=float(rng.uniform(0.8, 1.25)), rng=rng)


class ExpertMotion:
    """Turns targets into set-points, one per control period, with bounded jerk.

    It knows its own last set-point and velocity, so a new target bends the motion smoothly.
    """

    def __init__(
        self,
        spec: RobotSpec,
        kinematics: Kinematics,
        style: MotionStyle,
        positions: np.ndarray,
        velocities: np.ndarray,
    ):
        self.kinematics, self.style = kinematics, style
        self._low, self._high = spec.position_low, spec.position_high
        dof = spec.action_dim
        self._otg = ruckig.Ruckig(dof, 1 / spec.action_rate_hz)
        self._out = ruckig.OutputParameter(dof)
        self._input = ruckig.InputParameter(dof)
        self._input.current_position = list(positions)
        self._input.target_position = list(positions)
        self._input.current_velocity = list(velocities)
        self._input.synchronization = ruckig.Synchronization.Phase
        self._limit(1.0)

    @property
    def positions(self) -> np.ndarray:
        """The last set-point `[D]`; a motion that began fast may overshoot a limit by microns."""
        return np.clip(self._input.current_position, self._low, self._high)

    @property
    def tool(self) -> np.ndarray:
        """Where the last set-point puts the tool [m], `[3]`."""
        return self.kinematics.tool(self.positions[:-1])

    @property
    def tool_yaw(self) -> float:
        """Direction across which the last set-point closes the fingers, seen from above [rad]."""
        return self.kinematics.yaw(self.positions[:-1])

    def go(
        self,
        position: np.ndarray,
        yaw: float,
        opening: float,
        slow: float = 1.0,
        blend: float = 0.0,
    ) -> Iterator[np.ndarray]:
        """Moves the tool to a pose; see `to`."""
        joints = self.kinematics.solve(position, yaw)
        return self.to(np.append(joints, opening), slow, blend)

    def to(
        self, target: np.ndarray, slow: float = 1.0, blend: float = 0.0
    ) -> Iterator[np.ndarray]:
        """Set-points up to `target` `[D]`; ends when it is within `blend` [rad], else at rest.

        slow: share of the episode's velocity
        """
        self._limit(slow)
        goal = np.clip(target, self._low, self._high)
        self._input.target_position = list(goal)
        for finished in self._steps():
            yield self.positions
            if finished or np.abs(self.positions - goal)[:-1].max() < blend:
                return

    def grip(self, opening: float, pause: int = 0) -> Iterator[np.ndarray]:
        """Opens or closes where the arm is or was bound to stop, then waits."""
        target = np.array(self._input.target_position)
        target[-1] = opening
        yield from self.to(target)
        yield from self.wait(pause)

    def wait(self, steps: int) -> Iterator[np.ndarray]:
        """Goes on to the last target and stays there, for so many control periods."""
        for _, _ in zip(range(steps), self._steps()):
            yield self.positions

    def _steps(self) -> Iterator[bool]:
        """Advances one control period at a time; True when at rest on the target."""
        while True:
            result = self._otg.update(self._input, self._out)
            if result not in (ruckig.Result.Working, ruckig.Result.Finished):
                goal = np.round(self._input.target_position, 3)
                raise SimulationError(f"no smooth way to {goal}: {result}")
            self._out.pass_to_input(self._input)
            yield result == ruckig.Result.Finished

    def _limit(self, slow: float) -> None:
        arm = self._input.degrees_of_freedom - 1
        speed = self.style.speed
        self._input.max_velocity = [ARM_VELOCITY * speed * slow] * arm + [GRIPPER_VELOCITY]
        self._input.max_acceleration = [ARM_ACCELERATION * speed] * arm + [GRIPPER_ACCELERATION]
        self._input.max_jerk = [ARM_JERK * speed] * arm + [GRIPPER_JERK]
