"""Folding a towel in half: a MuJoCo flex cloth that the fingers hold by a constraint.

Friction at point contacts did not hold the cloth between the pads. So the vertex
nearest to the fingertips is connected to the gripper when the fingers close on the cloth, and
released when they open. The cloth touches only the table, neither the fingers nor itself, so the
layers of a folded towel may intersect.
"""

from collections.abc import Iterator

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import REST_SPEED, HoldTimer
from nac_ros.simulation.expert_grasping import Grasper, GraspSpec, retreat, yield_while
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.scene import PREFIX
from nac_ros.simulation.tasks import TASKS
from nac_ros.simulation.tasks.base import RUNNING, Outcome, StartPose, Task, in_workspace
from nac_ros.simulation.tasks.cloth import Cloth, add_cloth

START = StartPose("towel", 0.32, 0.045, 0.02, yaw=np.pi / 2, yaw_spread=np.deg2rad(8))
SHAPE = (9, 5)  # vertices along and across; MuJoCo allows at most 50 on one plane
SPACING = 0.03  # [m]
LENGTH = SPACING * (SHAPE[0] - 1)  # long side of the flat towel [m]
EDGE_APART = 0.03  # largest mean distance of the short edges of a folded towel [m]
OVERLAP = 0.8  # least share of the upper half over the lower one
PINCHED, OPENED = 0.008, 0.014  # openings at which the fingers grasp and release [m]
GRASP_DISTANCE = 0.022  # largest distance from tool to vertex when the fingers grasp [m]
ARCH = 0.045  # height of the tool midway through a fold [m]
AWAY = np.array([0.2, 0.0, 0.22])  # tool position at the end [m]
LOW = 0.0125  # tool height at which the fingertips are 4 mm above the table [m]
GRASP = GraspSpec(height=LOW, closed=0.0, held=(0, PINCHED), wide=(0.04, 0.055))


