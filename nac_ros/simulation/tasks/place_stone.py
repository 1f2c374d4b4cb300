"""Placing a white Go stone on one intersection of a board."""

from collections.abc import Iterator

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import FreeBody, HoldTimer
from nac_ros.simulation.expert_grasping import ROUND, Grasper, GraspSpec, retreat, while_true
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.tasks import TASKS
from nac_ros.simulation.tasks.base import REACH, RUNNING, Outcome, StartPlace, Task

BOARD = StartPlace("board", 0.33, 0.105, 0.01, yaw_spread=np.deg2rad(4))
STONE = StartPlace("stone", 0.3, -0.09, 0.035)
LINES, SPACING = 9, 0.0245  # a small board; spacing [m]
HALF_BOARD, THICK = 0.114, 0.016  # [m]
LENS = np.array([0.0112, 0.0112, 0.0048])  # half sizes of a stone [m], as of slate and shell
TARGET = (4, 4)  # the trained intersection, counted from the arm and from its right: the middle
NEAR = SPACING / 3  # within which a stone is on an intersection [m]
STILL_S = 0.5
# A game begun; nothing within two lines of the target, where the fingers open.
BLACK = ((2, 6), (6, 6), (2, 1), (7, 3))
WHITE = ((6, 2), (2, 4), (7, 5))
SHELL, SLATE = (0.95, 0.95, 0.92, 1), (0.09, 0.09, 0.1, 1)
KAYA, INK = (0.87, 0.66, 0.33, 1), (0.12, 0.09, 0.05, 1)
AWAY = np.array([0.2, 0.0, 0.2])  # where the arm goes when all is done [m]
GRIP = GraspSpec(
    height=0.0065, closed=0.016, measured=(0.019, 0.03), symmetry=ROUND, wide=(0.036, 0.044),
    reach=0.01,
)  # fmt: skip


def intersection(row: int, column: int) -> np.ndarray:
    """Where two lines cross in the board's frame [m], `[2]`."""
    return SPACING * (np.array([row, column]) - (LINES - 1) / 2)


