"""The twin: a simulated robot with the robot interface, seeded scenes and a success detector."""

from dataclasses import dataclass

import numpy as np

from nac_ros.core.errors import SimulationError
from nac_ros.core.types import JointTrajectory, Trajectory
from nac_ros.robot.interface import RobotState
from nac_ros.robot.spec import RobotSpec
from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.domain_randomization import NOMINAL, DomainRandomization, SceneAppearance
from nac_ros.simulation.image_noise import IMAGE_NOISE, ImageNoise
from nac_ros.simulation.joint_trajectory_controller import JointTrajectoryController
from nac_ros.simulation.rendering import mujoco, open_renderer
from nac_ros.simulation.scene import TIMESTEP, build_scene
from nac_ros.simulation.servo_droop import RIGID, ServoDroop
from nac_ros.simulation.tasks import make_task
from nac_ros.simulation.tasks.base import HORIZON, Outcome, SuccessDetector

_SETTLE_S = 0.3
_START_SPREAD = 0.1  # [rad] per joint, around the robot's home
_START_OPENING = (0.5, 1.0)  # share of the gripper's range
_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION


@dataclass(frozen=True)
class TwinState:
    """A snapshot of one twin: MuJoCo's integration state and the appearance of the scene."""

    physics: np.ndarray
    appearance: np.ndarray


class Twin:
    """A RobotInterface in MuJoCo; one model is compiled per task and reused for all trials.

    render: whether `read` returns camera images
    randomization: ranges of the domain randomization, used from the next `reset` on
    image_noise: standard deviation of the noise in images of `read` [grey levels]; the same scene
        seed gives the same noise
    droop: distance of the arm at rest from its set-points
    """

    def __init__(
        self,
        spec: RobotSpec,
        task: str,
        render: bool = True,
        randomization: DomainRandomization = NOMINAL,
        image_noise: float = IMAGE_NOISE,
        droop: ServoDroop = RIGID,
    ):
        self.spec, self._droop = spec, droop
        self.task = make_task(task)
        scene = build_scene(spec)
        self.task.add_objects(scene)
        self.model = scene.compile()
        self.data = mujoco.MjData(self.model)
        self.arm = SimulatedArm(self.model, self.data)
        self.task.bind(self.model, self.data, self.arm)
        self._detector = SuccessDetector(self.task, HORIZON / spec.action_rate_hz)
        self.controller = JointTrajectoryController(spec.joint_names)
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        self._render_cameras = render
        self._noise = ImageNoise(image_noise if render else 0.0)
        recoloured = np.setdiff1d(np.arange(self.model.ngeom), self.arm.geoms)
        self.randomization = randomization
        self._appearance = SceneAppearance(self.model, recoloured)
        self.reset(0)

    def reset(self, scene_seed: int) -> None:
        """Starts a new trial at time 0: objects placed, arm near home, everything at rest."""
        rng = np.random.default_rng(scene_seed)
        mujoco.mj_resetData(self.model, self.data)
        self._noise.reseed(scene_seed)
        self._appearance.randomize(self.randomization, np.random.default_rng([scene_seed, 2]))
        self.task.reset(rng, self.randomization.start_share)
        start = self._sample_start(rng)
        self.arm.set_positions(start + self._resting_error())
        mujoco.mj_step(self.model, self.data, round(_SETTLE_S / TIMESTEP))
        self.data.time = 0.0
        self.controller.reset(start, 0.0)
        self._detector.reset()
        mujoco.mj_forward(self.model, self.data)
        self.task.update()

    def now(self) -> float:
        """Simulated time [s] since the start of the trial."""
        return float(self.data.time)

    def step_until(self, t: float) -> None:
        """Runs physics and controller to time `t` [s], rounded to a physics step."""
        n = round((t - self.data.time) / TIMESTEP)
        if n <= 0:
            return
        times = self.data.time + TIMESTEP * np.arange(n)
        setpoints = self.controller.sample(times).positions + self._resting_error()
        for targets in self.arm.servo_targets(setpoints):
            self.data.ctrl[:] = targets
            mujoco.mj_step(self.model, self.data)
            self.task.update()
            self._detector.update(self.now())

    def read(self) -> RobotState:
        """Joint state and noisy images of the policy's cameras, taken now."""
        stamp = self.now()
        images = {}
        if self._render_cameras:
            for camera in self.spec.cameras:
                image = self.render(camera.name, camera.width, camera.height)
                images[camera.name] = (stamp, self._noise.add(image))
        return RobotState(stamp, self.proprio(), images)

    def proprio(self) -> np.ndarray:
        """Measured joint positions, float32 `[D]`."""
        return self.arm.positions()

    def setpoint(self) -> np.ndarray:
        """Positions of the controller's set-point now, float64 `[D]`."""
        return self.desired()[0]

    def desired(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The controller's set-point now: positions, velocities, accelerations, `[D]` each."""
        now = self.controller.sample(self.now())
        return now.positions[0], now.velocities[0], now.accelerations[0]

    def write(self, trajectory: JointTrajectory) -> None:
        """Sends a trajectory that replaces the current one; raises TrajectoryRejected."""
        self.send_trajectory(Trajectory.from_arrays(self.spec.joint_names, trajectory))

    def send_trajectory(self, trajectory: Trajectory, arrival: float | None = None) -> None:
        """Sends a trajectory that the controller received at `arrival` [s], by default now.

        Raises TrajectoryRejected with the controller's reason.
        """
        now = self.now()  # no later: the set-points up to now have been executed already
        self.controller.accept(trajectory, now if arrival is None else min(arrival, now))

    def hold(self) -> None:
        """Stays at the present set-point."""
        self.controller.hold(self.now())

    def outcome(self) -> Outcome:
        """State of the trial; the first success or failure is final."""
        return self._detector.outcome

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        """Image of `camera` now, without noise, uint8 `[height, width, 3]` RGB."""
        if (width, height) not in self._renderers:
            self._renderers[width, height] = open_renderer(self.model, width, height)
        renderer = self._renderers[width, height]
        renderer.update_scene(self.data, camera)
        return renderer.render()

    def snapshot(self) -> TwinState:
        """Physics and appearance of the scene, to be rendered later."""
        physics = np.zeros(mujoco.mj_stateSize(self.model, _PHYSICS))
        mujoco.mj_getState(self.model, self.data, physics, _PHYSICS)
        return TwinState(physics, self._appearance.values())

    def restore(self, state: TwinState) -> None:
        """Shows a snapshot of the same task; outcome, task state and controller stay."""
        mujoco.mj_setState(self.model, self.data, state.physics, _PHYSICS)
        self._appearance.set_values(state.appearance)
        mujoco.mj_forward(self.model, self.data)

    def close(self) -> None:
        """Frees the renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def _resting_error(self) -> np.ndarray:
        """Distance at which the arm rests from its set-points `[D]`, zero for the gripper."""
        return np.append(self._droop.resting_error(self.arm.gravity_torques()), 0.0)

    def _sample_start(self, rng: np.random.Generator) -> np.ndarray:
        """Set-point `[D]` near home at which the arm touches nothing; the arm is moved there."""
        home = self.spec.home[:-1]
        low, high = self.spec.position_low[-1], self.spec.position_high[-1]
        for _ in range(100):
            joints = home + rng.uniform(-_START_SPREAD, _START_SPREAD, len(home))
            start = np.append(joints, low + (high - low) * rng.uniform(*_START_OPENING))
            self.arm.set_positions(start)
            mujoco.mj_forward(self.model, self.data)
            if not self.arm.collides():
                return start
        raise SimulationError(f"task {self.task.id}: no start pose of the arm is free of contact")
