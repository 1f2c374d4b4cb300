"""Node `twin`: simulates arm and cameras in real time, with the topics of the real robot."""

import json
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread

from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError, NacError, SimulationError
from nac_ros.core.realtime import set_realtime_priority, threads_with_prefix
from nac_ros.robot.spec import load_robot
from nac_ros.ros import messages, parameters, qos
from nac_ros.ros.node_log import NodeLog
from nac_ros.ros.node_main import exit_process, run
from nac_ros.ros.polled_subscription import PolledSubscription, ReceivedMessage
from nac_ros.simulation.domain_randomization import load_randomization
from nac_ros.simulation.image_noise import IMAGE_NOISE, MAX_IMAGE_NOISE
from nac_ros.simulation.joint_trajectory_controller import TrajectoryRejected
from nac_ros.simulation.realtime_twin import CameraThread, Images, RealtimeTwin
from nac_ros.simulation.servo_droop import ServoDroop

RENDERING = "llvmpipe"  # name prefix of the threads of Mesa's software renderer
START_TIMEOUT_S = 120.0  # compiling a scene for the first time on a busy machine


@dataclass(frozen=True, kw_only=True)
class TwinParameters:
    """Parameters of the node; task, seed, trial and randomization take effect at `~/reset`.

    robot: name of a robot in config/robots, or path of its YAML file
    task: id of the simulated task
    seed: of the run; trial i of a seed has the same scene for every method
    trial: number of the trial
    randomization: domain randomization, a name in config/randomization or path of a YAML file
    joint_states_hz: rate of the joint states; they are also published with each image
    states_hz: rate at which the state of the scene is recorded for the video
    image_noise: standard deviation of the image noise [grey levels]; 0 = as rendered
    set_points: whether the controller's interpolated set-points are published on `~/set_point`
    priority: SCHED_FIFO priority, if the system permits it; 0 = no real-time priority. Rendering
        never gets it, because it would take the time of the policy on a machine with few cores
    offset_rad, compliance_rad_per_nm: deviation of the arm from its set-points, see ServoDroop
    recordings: folder for one .npz per trial; empty = nothing is recorded
    """

    robot: str = "vx300s"
    task: str = "weighing"
    seed: int = number_field(0, 0)
    trial: int = number_field(0, 0)
    randomization: str = "nominal"
    joint_states_hz: float = number_field(100.0, 1.0, 1000.0)
    states_hz: float = number_field(15.0, 0.1, 100.0)
    image_noise: float = number_field(IMAGE_NOISE, 0.0, MAX_IMAGE_NOISE)
    set_points: bool = False
    priority: int = number_field(40, 0, 98)
    offset_rad: float = number_field(0.0, -0.2, 0.2)
    compliance_rad_per_nm: float = number_field(0.0, 0.0, 0.1)
    recordings: str = ""

    def __post_init__(self) -> None:
        check_fields(self)


