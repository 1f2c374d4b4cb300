"""Stacking cubes: what the tasks of two and of three cubes share."""

from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import ClassVar

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import FreeBody, HoldTimer
from nac_ros.simulation.expert_grasping import Grasper, GraspSpec, retreat, while_true
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.tasks.base import REACH, RUNNING, Outcome, StartPlace, Task

HALF = 0.02  # half an edge of a cube [m]
MASS = 0.04  # [kg], beech of this size
ON_TOP = 0.75 * HALF  # how far a cube may lie beside the middle of the one below [m]
LEVEL = 0.004  # how far from an edge the difference in height may be [m]
FALLING = 0.6  # [m/s], as after a drop of 2 cm
STABLE_S = 0.5
APART = 0.085  # centres of cubes at the start, so that fingers fit between [m]
AWAY = np.array([0.2, 0.03, 0.22])  # where the arm goes when all is done [m]
GRIP = GraspSpec(
    height=0.004, closed=0.032, measured=(0.036, 0.05), symmetry=np.pi / 2, reach=0.022
)


class Stacking(Task):
    """Success when every cube but the lowest stands on another, released and stable (SPEC 5).

    Any order counts. The expert puts each cube of `starts` on the one before.
    """

    colours: ClassVar[dict[str, tuple[float, float, float, float]]]

    def add_objects(self, scene: "mujoco.MjSpec") -> None:
        for start in self.starts:
            cube = scene.worldbody.add_body(name=start.name, pos=(start.x, start.y, HALF))
            cube.add_freejoint(name=start.name)
            cube.add_geom(
                name=start.name, type=mujoco.mjtGeom.mjGEOM_BOX, size=[HALF] * 3, mass=MASS,
                friction=(1.0, 0.01, 0.0005), condim=4, solref=(0.006, 1),
                rgba=self.colours[start.name],
            )  # fmt: skip

    def bind(self, model: "mujoco.MjModel", arm: SimulatedArm) -> None:
        self._arm = arm
        self.cubes = [FreeBody(model, start.name) for start in self.starts]
        self._hand = Grasper(arm, GRIP, clear=2 * HALF * len(self.cubes) + 0.055)
        self._stable = HoldTimer(STABLE_S)

    def place(self, data: "mujoco.MjData", rng: np.random.Generator, share: float = 1.0) -> None:
        self._stable.reset()
        while True:
            drawn = [start.draw(rng, share) for start in self.starts]
            places = [place for place, _ in drawn]
            if all(np.linalg.norm(a - b) > APART for a, b in combinations(places, 2)):
                break
        for cube, (place, yaw) in zip(self.cubes, drawn):
            cube.place(data, np.append(place, HALF), yaw)

    def update(self, data: "mujoco.MjData") -> None:
        """Cubes have no behaviour of their own."""

    def judge(self, data: "mujoco.MjData") -> Outcome:
        free = [cube for cube in self.cubes if not self._arm.touches(data, cube.geoms)]
        for cube in self.cubes:
            if cube.position(data)[2] < 0:
                return Outcome("failure", f"the {cube.name} cube fell off the table")
        for cube in free:
            x, y, _ = cube.position(data)
            if cube.velocity(data)[2] < -FALLING:
                return Outcome("failure", f"the {cube.name} cube fell")
            if not (REACH[0] < x < REACH[1] and REACH[2] < y < REACH[3]):
                return Outcome("failure", f"the {cube.name} cube left the workspace")
        done = (
            len(free) == len(self.cubes)
            and self.stacked(data)
            and all(cube.still(data) for cube in self.cubes)
        )
        if not self._stable.holds(done, data.time):
            return RUNNING
        return Outcome("success", "the cubes are stacked and stable")

    def at_horizon(self, data: "mujoco.MjData") -> str:
        if not self.stacked(data):
            return "the stack is incomplete at the end"
        return "the stack is not released and stable at the end"

    def stacked(self, data: "mujoco.MjData") -> bool:
        """Whether the cubes form one tower, in any order."""
        tower = sorted(self.cubes, key=lambda cube: cube.position(data)[2])
        return all(on_top(data, upper, lower) for lower, upper in pairwise(tower))

    def expert(self, data: "mujoco.MjData", mover: ExpertMotion) -> Iterator[np.ndarray]:
        while not self.stacked(data):
            for lower, upper in pairwise(self.cubes):
                if not on_top(data, upper, lower):
                    yield from self._stack(data, mover, upper, lower)
                    break
            else:
                break
        yield from self._let_go_of_all(data, mover)
        yield from retreat(mover, AWAY)

    def _stack(
        self, data: "mujoco.MjData", mover: ExpertMotion, upper: FreeBody, lower: FreeBody
    ) -> Iterator[np.ndarray]:
        hand = self._hand
        if not hand.holds(data, upper):
            yield from hand.take(data, mover, upper)
        if not hand.holds(data, upper):
            return
        place = lower.position(data) + [0, 0, 2 * HALF + 0.001]
        place[:2] += mover.style.rng.uniform(-0.002, 0.002, 2)
        yaw = hand.yaw(place, lower.yaw(data))
        moves = hand.set_down(data, mover, upper, place, yaw)
        yield from while_true(lambda: hand.holds(data, upper), moves)
        if hand.holds(data, upper):
            yield from hand.let_go(mover)

    def _let_go_of_all(self, data: "mujoco.MjData", mover: ExpertMotion) -> Iterator[np.ndarray]:
        if any(self._hand.holds(data, cube) for cube in self.cubes):
            yield from self._hand.let_go(mover)


def on_top(data: "mujoco.MjData", upper: FreeBody, lower: FreeBody) -> bool:
    """Whether one cube lies flat on another, held or not."""
    x, y, z = upper.position(data) - lower.position(data)
    return bool(np.hypot(x, y) < ON_TOP and abs(z - 2 * HALF) < LEVEL)


def cube_start(name: str, x: float, y: float, spread: float) -> StartPlace:
    """A start place of a cube, turned by up to 40 degrees; the fingers take any side."""
    return StartPlace(name, x, y, spread, yaw_spread=float(np.deg2rad(40)))
