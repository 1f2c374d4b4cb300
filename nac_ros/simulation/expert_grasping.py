"""How experts grasp: pick a body, carry it while it is held, place and release it, retreat."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import FreeBody
from nac_ros.simulation.expert_motion import ExpertMotion

Setpoints = Iterator[np.ndarray]


@dataclass(frozen=True)
class GraspSpec:
    """How the fingers grasp one kind of body; lengths and openings in metres.

    height: of the tool above the body's frame
    closed: opening that is commanded to grasp
    held: least and largest opening that is measured while the body is between the fingers
    symmetry: turn after which the body looks the same to the fingers [rad]; a round one takes
        any yaw, so its value is small and the wrist stays straight
    wide: range of openings to approach and to release with
    tolerance: largest distance between tool and grasp point while the body is held
    """

    height: float
    closed: float
    held: tuple[float, float]
    symmetry: float = 1e-3
    wide: tuple[float, float] = (0.06, 0.07)
    tolerance: float = 0.015


class Grasper:
    """Grasp detection and the moves that pick, place and release bodies of one kind.

    safe_height: of the tool, at which nothing is in the way [m]
    """

    def __init__(self, arm: SimulatedArm, grasp: GraspSpec, safe_height: float):
        self._arm, self.grasp, self.safe_height = arm, grasp, safe_height

    def is_holding(self, body: FreeBody) -> bool:
        """Whether the fingers are closed around `body`, by its position: contacts flicker."""
        offset = self._arm.tool_position() - body.position()
        low, high = self.grasp.held
        near = np.hypot(*offset[:2]) < self.grasp.tolerance
        level = abs(offset[2] - self.grasp.height) < self.grasp.tolerance
        return bool(near and level and low < self._arm.positions()[-1] < high)

    def grasp_yaw(self, position: np.ndarray, yaw: float) -> float:
        """Tool yaw for a body at `position` turned by `yaw` [rad]: of all that its symmetry
        allows, the one with the straightest wrist."""
        waist, symmetry = np.arctan2(position[1], position[0]), self.grasp.symmetry
        return float(waist + (yaw - waist + symmetry / 2) % symmetry - symmetry / 2)

    def carry(self, motion: ExpertMotion, body: FreeBody, moves: Setpoints) -> Setpoints:
        """Picks `body` unless it is held, yields `moves` while it is held, then releases it."""
        if not self.is_holding(body):
            yield from self.pick(motion, body)
        yield from yield_while(lambda: self.is_holding(body), moves)
        if self.is_holding(body):
            yield from self.release(motion)

    def pick(self, motion: ExpertMotion, body: FreeBody) -> Setpoints:
        """Approaches from above, closes around `body` and lifts it to the safe height."""
        rng = motion.style.rng
        hover, wide = rng.uniform(0.05, 0.08), rng.uniform(*self.grasp.wide)
        offset = rng.uniform(-0.002, 0.002, 2)
        target, yaw = self._grasp_pose(body, offset)
        yield from self.rise(motion, target, wide)
        above = np.append(target[:2], max(target[2] + hover, self.safe_height))
        yield from motion.move_tool(above, yaw, wide, blend=rng.uniform(0.01, 0.03))
        target, yaw = self._grasp_pose(body, offset)
        yield from motion.move_tool(target, yaw, wide, speed=rng.uniform(0.3, 0.45))
        yield from motion.wait(int(rng.integers(2, 6)))
        yield from motion.move_gripper(self.grasp.closed, pause=int(rng.integers(5, 9)))
        up, yaw = np.append(motion.tool_position[:2], self.safe_height), motion.tool_yaw
        yield from motion.move_tool(up, yaw, self.grasp.closed, speed=0.7, blend=0.06)

    def place(
        self, motion: ExpertMotion, body: FreeBody, position: np.ndarray, yaw: float
    ) -> Setpoints:
        """Brings the frame of the held `body` to `position` [m] with the tool at `yaw` [rad]."""
        rng, closed = motion.style.rng, self.grasp.closed
        target = position + self._tool_offset(motion, body, yaw)
        above = np.append(target[:2], max(target[2] + rng.uniform(0.03, 0.05), self.safe_height))
        yield from motion.move_tool(above, yaw, closed, speed=0.8)
        target = position + self._tool_offset(motion, body, yaw)
        yield from motion.move_tool(target + [0, 0, 0.02], yaw, closed, speed=0.5, blend=0.02)
        yield from motion.move_tool(target, yaw, closed, speed=rng.uniform(0.2, 0.3))
        yield from motion.wait(int(rng.integers(2, 6)))

    def release(self, motion: ExpertMotion) -> Setpoints:
        """Opens the gripper and moves straight up."""
        rng = motion.style.rng
        wide = rng.uniform(*self.grasp.wide)
        yield from motion.move_gripper(wide, pause=int(rng.integers(4, 8)))
        tool = motion.tool_position
        up = np.append(tool[:2], max(tool[2] + 0.05, self.safe_height))
        yield from motion.move_tool(up, motion.tool_yaw, wide, speed=0.6, blend=0.05)

    def rise(self, motion: ExpertMotion, target: np.ndarray, opening: float) -> Setpoints:
        """Moves straight up if the tool is low and not above `target` [m] already."""
        tool = motion.tool_position
        if tool[2] < self.safe_height - 0.02 and np.linalg.norm((tool - target)[:2]) > 0.01:
            # Never narrower than now: something may be between the fingers.
            yield from motion.move_gripper(max(motion.positions[-1], opening))
            up = np.append(tool[:2], self.safe_height)
            yield from motion.move_tool(up, motion.tool_yaw, opening, blend=0.06)

    def _grasp_pose(self, body: FreeBody, offset: np.ndarray) -> tuple[np.ndarray, float]:
        """Tool position [m] and yaw to close around `body`, `offset` `[2]` [m] from its middle."""
        position = body.position() + np.append(offset, self.grasp.height)
        return position, self.grasp_yaw(position, body.yaw())

    def _tool_offset(self, motion: ExpertMotion, body: FreeBody, yaw: float) -> np.ndarray:
        """Vector from the body to the tool [m] after the tool has turned to `yaw`."""
        x, y, z = self._arm.tool_position() - body.position()
        turn = yaw - motion.tool_yaw
        cos, sin = np.cos(turn), np.sin(turn)
        return np.array([cos * x - sin * y, sin * x + cos * y, z])


def yield_while(condition: Callable[[], bool], moves: Setpoints) -> Setpoints:
    """Yields `moves` until they end or the condition fails, for example when a body slips."""
    while condition() and (setpoint := next(moves, None)) is not None:
        yield setpoint


def retreat(motion: ExpertMotion, position: np.ndarray) -> Setpoints:
    """Moves the tool near `position` [m], opens the gripper and waits there."""
    away = position + motion.style.rng.uniform(-0.02, 0.02, 3)
    yield from motion.move_tool(away, float(np.arctan2(away[1], away[0])), 0.06)
    yield from motion.wait(12)
