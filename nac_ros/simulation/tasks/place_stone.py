"""Placing a white Go stone on one intersection of a board."""

from collections.abc import Iterator

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import (
    BOX,
    CYLINDER,
    ELLIPSOID,
    VISUAL,
    FreeBody,
    MocapBody,
)
from nac_ros.simulation.expert_grasping import Grasper, GraspSpec, retreat
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.tasks import TASKS
from nac_ros.simulation.tasks.base import RUNNING, Outcome, StartPose, Task, in_workspace

BOARD = StartPose("board", 0.33, 0.105, 0.01, yaw_spread=np.deg2rad(4))
STONE = StartPose("stone", 0.3, -0.09, 0.035)
LINES, SPACING = 9, 0.0245  # a small board; spacing [m]
HALF_BOARD, THICK = 0.114, 0.016  # [m]
LENS = np.array([0.0112, 0.0112, 0.0048])  # half sizes of a stone [m], as of slate and shell
TARGET = (4, 4)  # the trained intersection, counted from the arm and from its right: the middle
NEAR = SPACING / 3  # largest distance of a stone from its intersection [m]
# Stones on the board; none within two lines of the target, where the fingers open.
BLACK = ((2, 6), (6, 6), (2, 1), (7, 3))
WHITE = ((6, 2), (2, 4), (7, 5))
SHELL, SLATE = (0.95, 0.95, 0.92, 1), (0.09, 0.09, 0.1, 1)
KAYA, INK = (0.87, 0.66, 0.33, 1), (0.12, 0.09, 0.05, 1)
AWAY = np.array([0.2, 0.0, 0.2])  # tool position at the end [m]
GRASP = GraspSpec(
    height=0.0065, closed=0.016, held=(0.019, 0.03), wide=(0.036, 0.044), tolerance=0.01
)


def intersection(row: int, column: int) -> np.ndarray:
    """Crossing of two lines in the board's frame [m], `[2]`."""
    return SPACING * (np.array([row, column]) - (LINES - 1) / 2)


@TASKS.register("place_stone")
class PlaceStone(Task):
    """Success when the stone is on the trained intersection, released and at rest."""

    id = "place_stone"
    prompt = "Place white stone on board."
    recoverable_steps = 80
    start_poses = (BOARD, STONE)
    hold_s = 0.5

    def add_objects(self, scene: "mujoco.MjSpec") -> None:
        _add_board(scene)
        stone = scene.worldbody.add_body(name="stone", pos=(STONE.x, STONE.y, LENS[2]))
        stone.add_freejoint(name="stone")
        geom = stone.add_geom(name="stone", type=ELLIPSOID, size=LENS, mass=0.006, rgba=SHELL)
        # With condim 6 rolling friction ends the rocking of a stone on its convex side.
        geom.condim, geom.friction, geom.solref = 6, (1.0, 0.01, 0.002), (0.006, 1)

    def bind(self, model: "mujoco.MjModel", data: "mujoco.MjData", arm: SimulatedArm) -> None:
        super().bind(model, data, arm)
        self._board = MocapBody(model, data, BOARD.name)
        self._stone = FreeBody(model, data, "stone")
        self._objects = [self._board, self._stone]
        self._grasper = Grasper(arm, GRASP, safe_height=0.1)

    def check_success(self) -> Outcome:
        position = self._stone.position()
        released = not self._arm.touches(self._stone.geoms)
        if position[2] < -0.02:
            return Outcome("failure", "the stone fell off the table")
        if released and not in_workspace(position):
            return Outcome("failure", "the stone left the workspace")
        rests = released and self._stone.is_at_rest() and self.is_on_board()
        if not self._hold.update(rests):
            return RUNNING
        if self.distance_to_target() < NEAR:
            return Outcome("success", "the stone lies on its intersection")
        if self.nearest_intersection() != TARGET:
            return Outcome("failure", "the stone lies on another intersection")
        return RUNNING

    def timeout_reason(self) -> str:
        if not self.is_on_board():
            return "the stone does not lie on the board at the end"
        if self.distance_to_target() > NEAR:
            return "the stone is not on its intersection at the end"
        return "the stone is on its intersection but not released and at rest at the end"

    def is_on_board(self) -> bool:
        """Whether the stone lies flat on the board itself, not on another stone."""
        x, y, z = self._local()
        flat = abs(z - THICK - LENS[2]) < 0.002
        return bool(flat and max(abs(x), abs(y)) < HALF_BOARD)

    def distance_to_target(self) -> float:
        """Horizontal distance of the stone's centre from the trained intersection [m]."""
        return float(np.linalg.norm(self._local()[:2] - intersection(*TARGET)))

    def nearest_intersection(self) -> tuple[int, int]:
        """Row and column of the intersection nearest to the stone."""
        crossing = np.round(self._local()[:2] / SPACING + (LINES - 1) / 2)
        row, column = np.clip(crossing, 0, LINES - 1).astype(int)
        return int(row), int(column)

    def expert_setpoints(self, motion: ExpertMotion) -> Iterator[np.ndarray]:
        while not (self.is_on_board() and self.distance_to_target() < NEAR):
            yield from self._grasper.carry(motion, self._stone, self._place_on_target(motion))
        if self._grasper.is_holding(self._stone):
            yield from self._grasper.release(motion)
        yield from retreat(motion, AWAY)

    def _place_on_target(self, motion: ExpertMotion) -> Iterator[np.ndarray]:
        local = intersection(*TARGET) + motion.style.rng.uniform(-0.0015, 0.0015, 2)
        target = self._board.to_world(np.append(local, THICK + LENS[2] + 0.0005))
        yaw = self._grasper.grasp_yaw(target, 0.0)
        yield from self._grasper.place(motion, self._stone, target, yaw)

    def _local(self) -> np.ndarray:
        """Position of the stone in the board's frame [m], `[3]`."""
        return self._board.to_local(self._stone.position())


def _add_board(scene: "mujoco.MjSpec") -> None:
    """A board as a mocap body, which physics does not move, with lines, star points and stones."""
    board = scene.worldbody.add_body(name=BOARD.name, pos=(BOARD.x, BOARD.y, 0), mocap=True)
    size, middle = (HALF_BOARD, HALF_BOARD, THICK / 2), (0, 0, THICK / 2)
    board.add_geom(name="board", type=BOX, size=size, pos=middle, rgba=KAYA)
    half = SPACING * (LINES - 1) / 2
    ink = {**VISUAL, "rgba": INK}
    for index in range(LINES):
        at = index * SPACING - half
        for name, size, pos in (
            ("row", (0.0009, half, 0.0002), (at, 0, THICK)),
            ("column", (half, 0.0009, 0.0002), (0, at, THICK)),
        ):
            board.add_geom(name=f"{name}_{index}", type=BOX, size=size, pos=pos, **ink)
    for index, star in enumerate(((2, 2), (2, 6), (4, 4), (6, 2), (6, 6))):
        size, pos = (0.0022, 0.0003, 0), (*intersection(*star), THICK)
        board.add_geom(name=f"star_{index}", type=CYLINDER, size=size, pos=pos, **ink)
    for colour, name, stones in ((SLATE, "black", BLACK), (SHELL, "white", WHITE)):
        for index, crossing in enumerate(stones):
            pos = (*intersection(*crossing), THICK + LENS[2])
            board.add_geom(name=f"{name}_{index}", type=ELLIPSOID, size=LENS, pos=pos, rgba=colour)
