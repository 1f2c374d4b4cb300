"""Turning on a kitchen scale: a push button on a spring that toggles a display."""

from collections.abc import Iterator

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import BOX, VISUAL, FreeBody
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.tasks import TASKS
from nac_ros.simulation.tasks.base import RUNNING, Outcome, StartPose, Task

START = StartPose("scale", 0.33, 0.02, 0.03, yaw_spread=np.deg2rad(10))
HOUSING = np.array([0.075, 0.09, 0.0125])  # half sizes [m]
BUTTON = np.array([0.008, 0.008, 0.006])  # half sizes [m]
BUTTON_POSITION = np.array([-0.02, -0.045])  # on the housing [m]
BUTTON_HEIGHT = 0.007  # above the housing when released [m]
TRAVEL, ACTUATION, TOUCH = 0.005, 0.002, 0.0005  # depths: full, switching, touched [m]
PRESS = 0.01  # how far the expert pushes below the released button [m]
RETRACTED = 0.08  # least distance of the tool from the button at the end [m]
PAD_LENGTH = 0.009  # from the tool to the end of the finger pads [m]
DARK, LIT = (0.05, 0.07, 0.06, 1), (0.2, 1.0, 0.35, 1)


@TASKS.register("weighing")
class Weighing(Task):
    """Success when the display is on after the arm has retracted."""

    id = "weighing"
    prompt = "Turn on the weighing machine."
    recoverable_steps = 60
    start_poses = (START,)
    hold_s = 0.3

    def add_objects(self, scene: "mujoco.MjSpec") -> None:
        scale = scene.worldbody.add_body(name="scale", pos=(START.x, START.y, HOUSING[2]))
        scale.add_freejoint(name="scale")
        housing = scale.add_geom(name="housing", type=BOX, size=HOUSING, mass=1.0)
        housing.rgba, housing.friction = (0.93, 0.93, 0.95, 1), (1, 0.01, 0.001)
        size, position = (0.02, 0.03, 0.001), (0.045, 0.04, HOUSING[2])
        scale.add_geom(name="display", type=BOX, size=size, pos=position, rgba=DARK, **VISUAL)
        height = HOUSING[2] + BUTTON_HEIGHT - BUTTON[2]
        button = scale.add_body(name="button", pos=(*BUTTON_POSITION, height))
        joint = button.add_joint(name="button", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(0, 0, -1))
        joint.range, joint.armature = (0, TRAVEL), 0.01
        joint.stiffness[0], joint.damping[0], joint.springref = 300, 2, -0.003
        joint.solref_limit = (0.004, 1)
        button.add_geom(name="button", type=BOX, size=BUTTON, mass=0.01, rgba=(0.85, 0.1, 0.1, 1))
        scene.add_exclude(bodyname1="scale", bodyname2="button")

    def bind(self, model: "mujoco.MjModel", data: "mujoco.MjData", arm: SimulatedArm) -> None:
        super().bind(model, data, arm)
        self._scale, self._button = FreeBody(model, data, "scale"), model.body("button").id
        self._objects = [self._scale]
        self._depth = model.joint("button").qposadr[0]
        self._display = model.geom("display").id
        self._button_geoms = np.array([model.geom("button").id])

    def reset(self, rng: np.random.Generator, share: float = 1.0) -> None:
        super().reset(rng, share)
        self.is_on = self._is_pressed = self._was_touched = False
        self._show_display()

    def update(self) -> None:
        """Toggles the display when the button passes its switching point, with hysteresis."""
        depth = self._data.qpos[self._depth]
        self._was_touched |= depth > TOUCH
        if not self._is_pressed and depth > ACTUATION:
            self._is_pressed, self.is_on = True, not self.is_on
            self._show_display()
        elif self._is_pressed and depth < ACTUATION / 2:
            self._is_pressed = False

    def check_success(self) -> Outcome:
        self._was_touched |= self._arm.touches(self._button_geoms)
        distance = np.linalg.norm(self._arm.tool_position() - self._data.xpos[self._button])
        if not self._hold.update(bool(distance > RETRACTED)):
            return RUNNING
        if self.is_on:
            return Outcome("success", "the display is on and the arm has retracted")
        if self._was_touched:
            return Outcome("failure", "the button was pressed but the display is not on")
        return RUNNING

    def timeout_reason(self) -> str:
        if self.is_on:
            return "the display is on but the arm has not retracted"
        return "the display is not on"

    def expert_setpoints(self, motion: ExpertMotion) -> Iterator[np.ndarray]:
        rng = motion.style.rng
        tilt = rng.uniform(-0.08, 0.08)
        while not self.is_on:
            top = self._button_top()
            target = top + np.append(rng.uniform(-0.002, 0.002, 2), 0)
            yaw = float(np.arctan2(target[1], target[0])) + tilt
            tool = motion.tool_position
            if tool[2] < 0.06 and np.linalg.norm((tool - target)[:2]) > 0.006:
                up = np.append(tool[:2], top[2] + 0.05)
                yield from motion.move_tool(up, yaw, 0, blend=0.05)
            above = target + [0, 0, rng.uniform(0.04, 0.07)]
            yield from motion.move_tool(above, yaw, 0.0, blend=rng.uniform(0.01, 0.03))
            yield from motion.wait(int(rng.integers(0, 5)))
            pressed = target - [0, 0, PRESS]
            yield from motion.move_tool(pressed, yaw, 0.0, speed=rng.uniform(0.12, 0.2))
            yield from motion.wait(int(rng.integers(8, 15)))
            if not self.is_on:
                yield from motion.move_tool(target + [0, 0, 0.03], yaw, 0.0)
        top = self._button_top()
        yaw = float(np.arctan2(top[1], top[0]))
        yield from motion.move_tool(top + [0, 0, rng.uniform(0.06, 0.08)], yaw, 0.0, blend=0.1)
        back = np.array([rng.uniform(-0.1, -0.07), rng.uniform(-0.02, 0.02), 0.13])
        yield from motion.move_tool(top + back, yaw, 0.0)
        yield from motion.wait(12)

    def _button_top(self) -> np.ndarray:
        """Tool position at which the fingertips rest on the released button [m]."""
        top = np.array([*BUTTON_POSITION, HOUSING[2] + BUTTON_HEIGHT])
        return self._scale.to_world(top) + [0, 0, PAD_LENGTH]

    def _show_display(self) -> None:
        self._model.geom_rgba[self._display] = LIT if self.is_on else DARK
