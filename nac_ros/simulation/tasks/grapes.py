"""Putting a bunch of grapes on a plate: small spheres on ball joints at one stalk, counted."""

from collections.abc import Iterator

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import (
    BOX,
    CYLINDER,
    ELLIPSOID,
    HIDDEN,
    SPHERE,
    VISUAL,
    FreeBody,
    yaw_quaternion,
)
from nac_ros.simulation.expert_grasping import Grasper, GraspSpec, retreat
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.tasks import TASKS
from nac_ros.simulation.tasks.base import RUNNING, Outcome, StartPose, Task, in_workspace

START = StartPose("bunch", 0.34, -0.06, 0.03, yaw_spread=np.deg2rad(40))  # of the stem
PLATE = np.array([0.32, 0.135])  # centre [m]
RADIUS, FOOT, RIM = 0.1, 0.006, 0.016  # of the plate: outer radius, thickness, rim height [m]
FLAT = 0.075  # radius of the flat part of the plate [m]
GRAPE = 0.0095  # radius [m]
GRAPE_MASS = 0.005  # [kg], a table grape of this size is 4 to 6 g
STEM = np.array([0.02, 0.0045, 0.0045])  # half sizes [m]
HEIGHT = 0.0155  # of stem and stalk above the table [m]
ROWS = ((4, -0.005), (3, -0.005), (2, -0.005), (1, -0.005))  # lower layer: grapes, height [m]
UPPER = ((3, 0.0105), (2, 0.0105), (1, 0.0105))  # upper layer, in the gaps of the lower one
APART = 2 * GRAPE + 0.0005  # between the centres of neighbours [m]
STIFFNESS, DAMPING = 0.004, 1e-4  # of a stalk [N m/rad], [N m s/rad]: it droops by 0.2 rad
SWAY = 0.5  # [rad/s]; a slower grape is at rest
AWAY = np.array([0.2, 0.0, 0.22])  # tool position at the end [m]
GRASP = GraspSpec(
    height=0.002,
    closed=0.0,
    held=(0.005, 0.02),
    symmetry=np.pi,
    wide=(0.045, 0.055),
    tolerance=0.018,
)
PURPLES = ((0.33, 0.09, 0.36, 1), (0.42, 0.12, 0.42, 1), (0.27, 0.07, 0.33, 1))
GREEN, BROWN = (0.25, 0.5, 0.16, 1), (0.42, 0.4, 0.16, 1)
CHINA, BLUE = (0.86, 0.86, 0.87, 1), (0.25, 0.4, 0.75, 1)


@TASKS.register("grapes")
class GrapesOnPlate(Task):
    """Success when at least half of the grapes are on the plate, released and at rest."""

    id = "grapes"
    prompt = "Place the grapes on the plate."
    recoverable_steps = 90
    start_poses = (START,)
    hold_s = 0.5

    def add_objects(self, scene: "mujoco.MjSpec") -> None:
        _add_plate(scene)
        bunch = scene.worldbody.add_body(name="bunch", pos=(START.x, START.y, HEIGHT))
        bunch.add_freejoint(name="bunch")
        stem = bunch.add_geom(name="stem", type=BOX, size=STEM, mass=0.006, **HIDDEN)
        stem.condim, stem.friction, stem.solref = 4, (1.2, 0.01, 0.0005), (0.006, 1)
        _add_stick(bunch, "stem_bark", -STEM[0], STEM[0], 0.0045)
        _add_leaf(bunch)
        stalk = bunch.add_body(name="stalk", pos=(-STEM[0], 0, 0))
        _add_ball_joint(stalk, "stalk", 5 * STIFFNESS)
        _add_stick(stalk, "stalk", 0, -0.055, 0.003, mass=0.002)
        for index, (x, y, z) in enumerate(_grape_positions()):
            name = f"grape_{index}"
            grape = stalk.add_body(name=name, pos=(x, 0, 0))
            _add_ball_joint(grape, name, STIFFNESS)
            geom = grape.add_geom(name=name, type=SPHERE, size=(GRAPE, 0, 0), pos=(0, y, z))
            geom.mass, geom.contype, geom.conaffinity = GRAPE_MASS, 2, 1
            geom.condim, geom.friction = 4, (0.8, 0.005, 0.0005)
            geom.rgba = PURPLES[index % 3]

    def bind(self, model: "mujoco.MjModel", data: "mujoco.MjData", arm: SimulatedArm) -> None:
        super().bind(model, data, arm)
        self._bunch = FreeBody(model, data, "bunch")
        self._objects = [self._bunch]
        names = [f"grape_{index}" for index in range(len(_grape_positions()))]
        self._grapes = np.array([model.geom(name).id for name in names])
        first_dofs = np.array([model.joint(name).dofadr[0] for name in names])
        self._grape_dofs = first_dofs[:, None] + np.arange(3)
        self._geoms = np.append(self._bunch.geoms, self._grapes)
        self._grasper = Grasper(arm, GRASP, safe_height=0.16)  # a hanging bunch clears the rim

    def check_success(self) -> Outcome:
        position = self._bunch.position()
        released = not self._arm.touches(self._geoms)
        if position[2] < -0.02:
            return Outcome("failure", "the grapes fell off the table")
        if released and not in_workspace(position):
            return Outcome("failure", "the grapes left the workspace")
        if not self._hold.update(released and self._is_at_rest()):
            return RUNNING
        if self._is_half_on_plate():
            return Outcome("success", "the grapes lie on the plate")
        if self.n_on_plate():
            return Outcome("failure", "fewer than half of the grapes remain on the plate")
        return RUNNING

    def timeout_reason(self) -> str:
        if not self._is_half_on_plate():
            return "the grapes are not on the plate at the end"
        return "the grapes are on the plate but not released and at rest at the end"

    def n_on_plate(self) -> int:
        """Number of grapes with their centre above the plate and low enough to lie on it."""
        centres = self._data.geom_xpos[self._grapes]
        over = np.linalg.norm(centres[:, :2] - PLATE, axis=1) < RADIUS
        return int((over & (centres[:, 2] > FOOT) & (centres[:, 2] < 0.06)).sum())

    def expert_setpoints(self, motion: ExpertMotion) -> Iterator[np.ndarray]:
        while not self._is_half_on_plate():
            moves = self._carry_to_plate(motion)
            yield from self._grasper.carry(motion, self._bunch, moves)
        if self._arm.touches(self._geoms):
            yield from self._grasper.release(motion)
        yield from retreat(motion, AWAY)

    def _carry_to_plate(self, motion: ExpertMotion) -> Iterator[np.ndarray]:
        """Over the plate, then down until the lowest grape touches it."""
        rng, height, closed = motion.style.rng, self._grasper.safe_height, GRASP.closed
        yaw = rng.uniform(-0.3, 0.3)
        tool = motion.tool_position
        if tool[2] < height - 0.02:
            up = np.append(tool[:2], height)
            yield from motion.move_tool(up, motion.tool_yaw, closed, blend=0.06)
        over = np.append(PLATE + rng.uniform(-0.01, 0.01, 2), height)
        yield from motion.move_tool(over, yaw, closed, speed=0.8)
        yield from motion.wait(int(rng.integers(6, 12)))
        # The grapes' mean position goes over the middle of the plate, the lowest one onto it.
        grapes, stem = self._data.geom_xpos[self._grapes], self._bunch.position()
        position = stem - np.append(grapes[:, :2].mean(0) - PLATE, 0)
        position[2] = FOOT + GRAPE + 0.003 + stem[2] - grapes[:, 2].min()
        yield from self._grasper.place(motion, self._bunch, position, yaw)

    def _is_half_on_plate(self) -> bool:
        return 2 * self.n_on_plate() >= len(self._grapes)

    def _is_at_rest(self) -> bool:
        sway = np.abs(self._data.qvel[self._grape_dofs]).max()
        return self._bunch.is_at_rest() and bool(sway < SWAY)


