"""The tool's velocity as joint velocities: damped least squares on the arm's own kinematics."""

from typing import NamedTuple

import numpy as np

from nac_ros.core.errors import ConfigError
from nac_ros.robot.geometry import BASE
from nac_ros.robot.kinematics import CollisionModel
from nac_ros.robot.spec import RobotSpec

# Below these smallest singular values motion is damped: the shortest lever arm [m] of a turning
# joint, and the smallest share of a turn, that are still worth following exactly.
LEVER_M, TURN = 0.03, 0.1
ENOUGH = 0.9  # share of what is asked for below which the tool counts as slowed
SMALL = 1e-9


class IkResult(NamedTuple):
    """Joint velocities `[D]`, why they do less than was asked for: names of joints at a limit, and
    whether the arm is near a pose where it cannot move so."""

    velocities: np.ndarray
    joints_at_limit: tuple[str, ...]
    singular: bool


class DifferentialIk:
    """The frame in which the tool is led: at the first of the body's points, or at its last link.

    Moving comes before turning: where an arm cannot do both, it moves as asked and turns as far as
    it can. Arms with fewer than six joints are led the same way.
    """

    def __init__(self, spec: RobotSpec):
        if spec.body is None or not spec.body.links:
            raise ConfigError(
                f"robot {spec.name} has no `body` in its YAML, so its tool cannot be led; set the "
                "parameter jog to joints"
            )
        self._names, self._shape = spec.joint_names, CollisionModel(spec, spec.body)
        links = spec.body.links
        order = {link.joint: i for i, link in enumerate(links)}
        tip = spec.body.points[0].link if spec.body.points else links[-1].joint
        self._place = np.array(spec.body.points[0].xyz if spec.body.points else (0.0, 0.0, 0.0))
        self._tip = 0 if tip == BASE else order[tip] + 1
        self._moving: list[int] = []  # links between base and tool
        while tip != BASE:
            self._moving.insert(0, order[tip])
            tip = links[order[tip]].parent
        self._axes = np.array([links[i].axis for i in self._moving], float)
        self._turns = np.array([links[i].kind == "revolute" for i in self._moving])
        self._columns = [spec.joint_names.index(links[i].joint) for i in self._moving]

    def pose(self, positions: np.ndarray) -> np.ndarray:
        """base_from_tool `[4, 4]` at joint positions `[D]`."""
        return self._pose(self._shape.frames(positions[None])[0])

    def jacobian(self, positions: np.ndarray) -> np.ndarray:
        """`[6, D]`: how joints move [m/s] and turn [rad/s] the tool, in the base's axes."""
        frames = self._shape.frames(positions[None])[0]
        place = self._pose(frames)[:3, 3]
        links = frames[[i + 1 for i in self._moving]]
        axes = np.einsum("nij,nj->ni", links[:, :3, :3], self._axes)
        levers = np.cross(axes, place - links[:, :3, 3])
        full = np.zeros((6, len(self._names)))
        full[:3, self._columns] = np.where(self._turns, levers.T, axes.T)
        full[3:, self._columns] = np.where(self._turns, axes.T, 0.0)
        return full

    def solve(
        self, positions: np.ndarray, twist: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> IkResult:
        """How the joints move for a `twist` `[6]` [m/s, rad/s] in the base's axes.

        low, high: velocities that position limits leave to each joint `[D]`; one that would need
            more stays at its limit, the others make up for it as far as they can
        """
        jacobian, velocities = self.jacobian(positions), np.zeros(len(self._names))
        free = jacobian.any(0)
        held: list[int] = []
        for _ in range(len(self._columns)):
            rest = twist - jacobian[:, ~free] @ velocities[~free]
            velocities[free] = _solve(jacobian[:, free], rest)
            out = free & ((velocities > high + SMALL) | (velocities < low - SMALL))
            if not out.any():
                break
            velocities = np.where(out, np.clip(velocities, low, high), velocities)
            held += np.flatnonzero(out).tolist()
            free &= ~out
        velocities = np.clip(velocities, low, high)
        missing = np.linalg.norm((jacobian @ velocities - twist)[:3])
        asked = float(np.linalg.norm(twist[:3]))
        slowed = missing > (1 - ENOUGH) * asked + SMALL and not held
        return IkResult(velocities, tuple(self._names[i] for i in held), bool(slowed))

    def _pose(self, frames: np.ndarray) -> np.ndarray:
        pose = frames[self._tip].copy()
        pose[:3, 3] += pose[:3, :3] @ self._place
        return pose


def _solve(jacobian: np.ndarray, twist: np.ndarray) -> np.ndarray:
    """Joint velocities `[N]` that move the tool, and turn it as far as that leaves freedom."""
    move, turn = jacobian[:3], jacobian[3:]
    inverse, span = _damped(move, LEVER_M)
    velocities = inverse @ twist[:3]
    spare = np.eye(jacobian.shape[1]) - span.T @ span
    again, _ = _damped(turn @ spare, TURN)
    return velocities + spare @ again @ (twist[3:] - turn @ velocities)


def _damped(matrix: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """The inverse `[N, 3]` of `matrix` `[3, N]`, damped where singular values are below `least`,
    and the directions `[K, N]` that it drives."""
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    damping = np.where(sizes < least, 1 - (sizes / least) ** 2, 0) * least**2
    gains = sizes / np.maximum(sizes**2 + damping, SMALL**2)
    inverse = (right.T * gains) @ left.T
    return inverse, right[sizes > SMALL]
