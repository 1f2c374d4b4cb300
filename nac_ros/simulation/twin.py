"""The simulated robot: the same face as the real arm, with seeded scenes and a judge."""

from dataclasses import dataclass

import numpy as np

from nac_ros.core.errors import SimulationError
from nac_ros.core.types import JointTrajectory, Trajectory
from nac_ros.robot.interface import RobotState
from nac_ros.robot.spec import RobotSpec
from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.domain_randomization import NOMINAL, DomainRandomization, SceneAppearance
from nac_ros.simulation.image_noise import IMAGE_NOISE, ImageNoise
from nac_ros.simulation.joint_trajectory_controller import TrajectoryController
from nac_ros.simulation.rendering import mujoco, open_renderer
from nac_ros.simulation.scene import TIMESTEP, build_scene
from nac_ros.simulation.servo_droop import RIGID, Droop
from nac_ros.simulation.tasks import make_task
from nac_ros.simulation.tasks.base import HORIZON, RUNNING, Outcome

_SETTLE_S = 0.3
_JUDGE_EVERY = 8  # physics steps, 62 times per second
_START_SPREAD = 0.1  # [rad] per joint, around the robot's home
_START_OPENING = (0.5, 1.0)  # share of the gripper's range


@dataclass(frozen=True)
class TwinState:
    """Everything that decides how physics goes on and how the scene looks."""

    physics: np.ndarray
    look: np.ndarray


