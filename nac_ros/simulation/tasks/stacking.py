"""Stacking cubes: shared by the tasks of two and of three cubes."""

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import BOX, FreeBody
from nac_ros.simulation.expert_grasping import Grasper, GraspSpec, retreat
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.tasks.base import RUNNING, Outcome, StartPose, Task, in_workspace

HALF = 0.02  # half an edge of a cube [m]
MASS = 0.04  # [kg], beech of this size
ON_TOP = 0.75 * HALF  # largest sideways distance between the centres of stacked cubes [m]
LEVEL = 0.004  # largest deviation of their difference in height from one edge [m]
FALLING = 0.6  # [m/s], as after a drop of 2 cm
APART = 0.085  # least distance of cubes' centres at the start, so that fingers fit between [m]
AWAY = np.array([0.2, 0.03, 0.22])  # tool position at the end [m]
COLOURS = {
    "blue": (0.1, 0.25, 0.8, 1),
    "red": (0.85, 0.12, 0.1, 1),
    "yellow": (0.95, 0.75, 0.1, 1),
}
GRASP = GraspSpec(
    height=0.004, closed=0.032, held=(0.036, 0.05), symmetry=np.pi / 2, tolerance=0.022
)


class Stacking(Task):
    """Success when the cubes form one tower in any order, released and stable.

    The expert puts each cube of `start_poses` on the one before.
    """

    hold_s = 0.5

    def add_objects(self, scene: "mujoco.MjSpec") -> None:
        for start in self.start_poses:
            cube = scene.worldbody.add_body(name=start.name, pos=(start.x, start.y, HALF))
            cube.add_freejoint(name=start.name)
            geom = cube.add_geom(name=start.name, type=BOX, size=[HALF] * 3, mass=MASS)
            geom.friction, geom.condim, geom.solref = (1.0, 0.01, 0.0005), 4, (0.006, 1)
            geom.rgba = COLOURS[start.name]

    def bind(self, model: "mujoco.MjModel", data: "mujoco.MjData", arm: SimulatedArm) -> None:
        super().bind(model, data, arm)
        self.cubes = [FreeBody(model, data, start.name) for start in self.start_poses]
        self._grasper = Grasper(arm, GRASP, safe_height=2 * HALF * len(self.cubes) + 0.055)

    def reset(self, rng: np.random.Generator, share: float = 1.0) -> None:
        self._hold.reset()
        while True:
            poses = [start.sample(rng, share) for start in self.start_poses]
            positions = [position for position, _ in poses]
            if all(np.linalg.norm(a - b) > APART for a, b in combinations(positions, 2)):
                break
        for cube, (position, yaw) in zip(self.cubes, poses):
            cube.place(position, yaw)

    def check_success(self) -> Outcome:
        released = [cube for cube in self.cubes if not self._arm.touches(cube.geoms)]
        for cube in self.cubes:
            if cube.position()[2] < 0:
                return Outcome("failure", f"the {cube.name} cube fell off the table")
        for cube in released:
            if cube.velocity()[2] < -FALLING:
                return Outcome("failure", f"the {cube.name} cube fell")
            if not in_workspace(cube.position()):
                return Outcome("failure", f"the {cube.name} cube left the workspace")
        done = (
            len(released) == len(self.cubes)
            and self.is_stacked()
            and all(cube.is_at_rest() for cube in self.cubes)
        )
        if not self._hold.update(done):
            return RUNNING
        return Outcome("success", "the cubes are stacked and stable")

    def timeout_reason(self) -> str:
        if not self.is_stacked():
            return "the stack is incomplete at the end"
        return "the stack is not released and stable at the end"

    def is_stacked(self) -> bool:
        """Whether the cubes form one tower, in any order."""
        tower = sorted(self.cubes, key=lambda cube: cube.position()[2])
        return all(_is_on_top(upper, lower) for lower, upper in pairwise(tower))

    def expert_setpoints(self, motion: ExpertMotion) -> Iterator[np.ndarray]:
        while not self.is_stacked():
            for lower, upper in pairwise(self.cubes):
                if not _is_on_top(upper, lower):
                    moves = self._place_on(motion, upper, lower)
                    yield from self._grasper.carry(motion, upper, moves)
                    break
            else:
                break
        if any(self._grasper.is_holding(cube) for cube in self.cubes):
            yield from self._grasper.release(motion)
        yield from retreat(motion, AWAY)

    def _place_on(
        self, motion: ExpertMotion, upper: FreeBody, lower: FreeBody
    ) -> Iterator[np.ndarray]:
        position = lower.position() + [0, 0, 2 * HALF + 0.001]
        position[:2] += motion.style.rng.uniform(-0.002, 0.002, 2)
        yaw = self._grasper.grasp_yaw(position, lower.yaw())
        yield from self._grasper.place(motion, upper, position, yaw)


def _is_on_top(upper: FreeBody, lower: FreeBody) -> bool:
    """Whether one cube is flat on another, held or not."""
    x, y, z = upper.position() - lower.position()
    return bool(np.hypot(x, y) < ON_TOP and abs(z - 2 * HALF) < LEVEL)


def cube_start(name: str, x: float, y: float, spread: float) -> StartPose:
    """Start pose of a cube, turned by up to 40 degrees; the fingers take any side."""
    return StartPose(name, x, y, spread, yaw_spread=float(np.deg2rad(40)))
