"""Bodies of a task in a compiled model: their poses, whether they rest, and geom options."""

import numpy as np

from nac_ros.simulation.rendering import mujoco

BOX, CYLINDER = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
ELLIPSOID, SPHERE = mujoco.mjtGeom.mjGEOM_ELLIPSOID, mujoco.mjtGeom.mjGEOM_SPHERE
VISUAL = {"mass": 0, "contype": 0, "conaffinity": 0}  # a geom that is drawn but never touched
HIDDEN = {"rgba": (0, 0, 0, 0), "group": 3}  # a geom that is touched but not drawn
REST_SPEED = 0.02  # [m/s]


class Body:
    """A named body and its frame in the world."""

    def __init__(self, model: "mujoco.MjModel", data: "mujoco.MjData", name: str):
        self.name, self._data, self._id = name, data, model.body(name).id
        self._height = model.body(name).pos[2]
        self.geoms = np.flatnonzero(model.geom_bodyid == self._id)

    def position(self) -> np.ndarray:
        """Origin of the body's frame [m], `[3]`; a copy."""
        return self._data.xpos[self._id].copy()

    def axes(self) -> np.ndarray:
        """Axes of the body's frame as columns, `[3, 3]`."""
        return self._data.xmat[self._id].reshape(3, 3)

    def to_world(self, local: np.ndarray) -> np.ndarray:
        """A point `[3]` in the body's frame [m] as a point in the world."""
        return self.position() + self.axes() @ local

    def to_local(self, point: np.ndarray) -> np.ndarray:
        """A point `[3]` in the world [m] as a point in the body's frame."""
        return self.axes().T @ (point - self.position())

    def yaw(self) -> float:
        """Direction of the x axis seen from above [rad]."""
        axes = self.axes()
        return float(np.arctan2(axes[1, 0], axes[0, 0]))

    def tilt(self) -> float:
        """Angle between the z axis and the vertical [rad]."""
        return float(np.arccos(np.clip(self.axes()[2, 2], -1, 1)))


class FreeBody(Body):
    """A body on a free joint of the same name."""

    def __init__(self, model: "mujoco.MjModel", data: "mujoco.MjData", name: str):
        super().__init__(model, data, name)
        joint = model.joint(name)
        self._qpos, self._dof = joint.qposadr[0], joint.dofadr[0]

    def place(self, position: np.ndarray, yaw: float) -> None:
        """Puts the body on the table at `position` `[2]` [m], upright, turned by `yaw` [rad]."""
        self.set_pose(np.append(position, self._height), yaw)

    def set_pose(self, position: np.ndarray, yaw: float) -> None:
        """Puts the body at `position` `[3]` [m], upright, turned by `yaw` [rad]."""
        self._data.qpos[self._qpos : self._qpos + 7] = (*position, *yaw_quaternion(yaw))

    def velocity(self) -> np.ndarray:
        """Linear velocity in the world [m/s], `[3]`."""
        return self._data.qvel[self._dof : self._dof + 3]

    def is_at_rest(self) -> bool:
        """Whether no component of the velocity reaches REST_SPEED."""
        return bool(np.abs(self.velocity()).max() < REST_SPEED)


class MocapBody(Body):
    """A body that physics does not move, such as a board."""

    def __init__(self, model: "mujoco.MjModel", data: "mujoco.MjData", name: str):
        super().__init__(model, data, name)
        self._mocap = model.body_mocapid[self._id]

    def place(self, position: np.ndarray, yaw: float) -> None:
        """Puts the body on the table at `position` `[2]` [m], turned by `yaw` [rad]."""
        self._data.mocap_pos[self._mocap] = (*position, self._height)
        self._data.mocap_quat[self._mocap] = yaw_quaternion(yaw)


class HoldTimer:
    """Tells when a condition has held without a break for `seconds` of simulated time."""

    def __init__(self, data: "mujoco.MjData", seconds: float):
        self._data, self._seconds = data, seconds
        self.reset()

    def reset(self) -> None:
        """Restarts the timer."""
        self._since: float | None = None

    def update(self, condition: bool) -> bool:
        """Takes the condition now; whether it has held long enough."""
        if not condition:
            self._since = None
            return False
        if self._since is None:
            self._since = self._data.time
        return self._data.time - self._since >= self._seconds


def yaw_quaternion(yaw: float) -> tuple[float, float, float, float]:
    """Quaternion (w, x, y, z) of a turn by `yaw` [rad] about z."""
    return np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)