@TASKS.register("fold_towel")
class FoldTowel(Task):
    """Success when the towel is folded in half, either half on top, released and at rest:
    short edge on short edge and half over half."""

    id = "fold_towel"
    prompt = "Fold the towel."
    recoverable_steps = 80
    start_poses = (START,)
    hold_s = 0.5

    def add_objects(self, scene: "mujoco.MjSpec") -> None:
        add_cloth(scene, START, SHAPE, SPACING, PREFIX + "gripper_link")

    def bind(self, model: "mujoco.MjModel", data: "mujoco.MjData", arm: SimulatedArm) -> None:
        super().bind(model, data, arm)
        self.cloth = Cloth(model, data, START.name, SHAPE, arm)
        self._grasper = Grasper(arm, GRASP, safe_height=0.09)
        self._unfolded = HoldTimer(data, self.hold_s)
        self._was_folded = self._was_closed = False

    def reset(self, rng: np.random.Generator, share: float = 1.0) -> None:
        position, yaw = START.sample(rng, share)
        self.cloth.set_flat(position - (START.x, START.y), yaw - START.yaw)
        self._hold.reset()
        self._unfolded.reset()
        self._was_folded = self._was_closed = False

    def update(self) -> None:
        """Grasps the cloth when the fingers close on it, and releases it when they open."""
        opening = self._arm.opening()
        is_closed = opening < PINCHED
        if self.cloth.held_vertex() is None and is_closed and not self._was_closed:
            self.cloth.grasp(GRASP_DISTANCE)
        if opening > OPENED:
            self.cloth.release()
        self._was_closed = is_closed

    def check_success(self) -> Outcome:
        if not in_workspace(self.cloth.points().reshape(-1, 3).mean(0)):
            return Outcome("failure", "the towel left the workspace")
        rests = not self._is_held() and self.cloth.speed() < REST_SPEED
        folded = rests and self.is_folded()
        self._was_folded |= folded
        if self._hold.update(folded):
            return Outcome("success", "the towel is folded in half")
        if self._unfolded.update(rests and self._was_folded and not folded):
            return Outcome("failure", "the towel was unfolded again")
        return RUNNING

    def timeout_reason(self) -> str:
        if not self.is_folded():
            return "the towel is not folded at the end"
        return "the towel is folded but not released and at rest at the end"

    def is_folded(self) -> bool:
        """Whether short edge is on short edge and half over half."""
        points = self.cloth.points()
        if np.linalg.norm(points[0] - points[-1], axis=-1).mean() > EDGE_APART:
            return False
        return self.cloth.overlap() >= OVERLAP

    def expert_setpoints(self, motion: ExpertMotion) -> Iterator[np.ndarray]:
        while not self.is_folded():
            if not self._is_held():
                yield from self._pinch(motion)
            yield from yield_while(self._is_held, self._fold(motion))
            if self._is_held():
                yield from self._grasper.release(motion)
        if self._is_held():
            yield from self._grasper.release(motion)
        yield from retreat(motion, AWAY)

    def _is_held(self) -> bool:
        return self.cloth.held_vertex() is not None

    def _pinch(self, motion: ExpertMotion) -> Iterator[np.ndarray]:
        """Grasps the right short edge: at first its middle, later its worst corner."""
        rng = motion.style.rng
        wide, hover = rng.uniform(0.04, 0.055), rng.uniform(0.04, 0.06)
        offset = rng.uniform((0.002, -0.004), (0.009, 0.004))  # inwards and along the edge [m]
        column = self._next_column()
        target, yaw = self._edge_pose(column, offset)
        yield from self._grasper.rise(motion, target, wide)
        above = target + [0, 0, hover]
        yield from motion.move_tool(above, yaw, wide, blend=rng.uniform(0.01, 0.03))
        target, yaw = self._edge_pose(column, offset)
        yield from motion.move_tool(target, yaw, wide, speed=rng.uniform(0.3, 0.45))
        yield from motion.wait(int(rng.integers(2, 6)))
        yield from motion.move_gripper(0.0, pause=int(rng.integers(5, 9)))

    def _fold(self, motion: ExpertMotion) -> Iterator[np.ndarray]:
        """Moves the held vertex in a low arch to a little beyond its place on the other edge.

        The arch is low, so that the corners slide along the table: hanging corners fold under.
        """
        rng = motion.style.rng
        row, column = divmod(self.cloth.held_vertex() or 0, SHAPE[1])
        points, yaw = self.cloth.points()[:, column, :2], motion.tool_yaw
        edge, inner = (-1, -2) if row < SHAPE[0] // 2 else (0, 1)
        start = motion.tool_position[:2]
        end = points[edge] + 0.25 * (points[edge] - points[inner])
        end = end + rng.uniform(-0.004, 0.004, 2)
        low = LOW + 0.006
        length = min(1.0, float(np.linalg.norm(end - start)) / LENGTH)
        for share, part in ((0.15, 0.4), (0.5, 1.0), (0.85, 0.6)):
            height = low + part * length * (ARCH - low) + rng.uniform(0, 0.006)
            over = np.append(start + share * (end - start), height)
            yield from motion.move_tool(over, yaw, 0.0, speed=0.8, blend=0.12)
        yield from motion.move_tool(np.append(end, low), yaw, 0.0, speed=0.5)
        yield from motion.wait(int(rng.integers(4, 9)))

    def _next_column(self) -> int:
        """Vertex of the right edge to move to the left one next."""
        points = self.cloth.points()
        distances = np.linalg.norm(points[0] - points[-1], axis=-1)
        return int(distances.argmax()) if distances.mean() < LENGTH / 2 else SHAPE[1] // 2

    def _edge_pose(self, column: int, offset: np.ndarray) -> tuple[np.ndarray, float]:
        """Tool position [m] and yaw to pinch the right edge at `column`, with an `offset` `[2]`
        inwards and along the edge [m]."""
        points = self.cloth.points()
        position, inwards = points[0, column], points[1, column] - points[0, column]
        inwards = inwards[:2] / max(np.linalg.norm(inwards[:2]), 1e-6)
        along = np.array([-inwards[1], inwards[0]])
        pinch = position[:2] + offset[0] * inwards + offset[1] * along
        yaw = self._grasper.grasp_yaw(position, 0.0)
        return np.append(pinch, max(position[2], 0.0) + LOW), yaw
