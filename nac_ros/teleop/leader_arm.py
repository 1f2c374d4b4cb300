"""Leader arm: its joint states as joint positions of the robot, and how the robot follows them."""

from collections.abc import Mapping, Sequence

import numpy as np

from nac_ros.core.errors import BadInput, ConfigError
from nac_ros.robot.spec import RobotSpec
from nac_ros.teleop.input_mapping import LeaderJoint
from nac_ros.teleop.servo_target import ServoTarget

NEAR_S = 0.05  # a joint is near the leader if full speed covers the distance in this time


class LeaderArm:
    """Maps the joints of a leader arm to those of the robot.

    has_range: joints whose leader range is mapped to the robot's limits, bool `[D]`
    """

    def __init__(self, spec: RobotSpec, joints: Mapping[str, LeaderJoint]):
        """Raises ConfigError for a joint that the robot does not have."""
        for name in joints:
            if name not in spec.joint_names:
                known = ", ".join(spec.joint_names)
                raise ConfigError(
                    f"leader: robot {spec.name} has no joint '{name}'; it has: {known}"
                )
        self._spec = spec
        self._joints = [joints.get(name, LeaderJoint(name=name)) for name in spec.joint_names]
        self.has_range = np.array([joint.range is not None for joint in self._joints])

    def read(self, names: Sequence[str], positions: Sequence[float]) -> np.ndarray:
        """Robot joint positions `[D]` for the leader's joint state.

        Raises BadInput if a joint is missing or not finite.
        """
        found = dict(zip(names, positions))
        missing = ", ".join(joint.name for joint in self._joints if joint.name not in found)
        if missing:
            known = ", ".join(names) or "no joint"
            raise BadInput(f"the leader's message lacks {missing}; it holds {known}")
        values = np.array([found[joint.name] for joint in self._joints], float)
        if not np.isfinite(values).all():
            bad = self._joints[int(np.flatnonzero(~np.isfinite(values))[0])]
            raise BadInput(f"the leader's joint {bad.name} is not finite")
        limits = zip(self._spec.position_low, self._spec.position_high)
        return np.array([_map(*each) for each in zip(self._joints, values, limits)])


def _map(joint: LeaderJoint, position: float, limits: tuple[float, float]) -> float:
    if joint.range is None:
        return joint.scale * position + joint.offset
    first, last = joint.range
    share = float(np.clip((position - first) / (last - first), 0, 1))
    return limits[0] + (limits[1] - limits[0]) * share


class LeaderFollower:
    """Joint velocities that move the robot to the positions of its leader arm.

    absolute: joints that take the leader's position; the others add the leader's motion since
        the start of the takeover, bool `[D]`
    approach_speed: share of full speed until an absolute joint has reached the leader
    """

    def __init__(self, spec: RobotSpec, absolute: np.ndarray, approach_speed: float):
        self._spec, self._absolute, self._approach_speed = spec, absolute, approach_speed
        self.start(spec.home, spec.home)

    def start(self, robot: np.ndarray, leader: np.ndarray) -> None:
        """Starts a takeover with robot and leader at these positions `[D]`."""
        self._offset = robot - leader
        self._reached = ~self._absolute

    def velocities(self, leader: np.ndarray, target: ServoTarget, dt: float) -> np.ndarray:
        """Joint velocities `[D]` towards the `leader`'s positions `[D]`.

        The joints of an arm reach the leader together: none is at full speed before all of them
        are near. Grippers do so one by one.
        """
        spec = self._spec
        goal = np.where(self._absolute, leader, leader + self._offset)
        goal = np.clip(goal, spec.position_low, spec.position_high)
        near = np.abs(goal - target.positions) <= NEAR_S * spec.velocity_limit
        arm = spec.relative_mask
        arm_reached = (near | self._reached)[arm].all()
        self._reached = self._reached | near & (~arm | arm_reached)
        speed = np.where(self._reached, 1.0, self._approach_speed)
        return target.velocities_towards(goal, dt, speed)
