"""Putting a bunch of grapes on a plate: small bodies that hang on one stem, counted."""

from collections.abc import Iterator

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import FreeBody, HoldTimer
from nac_ros.simulation.expert_grasping import Grasper, GraspSpec, retreat, while_true
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.tasks import TASKS
from nac_ros.simulation.tasks.base import REACH, RUNNING, Outcome, StartPlace, Task

START = StartPlace("bunch", 0.34, -0.06, 0.03, yaw_spread=np.deg2rad(40))  # where the stem is
PLATE = np.array([0.32, 0.135])  # centre [m]
RADIUS, FOOT, RIM = 0.1, 0.006, 0.016  # of the plate: outer radius, thickness, rim height [m]
GRAPE = 0.0095  # radius [m]
GRAPE_MASS = 0.005  # [kg], a table grape of this size is 4 to 6 g
STEM = np.array([0.02, 0.0045, 0.0045])  # half sizes [m]
HEIGHT = 0.0155  # of stem and stalk above the table [m]
ROWS = ((4, -0.005), (3, -0.005), (2, -0.005), (1, -0.005))  # grapes across, height [m]: below
UPPER = ((3, 0.0105), (2, 0.0105), (1, 0.0105))  # and above, in the hollows
APART = 2 * GRAPE + 0.0005  # between neighbours [m]
STIFFNESS, DAMPING = 0.004, 1e-4  # of a stalk [N m/rad], [N m s/rad]: it droops by 0.2 rad
SWAY = 0.5  # [rad/s], below which a grape hangs still
STILL_S = 0.5
AWAY = np.array([0.2, 0.0, 0.22])  # where the arm goes when all is done [m]
GRIP = GraspSpec(
    height=0.002, closed=0.0, measured=(0.005, 0.02), symmetry=np.pi, wide=(0.045, 0.055),
    reach=0.018,
)  # fmt: skip
PURPLES = ((0.33, 0.09, 0.36, 1), (0.42, 0.12, 0.42, 1), (0.27, 0.07, 0.33, 1))
GREEN, BROWN = (0.25, 0.5, 0.16, 1), (0.42, 0.4, 0.16, 1)
CHINA, BLUE = (0.86, 0.86, 0.87, 1), (0.25, 0.4, 0.75, 1)


@TASKS.register("grapes")
class GrapesOnPlate(Task):
    """Success when at least half of the grapes lie on the plate, released and at rest (SPEC 5)."""

    id = "grapes"
    prompt = "Place the grapes on the plate."
    recoverable_steps = 90
    starts = (START,)

    def add_objects(self, scene: "mujoco.MjSpec") -> None:
        _add_plate(scene)
        bunch = scene.worldbody.add_body(name="bunch", pos=(START.x, START.y, HEIGHT))
        bunch.add_freejoint(name="bunch")
        bunch.add_geom(  # flat-sided, so that fingers find hold
            name="stem", type=mujoco.mjtGeom.mjGEOM_BOX, size=STEM, mass=0.006, condim=4,
            friction=(1.2, 0.01, 0.0005), solref=(0.006, 1), rgba=(0, 0, 0, 0), group=3,
        )  # fmt: skip
        _paint(bunch, "stem_bark", (-STEM[0], 0, 0), (STEM[0], 0, 0), 0.0045, BROWN)
        _add_leaf(bunch)
        stalk = bunch.add_body(name="stalk", pos=(-STEM[0], 0, 0))
        _hinge(stalk, "stalk", 5 * STIFFNESS)
        _paint(stalk, "stalk", (0, 0, 0), (-0.055, 0, 0), 0.003, BROWN, mass=0.002)
        for index, place in enumerate(_places()):
            grape = stalk.add_body(name=f"grape_{index}", pos=(place[0], 0, 0))
            _hinge(grape, f"grape_{index}", STIFFNESS)
            grape.add_geom(
                name=f"grape_{index}", type=mujoco.mjtGeom.mjGEOM_SPHERE, size=(GRAPE, 0, 0),
                pos=(0, *place[1:]), mass=GRAPE_MASS, contype=2, conaffinity=1,
                friction=(0.8, 0.005, 0.0005), condim=4, rgba=PURPLES[index % 3],
            )  # fmt: skip

    def bind(self, model: "mujoco.MjModel", arm: SimulatedArm) -> None:
        self._arm, self._bunch = arm, FreeBody(model, "bunch")
        names = [f"grape_{index}" for index in range(len(_places()))]
        self._grapes = np.array([model.geom(name).id for name in names])
        self._swaying = np.array([model.joint(name).dofadr[0] for name in names])
        self._geoms = np.append(self._bunch.geoms, self._grapes)
        self._hand = Grasper(arm, GRIP, clear=0.16)  # a hanging bunch clears the rim
        self._still = HoldTimer(STILL_S)

    def place(self, data: "mujoco.MjData", rng: np.random.Generator, share: float = 1.0) -> None:
        place, yaw = START.draw(rng, share)
        self._bunch.place(data, np.append(place, HEIGHT), yaw)
        self._still.reset()

    def update(self, data: "mujoco.MjData") -> None:
        """Grapes have no behaviour of their own."""

    def judge(self, data: "mujoco.MjData") -> Outcome:
        x, y, z = self._bunch.position(data)
        released = not self._arm.touches(data, self._geoms)
        if z < -0.02:
            return Outcome("failure", "the grapes fell off the table")
        if released and not (REACH[0] < x < REACH[1] and REACH[2] < y < REACH[3]):
            return Outcome("failure", "the grapes left the workspace")
        if not self._still.holds(released and self._at_rest(data), data.time):
            return RUNNING
        on, n = self.on_plate(data), len(self._grapes)
        if 2 * on >= n:
            return Outcome("success", "the grapes lie on the plate")
        if on:
            return Outcome("failure", "fewer than half of the grapes remain on the plate")
        return RUNNING

    def at_horizon(self, data: "mujoco.MjData") -> str:
        if 2 * self.on_plate(data) < len(self._grapes):
            return "the grapes are not on the plate at the end"
        return "the grapes are on the plate but not released and at rest at the end"

    def on_plate(self, data: "mujoco.MjData") -> int:
        """How many grapes have their middle above the plate and low enough to lie on it."""
        centres = data.geom_xpos[self._grapes]
        over = np.linalg.norm(centres[:, :2] - PLATE, axis=1) < RADIUS
        return int((over & (centres[:, 2] > FOOT) & (centres[:, 2] < 0.06)).sum())

    def expert(self, data: "mujoco.MjData", mover: ExpertMotion) -> Iterator[np.ndarray]:
        hand, bunch = self._hand, self._bunch
        while 2 * self.on_plate(data) < len(self._grapes):
            if not hand.holds(data, bunch):
                yield from hand.take(data, mover, bunch)
            yield from while_true(lambda: hand.holds(data, bunch), self._carry(data, mover))
            if hand.holds(data, bunch):
                yield from hand.let_go(mover)
        if self._arm.touches(data, self._geoms):
            yield from hand.let_go(mover)
        yield from retreat(mover, AWAY)

    def _carry(self, data: "mujoco.MjData", mover: ExpertMotion) -> Iterator[np.ndarray]:
        """Over the plate, then down until the lowest grape touches it."""
        rng = mover.style.rng
        yaw = rng.uniform(-0.3, 0.3)
        tool = mover.tool
        if tool[2] < self._hand.clear - 0.02:
            up = np.append(tool[:2], self._hand.clear)
            yield from mover.go(up, mover.tool_yaw, GRIP.closed, blend=0.06)
        over = np.append(PLATE + rng.uniform(-0.01, 0.01, 2), self._hand.clear)
        yield from mover.go(over, yaw, GRIP.closed, slow=0.8)
        yield from mover.wait(int(rng.integers(6, 12)))
        grapes, stem = data.geom_xpos[self._grapes], self._bunch.position(data)
        place = stem - np.append(grapes[:, :2].mean(0) - PLATE, 0)
        place[2] = FOOT + GRAPE + 0.003 + stem[2] - grapes[:, 2].min()
        yield from self._hand.set_down(data, mover, self._bunch, place, yaw)

    def _at_rest(self, data: "mujoco.MjData") -> bool:
        rates = data.qvel[self._swaying[:, None] + np.arange(3)]
        return self._bunch.still(data) and bool(np.abs(rates).max() < SWAY)