@TASKS.register("place_stone")
class PlaceStone(Task):
    """Success when the stone lies on the trained intersection, released and at rest (SPEC 5)."""

    id = "place_stone"
    prompt = "Place white stone on board."
    recoverable_steps = 80
    starts = (BOARD, STONE)

    def add_objects(self, scene: "mujoco.MjSpec") -> None:
        _add_board(scene)
        stone = scene.worldbody.add_body(name="stone", pos=(STONE.x, STONE.y, LENS[2]))
        stone.add_freejoint(name="stone")
        stone.add_geom(  # it rocks on its belly until rolling friction stops it
            name="stone", type=mujoco.mjtGeom.mjGEOM_ELLIPSOID, size=LENS, mass=0.006, condim=6,
            friction=(1.0, 0.01, 0.002), solref=(0.006, 1), rgba=SHELL,
        )  # fmt: skip

    def bind(self, model: "mujoco.MjModel", arm: SimulatedArm) -> None:
        self._arm, self._board = arm, model.body(BOARD.name).id
        self._mocap = model.body_mocapid[self._board]
        self._stone = FreeBody(model, "stone")
        self._hand = Grasper(arm, GRIP, clear=0.1)
        self._still = HoldTimer(STILL_S)

    def place(self, data: "mujoco.MjData", rng: np.random.Generator, share: float = 1.0) -> None:
        place, yaw = BOARD.draw(rng, share)
        data.mocap_pos[self._mocap] = (*place, 0)
        data.mocap_quat[self._mocap] = (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        self._stone.place(data, np.append(STONE.draw(rng, share)[0], LENS[2]), 0.0)
        self._still.reset()

    def update(self, data: "mujoco.MjData") -> None:
        """A stone has no behaviour of its own."""

    def judge(self, data: "mujoco.MjData") -> Outcome:
        x, y, z = self._stone.position(data)
        released = not self._arm.touches(data, self._stone.geoms)
        if z < -0.02:
            return Outcome("failure", "the stone fell off the table")
        if released and not (REACH[0] < x < REACH[1] and REACH[2] < y < REACH[3]):
            return Outcome("failure", "the stone left the workspace")
        rests = released and self._stone.still(data) and self.on_board(data)
        if not self._still.holds(rests, data.time):
            return RUNNING
        if self.off_target(data) < NEAR:
            return Outcome("success", "the stone lies on its intersection")
        if self.nearest(data) != TARGET:
            return Outcome("failure", "the stone lies on another intersection")
        return RUNNING

    def at_horizon(self, data: "mujoco.MjData") -> str:
        if not self.on_board(data):
            return "the stone does not lie on the board at the end"
        if self.off_target(data) > NEAR:
            return "the stone lies beside its intersection at the end"
        return "the stone is on its intersection but not released and at rest at the end"

    def on_board(self, data: "mujoco.MjData") -> bool:
        """Whether the stone lies flat on the board itself."""
        x, y, z = self._local(data)
        flat = abs(z - THICK - LENS[2]) < 0.002
        return bool(flat and max(abs(x), abs(y)) < HALF_BOARD)

    def off_target(self, data: "mujoco.MjData") -> float:
        """How far the stone's middle is from the trained intersection, sideways [m]."""
        return float(np.linalg.norm(self._local(data)[:2] - intersection(*TARGET)))

    def nearest(self, data: "mujoco.MjData") -> tuple[int, int]:
        """Row and column of the intersection that is nearest to the stone."""
        crossing = np.round(self._local(data)[:2] / SPACING + (LINES - 1) / 2)
        row, column = np.clip(crossing, 0, LINES - 1).astype(int)
        return int(row), int(column)

    def expert(self, data: "mujoco.MjData", mover: ExpertMotion) -> Iterator[np.ndarray]:
        hand, stone = self._hand, self._stone
        while not (self.on_board(data) and self.off_target(data) < NEAR):
            if not hand.holds(data, stone):
                yield from hand.take(data, mover, stone)
            if not hand.holds(data, stone):
                continue
            aim = intersection(*TARGET) + mover.style.rng.uniform(-0.0015, 0.0015, 2)
            local = np.append(aim, THICK + LENS[2] + 0.0005)
            place = data.xpos[self._board] + self._axes(data) @ local
            yaw = hand.yaw(place, 0.0)
            moves = hand.set_down(data, mover, stone, place, yaw)
            yield from while_true(lambda: hand.holds(data, stone), moves)
            if hand.holds(data, stone):
                yield from hand.let_go(mover)
        if hand.holds(data, stone):
            yield from hand.let_go(mover)
        yield from retreat(mover, AWAY)

    def _axes(self, data: "mujoco.MjData") -> np.ndarray:
        return data.xmat[self._board].reshape(3, 3)

    def _local(self, data: "mujoco.MjData") -> np.ndarray:
        """Where the stone is in the board's frame [m], `[3]`."""
        return self._axes(data).T @ (self._stone.position(data) - data.xpos[self._board])


def _add_board(scene: "mujoco.MjSpec") -> None:
    """A board that physics does not move (a mocap body), with its lines and the game so far."""
    box, cylinder = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
    board = scene.worldbody.add_body(name=BOARD.name, pos=(BOARD.x, BOARD.y, 0), mocap=True)
    board.add_geom(
        name="board", type=box, size=(HALF_BOARD, HALF_BOARD, THICK / 2), pos=(0, 0, THICK / 2),
        rgba=KAYA,
    )  # fmt: skip
    reach = SPACING * (LINES - 1) / 2
    drawn = {"contype": 0, "conaffinity": 0, "mass": 0, "rgba": INK}
    for index in range(LINES):
        at = index * SPACING - reach
        for name, size, pos in (
            ("row", (0.0009, reach, 0.0002), (at, 0, THICK)),
            ("column", (reach, 0.0009, 0.0002), (0, at, THICK)),
        ):
            board.add_geom(name=f"{name}_{index}", type=box, size=size, pos=pos, **drawn)
    for index, star in enumerate(((2, 2), (2, 6), (4, 4), (6, 2), (6, 6))):
        board.add_geom(
            name=f"star_{index}", type=cylinder, size=(0.0022, 0.0003, 0),
            pos=(*intersection(*star), THICK), **drawn,
        )  # fmt: skip
    for colour, name, stones in ((SLATE, "black", BLACK), (SHELL, "white", WHITE)):
        for index, where in enumerate(stones):
            board.add_geom(
                name=f"{name}_{index}", type=mujoco.mjtGeom.mjGEOM_ELLIPSOID, size=LENS,
                pos=(*intersection(*where), THICK + LENS[2]), rgba=colour,
            )  # fmt: skip
