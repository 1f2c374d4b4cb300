"""What judges and experts ask about a task's free bodies: where they are, whether they rest."""

import numpy as np

from nac_ros.simulation.rendering import mujoco

REST_SPEED = 0.02  # [m/s]


class FreeBody:
    """A body on a free joint of the same name, in one compiled model."""

    def __init__(self, model: "mujoco.MjModel", name: str):
        self.name, self.body = name, model.body(name).id
        joint = model.joint(name)
        self._pose, self._speed = joint.qposadr[0], joint.dofadr[0]
        self.geoms = np.flatnonzero(model.geom_bodyid == self.body)

    def place(self, data: "mujoco.MjData", position: np.ndarray, yaw: float) -> None:
        """Puts it at `position` [m], upright, turned by `yaw` [rad]."""
        turn = (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        data.qpos[self._pose : self._pose + 7] = (*position, *turn)

    def position(self, data: "mujoco.MjData") -> np.ndarray:
        """Where the body's frame is [m], `[3]`; a copy."""
        return data.xpos[self.body].copy()

    def axes(self, data: "mujoco.MjData") -> np.ndarray:
        """Its axes as columns, `[3, 3]`."""
        return data.xmat[self.body].reshape(3, 3)

    def yaw(self, data: "mujoco.MjData") -> float:
        """Direction of its x axis seen from above [rad]."""
        axes = self.axes(data)
        return float(np.arctan2(axes[1, 0], axes[0, 0]))

    def tilt(self, data: "mujoco.MjData") -> float:
        """Angle between its z axis and the vertical [rad]."""
        return float(np.arccos(np.clip(self.axes(data)[2, 2], -1, 1)))

    def velocity(self, data: "mujoco.MjData") -> np.ndarray:
        """Linear velocity in the world [m/s], `[3]`."""
        return data.qvel[self._speed : self._speed + 3]

    def still(self, data: "mujoco.MjData") -> bool:
        """Whether it moves nowhere faster than REST_SPEED."""
        return bool(np.abs(self.velocity(data)).max() < REST_SPEED)


class HoldTimer:
    """For how long a condition has held without a break, by the time it is told."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self.reset()

    def reset(self) -> None:
        """Begins anew."""
        self._since: float | None = None

    def holds(self, condition: bool, now: float) -> bool:
        """Whether the condition holds at `now` [s] and has held for the seconds before."""
        if not condition:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since >= self._seconds
