"""Putting a marker pen into an open bin."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import BOX, CYLINDER, HIDDEN, VISUAL, FreeBody
from nac_ros.simulation.expert_grasping import yield_while
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.tasks import TASKS
from nac_ros.simulation.tasks.base import RUNNING, Outcome, StartPose, Task, in_workspace

START = StartPose("marker", 0.32, -0.06, 0.06, yaw_spread=np.deg2rad(45))  # either end first
MARKER = np.array([0.0575, 0.009, 0.009])  # half sizes [m]
BIN = np.array([0.32, 0.155])  # centre [m]
INNER = np.array([0.09, 0.07])  # half the inner footprint [m]
WALL, RIM = 0.003, 0.085  # half thickness, height [m]
FLOOR = 0.004  # thickness of the bin's floor [m]
SAFE_HEIGHT = 0.14  # of the tool while it carries the marker [m]
HELD_OPENING = (0.014, 0.027)  # measured opening of the gripper around the marker [m]
CLOSED = 0.008  # opening commanded to pinch the marker [m]
_CORNERS = np.array(list(product((-1, 1), repeat=3))) * MARKER


@TASKS.register("marker")
class MarkerInBin(Task):
    """Success when the whole marker is in the bin, released and at rest."""

    id = "marker"
    prompt = "Place the marker in the bin."
    recoverable_steps = 110
    start_poses = (START,)
    hold_s = 0.2

    def add_objects(self, scene: "mujoco.MjSpec") -> None:
        _add_bin(scene)
        marker = scene.worldbody.add_body(name="marker", pos=(START.x, START.y, MARKER[2]))
        marker.add_freejoint(name="marker")
        # The collision shape is a box, which does not roll.
        box = marker.add_geom(name="marker", type=BOX, size=MARKER, mass=0.025, **HIDDEN)
        box.friction, box.condim, box.solref = (1.2, 0.01, 0.0005), 4, (0.006, 1)
        radius, cap = MARKER[1], 0.02
        for name, x, half, colour in (
            ("barrel", -cap, MARKER[0] - cap, (0.9, 0.15, 0.1, 1)),
            ("cap", MARKER[0] - cap, cap, (0.05, 0.1, 0.5, 1)),
        ):
            part = marker.add_geom(name=name, type=CYLINDER, rgba=colour, **VISUAL)
            part.size, part.pos = (radius, half, 0), (x, 0, 0)
            part.quat = (np.sqrt(0.5), 0, np.sqrt(0.5), 0)  # axis along x

    def bind(self, model: "mujoco.MjModel", data: "mujoco.MjData", arm: SimulatedArm) -> None:
        super().bind(model, data, arm)
        self._marker = FreeBody(model, data, "marker")

    def reset(self, rng: np.random.Generator, share: float = 1.0) -> None:
        self._hold.reset()
        position, yaw = START.sample(rng, share)
        self._marker.place(position, yaw + np.pi * rng.integers(2))

    def check_success(self) -> Outcome:
        position = self._marker.position()
        if position[2] < -0.02:
            return Outcome("failure", "the marker fell off the table")
        if self._is_released() and not in_workspace(position):
            return Outcome("failure", "the marker was dropped outside the workspace")
        done = self.is_inside() and self._is_released() and self._marker.is_at_rest()
        if not self._hold.update(done):
            return RUNNING
        return Outcome("success", "the marker lies in the bin")

    def timeout_reason(self) -> str:
        if not self.is_inside():
            return "the marker is outside the bin at the end"
        if not self._is_released():
            return "the marker is in the bin but not released at the end"
        return "the marker is in the bin but not at rest at the end"

    def is_inside(self) -> bool:
        """Whether every corner of the marker is within the inner walls and below the rim."""
        corners = self._marker.position() + _CORNERS @ self._marker.axes().T
        within = np.abs(corners[:, :2] - BIN) <= INNER
        return bool(within.all() and (corners[:, 2] < RIM).all())

    def is_held(self) -> bool:
        """Whether the gripper is closed around the marker, by its position: contacts flicker."""
        offset = self._arm.tool_position() - self._marker.position()
        along, *across = offset @ self._marker.axes()
        between = abs(along) < MARKER[0] and np.abs(across).max() < 0.015
        opening = self._arm.positions()[-1]
        return bool(between and HELD_OPENING[0] < opening < HELD_OPENING[1])

    def expert_setpoints(self, motion: ExpertMotion) -> Iterator[np.ndarray]:
        rng = motion.style.rng
        while not self.is_inside():
            if not self.is_held():
                yield from self._pick(motion)
            yield from self._lift(motion)
            yield from yield_while(self.is_held, self._carry(motion))
            if self.is_held():
                opening = rng.uniform(0.045, 0.06)
                yield from motion.move_gripper(opening, pause=int(rng.integers(6, 10)))
        away = np.array([0.22, 0.08, 0.2]) + rng.uniform(-0.02, 0.02, 3)
        yield from motion.move_tool(away, 0.35, 0.06)
        yield from motion.wait(12)

    def _pick(self, motion: ExpertMotion) -> Iterator[np.ndarray]:
        rng = motion.style.rng
        along = rng.uniform(-0.01, 0.01)
        hover, wide = rng.uniform(0.07, 0.1), rng.uniform(0.05, 0.07)
        target, yaw = self._grasp_pose(along)
        tool = motion.tool_position
        near_bin = tool[1] > BIN[1] - INNER[1] - 0.06
        safe_height = SAFE_HEIGHT if near_bin else 0.08
        if tool[2] < safe_height - 0.02 and np.linalg.norm((tool - target)[:2]) > 0.01:
            yield from motion.move_tool(np.append(tool[:2], safe_height), yaw, wide, blend=0.08)
        above = target + [0, 0, hover]
        yield from motion.move_tool(above, yaw, wide, blend=rng.uniform(0.01, 0.04))
        target, yaw = self._grasp_pose(along)
        yield from motion.move_tool(target, yaw, wide, speed=rng.uniform(0.25, 0.4))
        yield from motion.wait(int(rng.integers(3, 8)))
        yield from motion.move_gripper(CLOSED, pause=int(rng.integers(6, 10)))

    def _lift(self, motion: ExpertMotion) -> Iterator[np.ndarray]:
        """Straight up, high enough for a hanging marker to clear the bin's rim."""
        tool, yaw = motion.tool_position, motion.tool_yaw
        if tool[2] < SAFE_HEIGHT - 0.02:
            up = np.append(tool[:2], SAFE_HEIGHT)
            yield from motion.move_tool(up, yaw, CLOSED, blend=0.12)

    def _carry(self, motion: ExpertMotion) -> Iterator[np.ndarray]:
        rng = motion.style.rng
        over = np.append(BIN + rng.uniform(-0.01, 0.01, 2), RIM + rng.uniform(0.025, 0.035))
        yaw = rng.uniform(-0.1, 0.1)
        yield from motion.move_tool(over + [0, 0, 0.04], yaw, CLOSED, blend=0.04)
        yield from motion.move_tool(over, yaw, CLOSED, speed=0.8)
        yield from motion.wait(int(rng.integers(0, 3)))

    def _grasp_pose(self, along: float) -> tuple[np.ndarray, float]:
        """Tool position [m] and yaw to pinch the marker `along` [m] from its middle."""
        position = self._marker.position() + along * self._marker.axes()[:, 0]
        waist = np.arctan2(position[1], position[0])
        yaw = waist + (self._marker.yaw() - waist + np.pi / 2) % np.pi - np.pi / 2
        return np.append(position[:2], max(position[2], MARKER[2]) + 0.003), float(yaw)

    def _is_released(self) -> bool:
        return not self._arm.touches(self._marker.geoms)


def _add_bin(scene: "mujoco.MjSpec") -> None:
    """An open box: a floor and four walls."""
    body = scene.worldbody.add_body(name="bin", pos=(*BIN, 0))
    outer = INNER + 2 * WALL
    floor = body.add_geom(name="bin_floor", type=BOX, size=(*outer, FLOOR / 2))
    floor.pos, floor.rgba, floor.solref = (0, 0, FLOOR / 2), (0.25, 0.6, 0.55, 1), (0.01, 1)
    for axis, side in product((0, 1), (-1, 1)):
        size, position = np.append(outer, RIM / 2), np.array([0, 0, RIM / 2])
        size[axis], position[axis] = WALL, side * (INNER[axis] + WALL)
        wall = body.add_geom(name=f"bin_wall_{axis}{side:+d}", type=BOX, size=size, pos=position)
        wall.rgba = (0.15, 0.45, 0.4, 1)
