"""A leader arm's joints as those of the robot that follows it."""

from collections.abc import Mapping, Sequence

import numpy as np

from nac_ros.core.errors import BadInput, ConfigError
from nac_ros.robot.spec import RobotSpec
from nac_ros.teleop.input_mapping import LeaderJoint


class LeaderArm:
    """Reads a leader's joint states.

    mapped: which joints have a range `[D]`: they always stand where the leader's stand
    """

    def __init__(self, spec: RobotSpec, joints: Mapping[str, LeaderJoint]):
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
        """Where the robot's joints are asked to be `[D]`; raises BadInput for a message that lacks
        a joint or holds one that is not finite."""
        found = dict(zip(names, positions))
        missing = ", ".join(joint.name for joint in self._joints if joint.name not in found)
        if missing:
            came = ", ".join(names) or "no joint"
            raise BadInput(f"the leader's message lacks {missing}; it holds {came}")
        values = np.array([found[joint.name] for joint in self._joints], float)
        if not np.isfinite(values).all():
            worst = self._joints[int(np.flatnonzero(~np.isfinite(values))[0])]
            raise BadInput(f"the leader's joint {worst.name} is not finite")
        ends = zip(self._spec.position_low, self._spec.position_high)
        placed = [_place(joint, at, *end) for joint, at, end in zip(self._joints, values, ends)]
        return np.array(placed)


def _place(joint: LeaderJoint, at: float, low: float, high: float) -> float:
    if joint.range is None:
        return joint.scale * at + joint.offset
    first, last = joint.range
    return low + (high - low) * float(np.clip((at - first) / (last - first), 0, 1))
