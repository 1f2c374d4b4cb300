"""Differential inverse kinematics: tool velocity -> joint velocities, by damped least squares."""

from typing import NamedTuple

import numpy as np

from nac_ros.core.errors import ConfigError
from nac_ros.robot.geometry import BASE
from nac_ros.robot.kinematics import CollisionModel
from nac_ros.robot.spec import RobotSpec

# Motion is damped in directions whose singular value of the Jacobian is smaller than this: for
# translation a lever arm [m], for rotation the share of a joint's turn that rotates the tool.
MIN_LEVER_M, MIN_TURN = 0.03, 0.1
ENOUGH = 0.9  # below this share of the requested speed the tool counts as slowed by a singularity
TOLERANCE = 1e-9  # for rounding


class IkResult(NamedTuple):
    """Joint velocities `[D]`, and why they do less than was requested.

    joints_at_limit: names; singular: whether the arm is near a singularity
    """

    velocities: np.ndarray
    joints_at_limit: tuple[str, ...]
    singular: bool


class DifferentialIk:
    """Moves the tool frame: at the first point of the robot's `body`, or at its last link.

    Translation has priority: an arm that cannot do both translates as requested and rotates as far
    as it can. This includes arms with fewer than six joints. Raises ConfigError for a robot
    without a `body`.
    """

    def __init__(self, spec: RobotSpec):
        if spec.body is None or not spec.body.links:
            raise ConfigError(
                f"robot {spec.name} has no `body` in its YAML, so its tool cannot be moved; set "
                "the parameter jog to joints"
            )
        self._names, self._model = spec.joint_names, CollisionModel(spec, spec.body)
        links = spec.body.links
        index = {link.joint: i for i, link in enumerate(links)}
        tip = spec.body.points[0].link if spec.body.points else links[-1].joint
        self._offset = np.array(spec.body.points[0].xyz if spec.body.points else (0.0, 0.0, 0.0))
        self._tip_frame = 0 if tip == BASE else index[tip] + 1
        self._chain: list[int] = []  # links from base to tool
        while tip != BASE:
            self._chain.insert(0, index[tip])
            tip = links[index[tip]].parent
        self._axes = np.array([links[i].axis for i in self._chain], float)
        self._revolute = np.array([links[i].kind == "revolute" for i in self._chain])
        self._columns = [spec.joint_names.index(links[i].joint) for i in self._chain]

    def pose(self, positions: np.ndarray) -> np.ndarray:
        """base_from_tool `[4, 4]` at joint positions `[D]`."""
        return self._tool_pose(self._model.frames(positions[None])[0])

    def jacobian(self, positions: np.ndarray) -> np.ndarray:
        """Jacobian `[6, D]` at joint positions `[D]`: linear and angular velocity of the tool in
        the base frame per joint velocity."""
        frames = self._model.frames(positions[None])[0]
        tool = self._tool_pose(frames)[:3, 3]
        links = frames[[i + 1 for i in self._chain]]
        axes = np.einsum("nij,nj->ni", links[:, :3, :3], self._axes)
        levers = np.cross(axes, tool - links[:, :3, 3])
        jacobian = np.zeros((6, len(self._names)))
        jacobian[:3, self._columns] = np.where(self._revolute, levers.T, axes.T)
        jacobian[3:, self._columns] = np.where(self._revolute, axes.T, 0.0)
        return jacobian

    def solve(
        self, positions: np.ndarray, twist: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> IkResult:
        """Joint velocities for a `twist` `[6]` [m/s, rad/s] of the tool in the base frame.

        low, high: allowed velocities `[D]`
        """
        # A joint that would exceed its limits is fixed at the limit, and the others are solved
        # again for the rest of the twist, until none exceeds or no joint is left.
        jacobian, velocities = self.jacobian(positions), np.zeros(len(self._names))
        free = jacobian.any(0)
        at_limit: list[int] = []
        for _ in range(len(self._columns)):
            rest = twist - jacobian[:, ~free] @ velocities[~free]
            velocities[free] = _solve(jacobian[:, free], rest)
            exceeds = (velocities > high + TOLERANCE) | (velocities < low - TOLERANCE)
            exceeds &= free
            if not exceeds.any():
                break
            velocities = np.where(exceeds, np.clip(velocities, low, high), velocities)
            at_limit += np.flatnonzero(exceeds).tolist()
            free &= ~exceeds
        velocities = np.clip(velocities, low, high)
        missing = np.linalg.norm((jacobian @ velocities - twist)[:3])
        requested = float(np.linalg.norm(twist[:3]))
        slowed = missing > (1 - ENOUGH) * requested + TOLERANCE and not at_limit
        return IkResult(velocities, tuple(self._names[i] for i in at_limit), bool(slowed))

    def _tool_pose(self, frames: np.ndarray) -> np.ndarray:
        pose = frames[self._tip_frame].copy()
        pose[:3, 3] += pose[:3, :3] @ self._offset
        return pose


def _solve(jacobian: np.ndarray, twist: np.ndarray) -> np.ndarray:
    """Joint velocities `[N]` that translate the tool as requested, and rotate it within the null
    space of the translation."""
    translation, rotation = jacobian[:3], jacobian[3:]
    inverse, used = _damped_inverse(translation, MIN_LEVER_M)
    velocities = inverse @ twist[:3]
    null_space = np.eye(jacobian.shape[1]) - used.T @ used
    rotation_inverse, _ = _damped_inverse(rotation @ null_space, MIN_TURN)
    missing = twist[3:] - rotation @ velocities
    return velocities + null_space @ rotation_inverse @ missing


def _damped_inverse(matrix: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The inverse `[N, 3]` of `matrix` `[3, N]`, damped for singular values below `threshold`, and
    the directions `[K, N]` in which it moves joints."""
    # Damping that grows from 0 at the threshold to threshold^2 at a singular value of 0, as in
    # Chiaverini et al., IEEE Trans. Control Systems Technology 2(2), 1994.
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    damping = np.where(values < threshold, 1 - (values / threshold) ** 2, 0) * threshold**2
    gains = values / np.maximum(values**2 + damping, TOLERANCE**2)
    return (right.T * gains) @ left.T, right[values > TOLERANCE]
