"""Where the robot's action `[D]` meets MuJoCo's joints, servos, tool and contacts."""

import numpy as np

from nac_ros.robot.spec import RobotSpec
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.scene import (
    ARM_JOINTS,
    FINGER_CLOSED,
    FINGER_OPEN,
    FINGERS,
    PREFIX,
    TOOL_SITE,
    build_scene,
)


def fingers_from_opening(opening: float) -> tuple[float, float]:
    """Joint positions [m] of the left and right finger at a gripper opening [m]."""
    finger = min(max(FINGER_CLOSED + opening / 2, FINGER_CLOSED), FINGER_OPEN)
    return finger, -finger


class SimulatedArm:
    """The arm inside one compiled model; actions and states are `[D]`, gripper opening last."""

    def __init__(self, model: "mujoco.MjModel"):
        self.model = model
        names = [PREFIX + joint for joint in (*ARM_JOINTS, *FINGERS)]
        self._qpos = np.array([model.joint(name).qposadr[0] for name in names])
        joints = [model.joint(PREFIX + joint) for joint in ARM_JOINTS]
        self._dofs = np.array([joint.dofadr[0] for joint in joints])
        self._tool = model.site(TOOL_SITE).id
        self._bodies = self._subtree(model.body("vx300s_left").id)
        self.geoms = np.flatnonzero(np.isin(model.geom_bodyid, self._bodies))

    @property
    def qpos_addresses(self) -> np.ndarray:
        """Where the six joints and two fingers lie in qpos."""
        return self._qpos

    def state(self, data: "mujoco.MjData") -> np.ndarray:
        """Measured joint positions, float32 `[D]`."""
        return np.append(data.qpos[self._qpos[:-2]], self.opening(data)).astype(np.float32)

    def gravity(self, data: "mujoco.MjData") -> np.ndarray:
        """Torques [Nm] that hold the six joints against gravity, and keep them on their way."""
        return data.qfrc_bias[self._dofs]

    def opening(self, data: "mujoco.MjData") -> float:
        """Measured opening of the gripper [m]."""
        left, right = data.qpos[self._qpos[-2:]]
        return left - right - 2 * FINGER_CLOSED

    def place(self, data: "mujoco.MjData", positions: np.ndarray) -> None:
        """Sets the joints and their servos to `positions` `[D]` at once, at rest."""
        data.qpos[self._qpos] = [*positions[:-1], *fingers_from_opening(positions[-1])]
        self.command(data, positions)

    def command(self, data: "mujoco.MjData", positions: np.ndarray) -> None:
        """Gives the servos the set-point `[D]`."""
        data.ctrl[:] = self.servo(positions)

    @staticmethod
    def servo(positions: np.ndarray) -> np.ndarray:
        """Servo inputs `[..., 8]` of set-points `[..., D]`."""
        half = np.asarray(positions)[..., -1:] / 2
        finger = np.clip(FINGER_CLOSED + half, FINGER_CLOSED, FINGER_OPEN)
        return np.concatenate([np.asarray(positions)[..., :-1], finger, -finger], axis=-1)

    def tool(self, data: "mujoco.MjData") -> np.ndarray:
        """The point between the finger pads [m], `[3]`."""
        return data.site_xpos[self._tool]

    def in_contact(self, data: "mujoco.MjData", geoms: np.ndarray, others: np.ndarray) -> bool:
        """Whether any of `geoms` touches any of `others`."""
        pairs = data.contact.geom[: data.ncon]
        first, second = np.isin(pairs, geoms), np.isin(pairs, others)
        return bool(((first[:, 0] & second[:, 1]) | (first[:, 1] & second[:, 0])).any())

    def touches(self, data: "mujoco.MjData", geoms: np.ndarray) -> bool:
        """Whether any part of the arm touches any of `geoms`."""
        return self.in_contact(data, self.geoms, geoms)

    def collides(self, data: "mujoco.MjData") -> bool:
        """Whether the arm touches anything that is not arm."""
        others = np.setdiff1d(np.arange(self.model.ngeom), self.geoms)
        return self.touches(data, others)

    def _subtree(self, root: int) -> list[int]:
        found = [root]
        for body in range(root + 1, self.model.nbody):
            if self.model.body_parentid[body] in found:
                found.append(body)
        return found


def kinematic_model(spec: RobotSpec) -> "mujoco.MjModel":
    """The arm with no objects, for inverse kinematics."""
    return build_scene(spec).compile()