class Twin:
    """A RobotIO in MuJoCo; one model is compiled per task and reused across trials.

    variation: how scenes differ, from the next `reset` on
    image_noise: of the pictures of `read`, standard deviation [grey levels]; the same scene seed
        gives the same noise
    droop: how far the arm rests beside its set-points
    """

    def __init__(
        self,
        spec: RobotSpec,
        task: str,
        render: bool = True,
        variation: DomainRandomization = NOMINAL,
        image_noise: float = IMAGE_NOISE,
        droop: Droop = RIGID,
    ):
        self.spec, self._droop = spec, droop
        self.task = make_task(task)
        scene = build_scene(spec)
        self.task.add_objects(scene)
        self.model = scene.compile()
        self.data = mujoco.MjData(self.model)
        self.arm = SimulatedArm(self.model)
        self.task.bind(self.model, self.arm)
        self.controller = TrajectoryController(spec.joint_names)
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        self._render_cameras = render
        self._noise = ImageNoise(image_noise if render else 0.0)
        self._outcome = RUNNING
        painted = np.setdiff1d(np.arange(self.model.ngeom), self.arm.geoms)
        self.variation, self._look = variation, SceneAppearance(self.model, painted)
        self.reset(0)

    def reset(self, scene_seed: int) -> None:
        """A new trial at time 0: objects placed, arm near home, all at rest."""
        rng = np.random.default_rng(scene_seed)
        mujoco.mj_resetData(self.model, self.data)
        self._noise.reseed(scene_seed)
        self._look.vary(self.variation, np.random.default_rng([scene_seed, 2]))
        self.task.place(self.data, rng, self.variation.start_share)
        start = self._start_pose(rng)
        self.arm.place(self.data, start + self._beside())
        mujoco.mj_step(self.model, self.data, round(_SETTLE_S / TIMESTEP))
        self.data.time = 0.0
        self.controller.reset(start, 0.0)
        self._outcome, self._steps = RUNNING, 0
        mujoco.mj_forward(self.model, self.data)
        self.task.update(self.data)

    def now(self) -> float:
        """Simulated time [s] since the trial began."""
        return float(self.data.time)

    def step_until(self, t: float) -> None:
        """Runs physics and controller to time `t` [s], the end rounded to a physics step."""
        n = round((t - self.data.time) / TIMESTEP)
        if n <= 0:
            return
        times = self.data.time + TIMESTEP * np.arange(n)
        set_points = self.controller.sample(times).positions + self._beside()
        for servo in self.arm.servo(set_points):
            self.data.ctrl[:] = servo
            mujoco.mj_step(self.model, self.data)
            self.task.update(self.data)
            self._steps += 1
            if self._steps % _JUDGE_EVERY == 0:
                self._judge()

    def read(self) -> RobotState:
        """Joint state and policy cameras of this moment, with their sensors' noise."""
        stamp = self.now()
        images = {}
        if self._render_cameras:
            for camera in self.spec.cameras:
                image = self.render(camera.name, camera.width, camera.height)
                images[camera.name] = (stamp, self._noise.add(image))
        return RobotState(stamp, self.proprio(), images)

    def proprio(self) -> np.ndarray:
        """Measured joint positions, float32 `[D]`."""
        return self.arm.state(self.data)

    def command(self) -> np.ndarray:
        """The controller's set-point now, float64 `[D]`."""
        return self.controller.sample(self.now()).positions[0]

    def desired(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The controller's set-point now: positions, velocities, accelerations, `[D]` each."""
        now = self.controller.sample(self.now())
        return now.positions[0], now.velocities[0], now.accelerations[0]

    def write(self, motion: JointTrajectory) -> None:
        """Sends what is commanded from now on; raises TrajectoryRejected with its reason."""
        self.send_trajectory(Trajectory.of(self.spec.joint_names, motion))

    def send_trajectory(self, trajectory: Trajectory, at: float | None = None) -> None:
        """Hands a trajectory to the controller, which got it `at` [s], now if left out; raises
        TrajectoryRejected with its reason."""
        now = self.now()  # in whole physics steps; the controller must know what it did then
        self.controller.accept(trajectory, now if at is None else min(at, now))

    def hold(self) -> None:
        """Stays at the set-point of now."""
        self.controller.hold(self.now())

    def outcome(self) -> Outcome:
        """How the trial stands; the first success or failure stays."""
        return self._outcome

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        """What `camera` sees now without noise, uint8 `[height, width, 3]` RGB."""
        if (width, height) not in self._renderers:
            self._renderers[width, height] = open_renderer(self.model, width, height)
        renderer = self._renderers[width, height]
        renderer.update_scene(self.data, camera)
        return renderer.render()

    def state(self) -> TwinState:
        """A snapshot for later rendering."""
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.zeros(mujoco.mj_stateSize(self.model, kind))
        mujoco.mj_getState(self.model, self.data, physics, kind)
        return TwinState(physics, self._look.values())

    def restore(self, state: TwinState) -> None:
        """Shows a snapshot of the same task again; the judge and the controller stay."""
        mujoco.mj_setState(
            self.model, self.data, state.physics, mujoco.mjtState.mjSTATE_INTEGRATION
        )
        self._look.show(state.look)
        mujoco.mj_forward(self.model, self.data)

    def close(self) -> None:
        """Frees the renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def _beside(self) -> np.ndarray:
        """How far from its set-points the arm rests `[D]`; the gripper does not."""
        return np.append(self._droop.of(self.arm.gravity(self.data)), 0.0)

    def _judge(self) -> None:
        if self._outcome.state != "running":
            return
        self._outcome = self.task.judge(self.data)
        if self._outcome.state == "running" and self.now() >= HORIZON / self.spec.action_rate_hz:
            self._outcome = Outcome("failure", self.task.at_horizon(self.data))

    def _start_pose(self, rng: np.random.Generator) -> np.ndarray:
        """Puts the arm somewhere near home where it touches nothing."""
        arm_joints = self.spec.action_dim - 1
        low, high = self.spec.position_low[-1], self.spec.position_high[-1]
        for _ in range(100):
            joints = self.spec.home[:arm_joints] + rng.uniform(
                -_START_SPREAD, _START_SPREAD, arm_joints
            )
            start = np.append(joints, low + (high - low) * rng.uniform(*_START_OPENING))
            self.arm.place(self.data, start)
            mujoco.mj_forward(self.model, self.data)
            if not self.arm.collides(self.data):
                return start
        raise SimulationError(f"task {self.task.id}: no start pose of the arm is free of contact")
