"""The ViperX arm in MuJoCo: action vectors `[D]` as joints, servo targets, tool and contacts."""

import numpy as np

from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.scene import (
    ARM_JOINTS,
    FINGER_CLOSED,
    FINGER_OPEN,
    FINGERS,
    PREFIX,
    TOOL_SITE,
)


class SimulatedArm:
    """The arm of one compiled model; actions and states are `[D]`, gripper opening last."""

    def __init__(self, model: "mujoco.MjModel", data: "mujoco.MjData"):
        self._data, self._n_geoms = data, model.ngeom
        names = [PREFIX + joint for joint in (*ARM_JOINTS, *FINGERS)]
        self._qpos = np.array([model.joint(name).qposadr[0] for name in names])
        self._dofs = np.array([model.joint(PREFIX + joint).dofadr[0] for joint in ARM_JOINTS])
        self._tool = model.site(TOOL_SITE).id
        root = model.body("vx300s_left").id
        self.geoms = np.flatnonzero(model.body_rootid[model.geom_bodyid] == root)

    def positions(self) -> np.ndarray:
        """Measured joint positions, float32 `[D]`."""
        return np.append(self._data.qpos[self._qpos[:-2]], self.opening()).astype(np.float32)

    def opening(self) -> float:
        """Measured opening of the gripper [m]."""
        left, right = self._data.qpos[self._qpos[-2:]]
        return left - right - 2 * FINGER_CLOSED

    def gravity_torques(self) -> np.ndarray:
        """Torques [Nm] of the six joints that balance gravity, Coriolis and centrifugal forces."""
        return self._data.qfrc_bias[self._dofs]

    def set_positions(self, positions: np.ndarray) -> None:
        """Moves the joints to `positions` `[D]` without physics, with servo targets to match."""
        targets = self.servo_targets(positions)
        self._data.qpos[self._qpos] = targets
        self._data.ctrl[:] = targets

    @staticmethod
    def servo_targets(setpoints: np.ndarray) -> np.ndarray:
        """Positions `[..., 8]` of six joints and both fingers for set-points `[..., D]`."""
        half = np.asarray(setpoints)[..., -1:] / 2
        finger = np.clip(FINGER_CLOSED + half, FINGER_CLOSED, FINGER_OPEN)
        return np.concatenate([np.asarray(setpoints)[..., :-1], finger, -finger], axis=-1)

    def tool_position(self) -> np.ndarray:
        """Point between the finger pads [m], `[3]`; a view that changes with the simulation."""
        return self._data.site_xpos[self._tool]

    def touches(self, geoms: np.ndarray) -> bool:
        """Whether any geom of the arm is in contact with any of `geoms`."""
        pairs = self._data.contact.geom[: self._data.ncon]  # [contacts, 2]
        of_arm, of_others = np.isin(pairs, self.geoms), np.isin(pairs, geoms)
        return bool((of_arm & of_others[:, ::-1]).any())

    def collides(self) -> bool:
        """Whether the arm touches anything but itself."""
        return self.touches(np.setdiff1d(np.arange(self._n_geoms), self.geoms))
