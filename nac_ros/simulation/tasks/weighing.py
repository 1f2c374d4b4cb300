"""Turning on a kitchen scale: a sprung push button that toggles a display."""

from collections.abc import Iterator

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import FreeBody, HoldTimer
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.tasks import TASKS
from nac_ros.simulation.tasks.base import RUNNING, Outcome, StartPlace, Task

START = StartPlace("scale", 0.33, 0.02, 0.03, yaw_spread=np.deg2rad(10))
HOUSING = np.array([0.075, 0.09, 0.0125])  # half sizes [m]
BUTTON = np.array([0.008, 0.008, 0.006])  # half sizes [m]
BUTTON_PLACE = np.array([-0.02, -0.045])  # on the housing [m]
BUTTON_PROUD = 0.007  # above the housing when released [m]
TRAVEL, ACTUATION, TOUCH = 0.005, 0.002, 0.0005  # button travel, switching point, touched [m]
PRESS = 0.01  # how far the expert pushes below the released button [m]
RETRACTED, SETTLED_S = 0.08, 0.3  # tool's distance from the button [m], and for how long [s]
DARK, LIT = (0.05, 0.07, 0.06, 1), (0.2, 1.0, 0.35, 1)


@TASKS.register("weighing")
class Weighing(Task):
    """Success when the display is on after the arm has retracted (SPEC 5)."""

    id = "weighing"
    prompt = "Turn on the weighing machine."
    recoverable_steps = 60
    starts = (START,)

    def add_objects(self, scene: "mujoco.MjSpec") -> None:
        box = mujoco.mjtGeom.mjGEOM_BOX
        scale = scene.worldbody.add_body(name="scale", pos=(START.x, START.y, HOUSING[2]))
        scale.add_freejoint(name="scale")
        scale.add_geom(
            name="housing", type=box, size=HOUSING, mass=1.0, rgba=(0.93, 0.93, 0.95, 1),
            friction=(1, 0.01, 0.001),
        )  # fmt: skip
        scale.add_geom(
            name="display", type=box, size=(0.02, 0.03, 0.001), pos=(0.045, 0.04, HOUSING[2]),
            mass=0, rgba=DARK, contype=0, conaffinity=0,
        )  # fmt: skip
        height = HOUSING[2] + BUTTON_PROUD - BUTTON[2]
        button = scale.add_body(name="button", pos=(*BUTTON_PLACE, height))
        joint = button.add_joint(
            name="button", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(0, 0, -1),
            range=(0, TRAVEL), armature=0.01,
        )  # fmt: skip
        joint.stiffness[0], joint.damping[0], joint.springref = 300, 2, -0.003
        joint.solref_limit = (0.004, 1)
        button.add_geom(name="button", type=box, size=BUTTON, mass=0.01, rgba=(0.85, 0.1, 0.1, 1))
        scene.add_exclude(bodyname1="scale", bodyname2="button")

    def bind(self, model: "mujoco.MjModel", arm: SimulatedArm) -> None:
        self._model, self._arm = model, arm
        self._scale, self._button = FreeBody(model, "scale"), model.body("button").id
        self._away = HoldTimer(SETTLED_S)
        self._depth = model.joint("button").qposadr[0]
        self._display = model.geom("display").id
        self._button_geoms = np.array([model.geom("button").id])

    def place(self, data: "mujoco.MjData", rng: np.random.Generator, share: float = 1.0) -> None:
        place, yaw = START.draw(rng, share)
        self._scale.place(data, np.append(place, HOUSING[2]), yaw)
        self.on = self._down = self.touched = False
        self._away.reset()
        self._show()

    def update(self, data: "mujoco.MjData") -> None:
        depth = data.qpos[self._depth]
        if depth > TOUCH:
            self.touched = True
        if not self._down and depth > ACTUATION:
            self._down, self.on = True, not self.on
            self._show()
        elif self._down and depth < ACTUATION / 2:
            self._down = False

    def judge(self, data: "mujoco.MjData") -> Outcome:
        self.touched |= self._arm.touches(data, self._button_geoms)
        away = np.linalg.norm(self._arm.tool(data) - data.xpos[self._button]) > RETRACTED
        if not self._away.holds(bool(away), data.time):
            return RUNNING
        if self.on:
            return Outcome("success", "the display is on and the arm has retracted")
        if self.touched:
            return Outcome("failure", "the button was pressed but the display is not on")
        return RUNNING

    def at_horizon(self, data: "mujoco.MjData") -> str:
        if self.on:
            return "the display is on but the arm has not retracted"
        return "the display is not on"

    def expert(self, data: "mujoco.MjData", mover: ExpertMotion) -> Iterator[np.ndarray]:
        rng = mover.style.rng
        tilt = rng.uniform(-0.08, 0.08)
        while not self.on:
            top = self._button_top(data)
            aim = top + np.append(rng.uniform(-0.002, 0.002, 2), 0)
            yaw = float(np.arctan2(aim[1], aim[0])) + tilt
            if mover.tool[2] < 0.06 and np.linalg.norm((mover.tool - aim)[:2]) > 0.006:
                yield from mover.go(np.append(mover.tool[:2], top[2] + 0.05), yaw, 0, blend=0.05)
            above = np.array([0, 0, rng.uniform(0.04, 0.07)])
            yield from mover.go(aim + above, yaw, 0.0, blend=rng.uniform(0.01, 0.03))
            yield from mover.wait(int(rng.integers(0, 5)))
            yield from mover.go(aim - [0, 0, PRESS], yaw, 0.0, slow=rng.uniform(0.12, 0.2))
            yield from mover.wait(int(rng.integers(8, 15)))
            if not self.on:
                yield from mover.go(aim + [0, 0, 0.03], yaw, 0.0)
        top = self._button_top(data)
        height = np.array([0, 0, rng.uniform(0.06, 0.08)])
        yaw = float(np.arctan2(top[1], top[0]))
        yield from mover.go(top + height, yaw, 0.0, blend=0.1)
        back = np.array([rng.uniform(-0.1, -0.07), rng.uniform(-0.02, 0.02), 0.13])
        yield from mover.go(top + back, yaw, 0.0)
        yield from mover.wait(12)

    def _button_top(self, data: "mujoco.MjData") -> np.ndarray:
        """Where the tool is when the fingertips rest on the released button [m]."""
        tip = 0.009  # the finger pads' end below the tool
        released = self._scale.position(data) + self._scale.axes(data) @ np.array(
            [*BUTTON_PLACE, HOUSING[2] + BUTTON_PROUD]
        )
        return released + [0, 0, tip]

    def _show(self) -> None:
        self._model.geom_rgba[self._display] = LIT if self.on else DARK