class TwinNode(Node):
    """A physics thread owns the simulation; the executor's callbacks only pass it their input."""

    def __init__(self) -> None:
        super().__init__("twin")
        self._log = NodeLog(self)
        changeable = ("task", "seed", "trial", "randomization")
        self._config = parameters.declare(self, TwinParameters, changeable)
        self._spec = load_robot(self._config.robot)
        self._origin_ns: int = self.get_clock().now().nanoseconds - messages.NANO  # now is 1 s
        self._trajectories: list[PolledSubscription] = []
        self._published_stamp = 0.0  # of the newest joint states
        self._requested: deque[TwinParameters] = deque([self._config])
        self._started, self._closing, self._error = Event(), Event(), ""
        self._create_outputs()
        self._cameras = CameraThread(self._spec, self._publish_images, self._config.image_noise)
        self._thread = Thread(target=self._run, name="physics", daemon=True)
        self._thread.start()
        self._wait_for_trial()
        if self._error:
            raise SimulationError(self._error)
        self._create_inputs()
        rendering = {self._cameras.thread_id(), *threads_with_prefix(RENDERING)}
        scheduling = set_realtime_priority(self._config.priority, but=rendering)
        self._log.info(f"scheduled {scheduling}, except for {len(rendering)} rendering threads")

    def close(self) -> None:
        """Ends the physics thread; the running trial is recorded as aborted."""
        self._closing.set()
        self._thread.join(timeout=5.0)

    def _create_outputs(self) -> None:
        topic = self._spec.joint_states_topic
        self._joint_states = self.create_publisher(JointState, topic, qos.MONITOR)
        self._images = {
            camera.name: self.create_publisher(Image, camera.topic, qos.SENSOR_PUBLISHER)
            for camera in self._spec.cameras
        }
        self._outcomes = self.create_publisher(String, "~/outcome", qos.LATCHED)
        self._set_points = self.create_publisher(JointState, "~/set_point", qos.MONITOR)

    def _create_inputs(self) -> None:
        for group in self._spec.groups:
            if group.kind != "jtc":
                raise ConfigError(f"the twin has no '{group.kind}' controller for {group.name}")
            self._trajectories.append(
                PolledSubscription(self, JointTrajectory, group.topic, qos.COMMAND)
            )
        self.create_service(Trigger, "~/reset", self._on_reset)

    def _now(self) -> float:
        return (self.get_clock().now().nanoseconds - self._origin_ns) / messages.NANO

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            config = parameters.read(self, TwinParameters)
        except NacError as error:
            response.success, response.message = False, str(error)
            return response
        self._started.clear()
        self._error = ""
        self._requested.append(config)
        self._wait_for_trial()
        scene = f"{config.task}, seed {config.seed}, trial {config.trial}"
        response.success, response.message = not self._error, self._error or scene
        return response

    def _wait_for_trial(self) -> None:
        if not self._started.wait(START_TIMEOUT_S):
            self._error = f"no trial started within {START_TIMEOUT_S:.0f} s"

    def _run(self) -> None:
        config, cameras = self._config, self._cameras
        folder = Path(config.recordings) if config.recordings else None
        epoch = self._origin_ns / messages.NANO
        droop = ServoDroop(
            offset_rad=config.offset_rad, compliance_rad_per_nm=config.compliance_rad_per_nm
        )
        twin = RealtimeTwin(self._spec, folder, config.states_hz, epoch, droop)
        try:
            while not self._closing.is_set():
                self._start_trial(twin, cameras)
                if twin.trial is not None:
                    self._run_trial(twin, cameras)
        except Exception:  # reported by `~/reset` too
            self._log.fatal(traceback.format_exc())
            self._error = self._error or "the physics thread failed; see the log"
        finally:
            twin.abort("the twin was ended")
            cameras.close()
            self._started.set()

    def _start_trial(self, twin: RealtimeTwin, cameras: CameraThread) -> None:
        if not self._requested:
            self._closing.wait(0.01)
            return
        config = self._requested.popleft()
        try:
            twin.prepare(config.task)
            cameras.prepare(config.task)
            randomization = load_randomization(config.randomization)
            twin.start_trial(config.task, config.seed, config.trial, self._now(), randomization)
        except NacError as error:
            self._error = str(error)
        list(self._received())  # discards trajectories that were sent before the trial
        self._publish_outcome(twin)
        self._started.set()

    def _run_trial(self, twin: RealtimeTwin, cameras: CameraThread) -> None:
        """Simulates and publishes in real time until another trial is requested."""
        assert twin.trial is not None
        image_period = 1 / max(camera.rate_hz for camera in self._spec.cameras)
        joint_states_period = 1 / self._config.joint_states_hz
        next_joint_states = next_images = self._now()
        while not self._closing.is_set() and not self._requested:
            self._closing.wait(max(min(next_joint_states, next_images) - self._now(), 0.0))
            now = self._now()
            self._pass_trajectories(twin)
            if twin.advance(now):
                self._publish_outcome(twin)
            self._publish_joint_states(twin)
            next_joint_states = _next_due(next_joint_states, joint_states_period, now)
            if now >= next_images:
                cameras.render(twin.trial.task, twin.stamp, twin.twin.snapshot())
                next_images = _next_due(next_images, image_period, now)

    def _publish_joint_states(self, twin: RealtimeTwin) -> None:
        stamp, names, origin = twin.stamp, self._spec.joint_names, self._origin_ns
        if stamp == self._published_stamp:  # no physics step was made
            return
        self._published_stamp = stamp
        measured = messages.to_joint_state(stamp, names, twin.twin.proprio(), origin_ns=origin)
        self._joint_states.publish(measured)
        if self._config.set_points:
            set_point = messages.to_joint_state(
                stamp, names, *twin.twin.desired(), origin_ns=origin
            )
            self._set_points.publish(set_point)

    def _pass_trajectories(self, twin: RealtimeTwin) -> None:
        for received in self._received():
            # Received by the middleware: a real controller does not wait for this interpreter.
            arrival = (received.received_ns - self._origin_ns) / messages.NANO
            try:
                message = received.deserialize(JointTrajectory)
                trajectory = messages.from_trajectory_message(message, self._origin_ns)
                if twin.send_trajectory(trajectory, arrival):
                    self._publish_outcome(twin)
            except (NacError, TrajectoryRejected) as error:
                self._log.warning(f"trajectory rejected: {error}", "trajectory")

    def _received(self) -> Iterator[ReceivedMessage]:
        for polled in self._trajectories:
            yield from polled.take()

    def _publish_images(self, stamp: float, images: Images) -> None:
        for name, image in images.items():
            self._images[name].publish(
                messages.to_image(self._origin_ns / messages.NANO + stamp, name, image)
            )

    def _publish_outcome(self, twin: RealtimeTwin) -> None:
        if twin.trial is not None:
            self._outcomes.publish(String(data=json.dumps(asdict(twin.trial))))


def _next_due(due: float, period: float, now: float) -> float:
    """The first due time after `now` [s] on the grid of `due`; missed ones are skipped."""
    while due <= now:
        due += period
    return due


def main() -> None:
    """Entry point of the executable `twin`."""
    exit_process(run(TwinNode))


if __name__ == "__main__":
    main()
