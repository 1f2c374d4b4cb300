"""Putting a marker pen into an open bin."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import FreeBody, HoldTimer
from nac_ros.simulation.expert_grasping import while_true
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.tasks import TASKS
from nac_ros.simulation.tasks.base import REACH, RUNNING, Outcome, StartPlace, Task

START = StartPlace("marker", 0.32, -0.06, 0.06, yaw_spread=np.deg2rad(45))  # either end first
MARKER = np.array([0.0575, 0.009, 0.009])  # half sizes [m]
BIN = np.array([0.32, 0.155])  # centre [m]
INNER = np.array([0.09, 0.07])  # half the inner footprint [m]
WALL, RIM = 0.003, 0.085  # half thickness, height [m]
FLOOR = 0.004  # the bin floor's thickness [m]
CLEAR = 0.14  # tool height at which the marker is carried [m]
HELD_OPENING = (0.014, 0.027)  # what the gripper measures around the marker [m]
GRIP = 0.008  # opening commanded to pinch the marker [m]
REST_S = 0.2


@TASKS.register("marker")
class MarkerInBin(Task):
    """Success when all of the marker lies in the bin, released and at rest (SPEC 5)."""

    id = "marker"
    prompt = "Place the marker in the bin."
    recoverable_steps = 110
    starts = (START,)

    def add_objects(self, scene: "mujoco.MjSpec") -> None:
        self._add_bin(scene)
        box, cylinder = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
        marker = scene.worldbody.add_body(name="marker", pos=(START.x, START.y, MARKER[2]))
        marker.add_freejoint(name="marker")
        marker.add_geom(  # flat-sided, so that it lies where it is put
            name="marker", type=box, size=MARKER, mass=0.025, friction=(1.2, 0.01, 0.0005),
            condim=4, solref=(0.006, 1), rgba=(0, 0, 0, 0), group=3,
        )  # fmt: skip
        lie = (np.sqrt(0.5), 0, np.sqrt(0.5), 0)
        radius, cap = MARKER[1], 0.02
        for name, x, half, colour in (
            ("barrel", -cap, MARKER[0] - cap, (0.9, 0.15, 0.1, 1)),
            ("cap", MARKER[0] - cap, cap, (0.05, 0.1, 0.5, 1)),
        ):
            marker.add_geom(
                name=name, type=cylinder, size=(radius, half, 0), pos=(x, 0, 0), quat=lie,
                mass=0, contype=0, conaffinity=0, rgba=colour,
            )  # fmt: skip

    def _add_bin(self, scene: "mujoco.MjSpec") -> None:
        box, colour = mujoco.mjtGeom.mjGEOM_BOX, (0.15, 0.45, 0.4, 1)
        body = scene.worldbody.add_body(name="bin", pos=(*BIN, 0))
        outer = INNER + 2 * WALL
        body.add_geom(
            name="bin_floor", type=box, size=(*outer, FLOOR / 2), pos=(0, 0, FLOOR / 2),
            rgba=(0.25, 0.6, 0.55, 1), solref=(0.01, 1),
        )  # fmt: skip
        for axis, side in product((0, 1), (-1, 1)):
            size, place = np.append(outer, RIM / 2), np.array([0, 0, RIM / 2])
            size[axis], place[axis] = WALL, side * (INNER[axis] + WALL)
            body.add_geom(
                name=f"bin_wall_{axis}{side:+d}", type=box, size=size, pos=place, rgba=colour
            )

    def bind(self, model: "mujoco.MjModel", arm: SimulatedArm) -> None:
        self._arm = arm
        self._marker = FreeBody(model, "marker")
        self._rests = HoldTimer(REST_S)

    def place(self, data: "mujoco.MjData", rng: np.random.Generator, share: float = 1.0) -> None:
        place, yaw = START.draw(rng, share)
        yaw += np.pi * rng.integers(2)
        self._marker.place(data, np.append(place, MARKER[2]), yaw)
        self._rests.reset()

    def update(self, data: "mujoco.MjData") -> None:
        """The marker has no behaviour of its own."""

    def judge(self, data: "mujoco.MjData") -> Outcome:
        x, y, z = self._marker.position(data)
        x_from, x_to, y_from, y_to = REACH
        if z < -0.02:
            return Outcome("failure", "the marker fell off the table")
        if self._released(data) and not (x_from < x < x_to and y_from < y < y_to):
            return Outcome("failure", "the marker was dropped outside the workspace")
        done = self.inside(data) and self._released(data) and self._marker.still(data)
        if not self._rests.holds(done, data.time):
            return RUNNING
        return Outcome("success", "the marker lies in the bin")

    def at_horizon(self, data: "mujoco.MjData") -> str:
        if not self.inside(data):
            return "the marker is outside the bin at the end"
        if not self._released(data):
            return "the marker is in the bin but not released at the end"
        return "the marker is in the bin but not at rest at the end"

    def inside(self, data: "mujoco.MjData") -> bool:
        """Whether every corner of the marker is within the inner walls and below the rim."""
        corners = self._marker.position(data) + _CORNERS @ self._marker.axes(data).T
        within = np.abs(corners[:, :2] - BIN) <= INNER
        return bool(within.all() and (corners[:, 2] < RIM).all())

    def held(self, data: "mujoco.MjData") -> bool:
        """Whether the gripper is closed around the marker; contacts alone flicker in motion."""
        offset = self._arm.tool(data) - self._marker.position(data)
        along, *across = offset @ self._marker.axes(data)
        between = abs(along) < MARKER[0] and np.abs(across).max() < 0.015
        opening = self._arm.state(data)[-1]
        return bool(between and HELD_OPENING[0] < opening < HELD_OPENING[1])

    def expert(self, data: "mujoco.MjData", mover: ExpertMotion) -> Iterator[np.ndarray]:
        rng = mover.style.rng
        while not self.inside(data):
            if not self.held(data):
                yield from self._pick(data, mover, rng)
            yield from self._lift(mover)
            yield from while_true(lambda: self.held(data), self._carry(mover, rng))
            if self.held(data):
                yield from self._release(mover, rng)
        yield from self._retreat(mover, rng)

    def _pick(self, data, mover: ExpertMotion, rng: np.random.Generator) -> Iterator[np.ndarray]:
        along = rng.uniform(-0.01, 0.01)
        hover, wide = rng.uniform(0.07, 0.1), rng.uniform(0.05, 0.07)
        grasp, yaw = self._grasp(data, along)
        tool = mover.tool
        beside_bin = tool[1] > BIN[1] - INNER[1] - 0.06
        safe = CLEAR if beside_bin else 0.08
        if tool[2] < safe - 0.02 and np.linalg.norm((tool - grasp)[:2]) > 0.01:
            yield from mover.go(np.append(tool[:2], safe), yaw, wide, blend=0.08)
        above = grasp + [0, 0, hover]
        yield from mover.go(above, yaw, wide, blend=rng.uniform(0.01, 0.04))
        grasp, yaw = self._grasp(data, along)
        yield from mover.go(grasp, yaw, wide, slow=rng.uniform(0.25, 0.4))
        yield from mover.wait(int(rng.integers(3, 8)))
        yield from mover.grip(GRIP, pause=int(rng.integers(6, 10)))

    def _lift(self, mover: ExpertMotion) -> Iterator[np.ndarray]:
        """Straight up, high enough for a hanging marker to clear the bin's rim."""
        tool, yaw = mover.tool, mover.tool_yaw
        if tool[2] < CLEAR - 0.02:
            yield from mover.go(np.append(tool[:2], CLEAR), yaw, GRIP, blend=0.12)

    def _carry(self, mover: ExpertMotion, rng: np.random.Generator) -> Iterator[np.ndarray]:
        over = np.append(BIN + rng.uniform(-0.01, 0.01, 2), RIM + rng.uniform(0.025, 0.035))
        yaw = rng.uniform(-0.1, 0.1)
        yield from mover.go(over + [0, 0, 0.04], yaw, GRIP, blend=0.04)
        yield from mover.go(over, yaw, GRIP, slow=0.8)
        yield from mover.wait(int(rng.integers(0, 3)))

    def _release(self, mover: ExpertMotion, rng: np.random.Generator) -> Iterator[np.ndarray]:
        yield from mover.grip(rng.uniform(0.045, 0.06), pause=int(rng.integers(6, 10)))

    def _retreat(self, mover: ExpertMotion, rng: np.random.Generator) -> Iterator[np.ndarray]:
        away = np.array([0.22, 0.08, 0.2]) + rng.uniform(-0.02, 0.02, 3)
        yield from mover.go(away, 0.35, 0.06)
        yield from mover.wait(12)

    def _grasp(self, data: "mujoco.MjData", along: float) -> tuple[np.ndarray, float]:
        """Tool position and yaw to pinch the marker `along` [m] from its middle."""
        position = self._marker.position(data) + along * self._marker.axes(data)[:, 0]
        waist = np.arctan2(position[1], position[0])
        yaw = self._marker.yaw(data)
        yaw = waist + (yaw - waist + np.pi / 2) % np.pi - np.pi / 2
        return np.append(position[:2], max(position[2], MARKER[2]) + 0.003), float(yaw)

    def _released(self, data: "mujoco.MjData") -> bool:
        return not self._arm.touches(data, self._marker.geoms)


_CORNERS = np.array(list(product((-1, 1), repeat=3))) * MARKER
