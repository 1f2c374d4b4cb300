"""How experts handle things: picking up, carrying while held, setting down, going back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import FreeBody
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco

Setpoints = Iterator[np.ndarray]
ROUND = 1e-3  # symmetry of what looks the same from all sides: only the straightest wrist is left


@dataclass(frozen=True)
class GraspSpec:
    """How a thing is taken between the fingers, lengths in metres.

    height: of the tool above the thing's frame; closed: opening that is commanded
    measured: openings that the gripper measures while the thing is between the fingers
    symmetry: turn after which the thing looks the same to the fingers [rad]
    wide: openings to come and to let go with; reach: tool to thing, sideways, while it is held
    """

    height: float
    closed: float
    measured: tuple[float, float]
    symmetry: float
    wide: tuple[float, float] = (0.06, 0.07)
    reach: float = 0.015


class Grasper:
    """What the gripper of one arm holds, and the moves that take, carry and set down.

    clear: tool height at which nothing is in the way [m]
    """

    def __init__(self, arm: SimulatedArm, grip: GraspSpec, clear: float):
        self._arm, self.grip, self.clear = arm, grip, clear

    def holds(self, data: "mujoco.MjData", part: FreeBody) -> bool:
        """Whether the fingers are closed around the part; contacts alone flicker in motion."""
        offset = self._arm.tool(data) - part.position(data)
        low, high = self.grip.measured
        near = np.hypot(*offset[:2]) < self.grip.reach
        level = abs(offset[2] - self.grip.height) < self.grip.reach
        return bool(near and level and low < self._arm.state(data)[-1] < high)

    def yaw(self, position: np.ndarray, yaw: float) -> float:
        """Of the ways to take a thing turned by `yaw` [rad], that with the straightest wrist."""
        waist, turn = np.arctan2(position[1], position[0]), self.grip.symmetry
        return float(waist + (yaw - waist + turn / 2) % turn - turn / 2)

    def take(self, data: "mujoco.MjData", mover: ExpertMotion, part: FreeBody) -> Setpoints:
        """Comes from above, closes around the part and lifts it to where nothing is in the way."""
        rng = mover.style.rng
        hover, wide = rng.uniform(0.05, 0.08), rng.uniform(*self.grip.wide)
        beside = rng.uniform(-0.002, 0.002, 2)
        goal, yaw = self._around(data, part, beside)
        yield from self.rise(mover, goal, wide)
        above = np.append(goal[:2], max(goal[2] + hover, self.clear))
        yield from mover.go(above, yaw, wide, blend=rng.uniform(0.01, 0.03))
        goal, yaw = self._around(data, part, beside)
        yield from mover.go(goal, yaw, wide, slow=rng.uniform(0.3, 0.45))
        yield from mover.wait(int(rng.integers(2, 6)))
        yield from mover.grip(self.grip.closed, pause=int(rng.integers(5, 9)))
        up = np.append(mover.tool[:2], self.clear)
        yield from mover.go(up, mover.tool_yaw, self.grip.closed, slow=0.7, blend=0.06)

    def set_down(
        self,
        data: "mujoco.MjData",
        mover: ExpertMotion,
        part: FreeBody,
        place: np.ndarray,
        yaw: float,
    ) -> Setpoints:
        """Brings the part's frame to `place` [m], the tool turned to `yaw`; does not let go."""
        rng = mover.style.rng
        goal = place + self._offset(data, mover, part, yaw)
        above = np.append(goal[:2], max(goal[2] + rng.uniform(0.03, 0.05), self.clear))
        yield from mover.go(above, yaw, self.grip.closed, slow=0.8)
        goal = place + self._offset(data, mover, part, yaw)
        yield from mover.go(goal + [0, 0, 0.02], yaw, self.grip.closed, slow=0.5, blend=0.02)
        yield from mover.go(goal, yaw, self.grip.closed, slow=rng.uniform(0.2, 0.3))
        yield from mover.wait(int(rng.integers(2, 6)))

    def let_go(self, mover: ExpertMotion) -> Setpoints:
        """Opens where the arm is, then rises straight up."""
        rng = mover.style.rng
        wide = rng.uniform(*self.grip.wide)
        yield from mover.grip(wide, pause=int(rng.integers(4, 8)))
        up = np.append(mover.tool[:2], max(mover.tool[2] + 0.05, self.clear))
        yield from mover.go(up, mover.tool_yaw, wide, slow=0.6, blend=0.05)

    def rise(self, mover: ExpertMotion, goal: np.ndarray, wide: float) -> Setpoints:
        """Straight up first, where the tool is low and not above its goal [m] already."""
        tool = mover.tool
        if tool[2] < self.clear - 0.02 and np.linalg.norm((tool - goal)[:2]) > 0.01:
            opening = max(mover.positions[-1], wide)  # no fingers close on what stands between
            yield from mover.grip(opening)
            yield from mover.go(np.append(tool[:2], self.clear), mover.tool_yaw, wide, blend=0.06)

    def _around(
        self, data: "mujoco.MjData", part: FreeBody, beside: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """Tool position [m] and yaw to close around the part."""
        position = part.position(data) + np.append(beside, self.grip.height)
        return position, self.yaw(position, part.yaw(data))

    def _offset(
        self, data: "mujoco.MjData", mover: ExpertMotion, part: FreeBody, yaw: float
    ) -> np.ndarray:
        """From the part to the tool [m], once the tool has turned to `yaw`."""
        x, y, z = self._arm.tool(data) - part.position(data)
        turn = yaw - mover.tool_yaw
        cos, sin = np.cos(turn), np.sin(turn)
        return np.array([cos * x - sin * y, sin * x + cos * y, z])


def while_true(condition: Callable[[], bool], moves: Setpoints) -> Setpoints:
    """Breaks off as soon as the condition fails, such as when a thing slips out."""
    while condition() and (setpoint := next(moves, None)) is not None:
        yield setpoint


def retreat(mover: ExpertMotion, place: np.ndarray) -> Setpoints:
    """Goes to about `place` [m], opens, and rests there."""
    away = place + mover.style.rng.uniform(-0.02, 0.02, 3)
    yield from mover.go(away, float(np.arctan2(away[1], away[0])), 0.06)
    yield from mover.wait(12)