def _grape_positions() -> list[tuple[float, float, float]]:
    """Positions along, across and above the stalk [m]; the bunch is widest next to the stem."""
    row = APART * np.sqrt(0.75)
    found = []
    for rows, shift in ((ROWS, 0.0), (UPPER, row / 3)):
        for index, (n, z) in enumerate(rows):
            across = APART * (np.arange(n) - (n - 1) / 2)
            found += [(-0.008 - shift - index * row, float(y), z) for y in across]
    return found


def _add_ball_joint(body, name: str, stiffness: float) -> None:
    joint = body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_BALL, armature=1e-6)
    joint.stiffness[0], joint.damping[0] = stiffness, DAMPING


def _add_stick(
    body, name: str, start: float, end: float, radius: float, mass: float = 0.0
) -> None:
    """A brown capsule along x from `start` to `end` [m] that is drawn but never touched."""
    stick = body.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_CAPSULE, **VISUAL)
    stick.fromto, stick.size = (start, 0, 0, end, 0, 0), (radius, 0, 0)
    stick.mass, stick.rgba = mass, BROWN


def _add_leaf(bunch) -> None:
    """A vine leaf of three lobes above the bunch, only drawn."""
    for index, (x, y, length, yaw) in enumerate(
        ((-0.034, 0.0, 0.016, 0.0), (-0.026, 0.011, 0.014, -0.9), (-0.026, -0.011, 0.014, 0.9))
    ):
        leaf = bunch.add_geom(name=f"leaf_{index}", type=ELLIPSOID, rgba=GREEN, **VISUAL)
        leaf.size, leaf.pos, leaf.quat = (
            (length, 0.009, 0.001),
            (x, y, 0.0225),
            yaw_quaternion(yaw),
        )


def _add_plate(scene: "mujoco.MjSpec") -> None:
    """A shallow china plate: a disc, and a rim of two rings of boxes that lean outwards."""
    plate = scene.worldbody.add_body(name="plate", pos=(*PLATE, 0))
    disc = plate.add_geom(name="plate", type=CYLINDER, rgba=CHINA)
    disc.size, disc.pos = (FLAT, FOOT / 2, 0), (0, 0, FOOT / 2)
    n, lean = 32, 0.38  # boxes per ring, [rad]
    tilt = np.array([np.cos(lean / 2), 0, -np.sin(lean / 2), 0])
    for ring, (inner, outer, colour) in enumerate(((FLAT, 0.093, CHINA), (0.093, RADIUS, BLUE))):
        middle, half = (inner + outer) / 2, (outer - inner) / 2 + 0.0005
        height = FOOT / 2 + (middle - FLAT) / (RADIUS - FLAT) * (RIM - FOOT)
        size = (half, outer * np.tan(np.pi / n) + 0.0003, FOOT / 2)
        for index in range(n):
            angle, quat = 2 * np.pi * index / n, np.zeros(4)
            mujoco.mju_mulQuat(quat, np.array(yaw_quaternion(angle)), tilt)
            box = plate.add_geom(name=f"rim_{ring}_{index}", type=BOX, size=size, rgba=colour)
            box.pos, box.quat = (middle * np.cos(angle), middle * np.sin(angle), height), quat