def _places() -> list[tuple[float, float, float]]:
    """Where the grapes are along, across and above the stalk [m]; widest next to the stem."""
    row = APART * np.sqrt(0.75)
    found = []
    for rows, shift in ((ROWS, 0.0), (UPPER, row / 3)):
        for index, (n, z) in enumerate(rows):
            across = APART * (np.arange(n) - (n - 1) / 2)
            found += [(-0.008 - shift - index * row, float(y), z) for y in across]
    return found


def _hinge(body, name: str, stiffness: float) -> None:
    joint = body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_BALL, armature=1e-6)
    joint.stiffness[0], joint.damping[0] = stiffness, DAMPING


def _paint(body, name: str, start, end, radius: float, colour, mass: float = 0.0) -> None:
    """A capsule that is only seen; with a mass it weighs something as well."""
    body.add_geom(
        name=name, type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=(*start, *end),
        size=(radius, 0, 0), mass=mass, contype=0, conaffinity=0, rgba=colour,
    )  # fmt: skip


def _add_leaf(bunch) -> None:
    """A vine leaf of three lobes, only seen, flat above the shoulder of the bunch."""
    for index, (x, y, long, yaw) in enumerate(
        ((-0.034, 0.0, 0.016, 0.0), (-0.026, 0.011, 0.014, -0.9), (-0.026, -0.011, 0.014, 0.9))
    ):
        bunch.add_geom(
            name=f"leaf_{index}", type=mujoco.mjtGeom.mjGEOM_ELLIPSOID, mass=0,
            size=(long, 0.009, 0.001), pos=(x, y, 0.0225), contype=0, conaffinity=0,
            quat=(np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)), rgba=GREEN,
        )  # fmt: skip


def _add_plate(scene: "mujoco.MjSpec") -> None:
    """A shallow china plate: a disc, and a rim of short staves that lean outwards."""
    plate = scene.worldbody.add_body(name="plate", pos=(*PLATE, 0))
    flat, n, lean = 0.075, 32, 0.38
    plate.add_geom(
        name="plate", type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=(flat, FOOT / 2, 0),
        pos=(0, 0, FOOT / 2), rgba=CHINA,
    )  # fmt: skip
    for band, (inner, outer, colour) in enumerate(((flat, 0.093, CHINA), (0.093, RADIUS, BLUE))):
        middle, half = (inner + outer) / 2, (outer - inner) / 2 + 0.0005
        height = FOOT / 2 + (middle - flat) / (RADIUS - flat) * (RIM - FOOT)
        for index in range(n):
            angle = 2 * np.pi * index / n
            turn, tip = np.zeros(4), np.array([np.cos(lean / 2), 0, -np.sin(lean / 2), 0])
            around = np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)])
            mujoco.mju_mulQuat(turn, around, tip)
            plate.add_geom(
                name=f"rim_{band}_{index}", type=mujoco.mjtGeom.mjGEOM_BOX, quat=turn,
                size=(half, outer * np.tan(np.pi / n) + 0.0003, FOOT / 2),
                pos=(middle * np.cos(angle), middle * np.sin(angle), height), rgba=colour,
            )  # fmt: skip
