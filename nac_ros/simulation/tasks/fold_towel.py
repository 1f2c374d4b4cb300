"""Folding a towel in half: a MuJoCo flex cloth that the fingers take hold of by a constraint.

Friction alone did not hold the cloth between the pads, and a pinch of terry is no point contact.
So the vertex nearest to the fingertips is connected to the gripper when the fingers close on the
cloth, and let go when they open. The cloth rests on the table and touches nothing else: neither
the fingers nor itself, so that the layers of a folded towel lie in one another.
"""

from collections.abc import Iterator

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import REST_SPEED, HoldTimer
from nac_ros.simulation.expert_grasping import (
    ROUND,
    Grasper,
    GraspSpec,
    Setpoints,
    retreat,
    while_true,
)
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.scene import PREFIX
from nac_ros.simulation.tasks import TASKS
from nac_ros.simulation.tasks.base import REACH, RUNNING, Outcome, StartPlace, Task
from nac_ros.simulation.tasks.cloth import Cloth, add_cloth

START = StartPlace("towel", 0.32, 0.045, 0.02, yaw=np.pi / 2, yaw_spread=np.deg2rad(8))
SHAPE = (9, 5)  # vertices along and across: 50 is what MuJoCo lets one plane carry
SPACING = 0.03  # [m]
LONG = SPACING * (SHAPE[0] - 1)  # side of the flat towel [m]
EDGE_APART = 0.03  # mean distance of the short edges of a folded towel, at most [m]
OVERLAP = 0.8  # share of the upper half that lies over the lower one, at least
STABLE_S = 0.5
PINCHED, OPENED = 0.008, 0.014  # openings at which the fingers take hold and let go [m]
HOLD = 0.022  # tool to vertex, at most, when the fingers take hold [m]
ARCH = 0.045  # height of the tool midway [m]
AWAY = np.array([0.2, 0.0, 0.22])  # where the arm goes when all is done [m]
LOW = 0.0125  # tool height at which the fingertips are 4 mm above the table [m]
GRIP = GraspSpec(height=LOW, closed=0.0, measured=(0, PINCHED), symmetry=ROUND, wide=(0.04, 0.055))


@TASKS.register("fold_towel")
class FoldTowel(Task):
    """Success when the towel lies folded in half, either half on top, released and at rest:
    short edge on short edge and half over half (SPEC 5)."""

    id = "fold_towel"
    prompt = "Fold the towel."
    recoverable_steps = 80
    starts = (START,)

    def add_objects(self, scene: "mujoco.MjSpec") -> None:
        add_cloth(scene, START, SHAPE, SPACING, PREFIX + "gripper_link")

    def bind(self, model: "mujoco.MjModel", arm: SimulatedArm) -> None:
        self._arm, self.cloth = arm, Cloth(model, START.name, SHAPE, arm)
        self._hand = Grasper(arm, GRIP, clear=0.09)
        self._stable, self._spoilt = HoldTimer(STABLE_S), HoldTimer(STABLE_S)
        self._was_folded = self._closed = False

    def place(self, data: "mujoco.MjData", rng: np.random.Generator, share: float = 1.0) -> None:
        place, yaw = START.draw(rng, share)
        self.cloth.lay(data, place - (START.x, START.y), yaw - START.yaw)
        self._stable.reset()
        self._spoilt.reset()
        self._was_folded = self._closed = False

    def update(self, data: "mujoco.MjData") -> None:
        """The fingers take hold of the cloth, or let it go."""
        opening = self._arm.opening(data)
        if self.cloth.held(data) is None and opening < PINCHED and not self._closed:
            self.cloth.hold(data, HOLD)
        if opening > OPENED:
            self.cloth.let_go(data)
        self._closed = opening < PINCHED

    def judge(self, data: "mujoco.MjData") -> Outcome:
        x, y, _ = self.cloth.points(data).reshape(-1, 3).mean(0)
        if not (REACH[0] < x < REACH[1] and REACH[2] < y < REACH[3]):
            return Outcome("failure", "the towel left the workspace")
        rests = self.cloth.held(data) is None and self.cloth.speed(data) < REST_SPEED
        folded = rests and self.folded(data)
        self._was_folded |= folded
        if self._stable.holds(folded, data.time):
            return Outcome("success", "the towel is folded in half")
        spoilt = rests and self._was_folded and not folded
        if self._spoilt.holds(spoilt, data.time):
            return Outcome("failure", "the towel was unfolded again")
        return RUNNING

    def at_horizon(self, data: "mujoco.MjData") -> str:
        if not self.folded(data):
            return "the towel is not folded at the end"
        return "the towel is folded but not released and at rest at the end"

    def folded(self, data: "mujoco.MjData") -> bool:
        """Whether short edge lies on short edge and half over half."""
        points = self.cloth.points(data)
        if np.linalg.norm(points[0] - points[-1], axis=-1).mean() > EDGE_APART:
            return False
        return self.cloth.overlap(data) >= OVERLAP

    def expert(self, data: "mujoco.MjData", mover: ExpertMotion) -> Iterator[np.ndarray]:
        while not self.folded(data):
            if self.cloth.held(data) is None:
                yield from self._pinch(data, mover)
            moves = self._fold(data, mover)
            yield from while_true(lambda: self.cloth.held(data) is not None, moves)
            if self.cloth.held(data) is not None:
                yield from self._hand.let_go(mover)
        if self.cloth.held(data) is not None:
            yield from self._hand.let_go(mover)
        yield from retreat(mover, AWAY)

    def _pinch(self, data: "mujoco.MjData", mover: ExpertMotion) -> Setpoints:
        """Closes on the right short edge: its middle, later the corner that lies worst."""
        rng = mover.style.rng
        wide, hover = rng.uniform(0.04, 0.055), rng.uniform(0.04, 0.06)
        beside = rng.uniform((0.002, -0.004), (0.009, 0.004))  # inwards and along the edge [m]
        column = self._worst(data)
        goal, yaw = self._edge(data, column, beside)
        yield from self._hand.rise(mover, goal, wide)
        yield from mover.go(goal + [0, 0, hover], yaw, wide, blend=rng.uniform(0.01, 0.03))
        goal, yaw = self._edge(data, column, beside)
        yield from mover.go(goal, yaw, wide, slow=rng.uniform(0.3, 0.45))
        yield from mover.wait(int(rng.integers(2, 6)))
        yield from mover.grip(0.0, pause=int(rng.integers(5, 9)))

    def _fold(self, data: "mujoco.MjData", mover: ExpertMotion) -> Setpoints:
        """In a low arch to a little beyond where the held point belongs, and down.

        Low, so that the corners are drawn along the table: where they hang they fold under.
        """
        rng = mover.style.rng
        row, column = divmod(self.cloth.held(data) or 0, SHAPE[1])
        points, yaw = self.cloth.points(data)[:, column, :2], mover.tool_yaw
        edge, inner = (-1, -2) if row < SHAPE[0] // 2 else (0, 1)
        start, end = mover.tool[:2], points[edge] + 0.25 * (points[edge] - points[inner])
        end = end + rng.uniform(-0.004, 0.004, 2)
        low = LOW + 0.006
        for share, part in ((0.15, 0.4), (0.5, 1.0), (0.85, 0.6)):
            height = low + part * min(1, np.linalg.norm(end - start) / LONG) * (ARCH - low)
            over = np.append(start + share * (end - start), height + rng.uniform(0, 0.006))
            yield from mover.go(over, yaw, 0.0, slow=0.8, blend=0.12)
        yield from mover.go(np.append(end, low), yaw, 0.0, slow=0.5)
        yield from mover.wait(int(rng.integers(4, 9)))

    def _worst(self, data: "mujoco.MjData") -> int:
        """Which vertex of the right edge to bring to the left one next."""
        points = self.cloth.points(data)
        apart = np.linalg.norm(points[0] - points[-1], axis=-1)
        return int(apart.argmax()) if apart.mean() < LONG / 2 else SHAPE[1] // 2

    def _edge(
        self, data: "mujoco.MjData", column: int, beside: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """Tool position [m] and yaw that pinch the right edge there."""
        points = self.cloth.points(data)
        place, inwards = points[0, column], points[1, column] - points[0, column]
        inwards = inwards[:2] / max(np.linalg.norm(inwards[:2]), 1e-6)
        along = np.array([-inwards[1], inwards[0]])
        sideways = place[:2] + beside[0] * inwards + beside[1] * along
        return np.append(sideways, max(place[2], 0.0) + LOW), self._hand.yaw(place, 0.0)
