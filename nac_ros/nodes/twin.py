"""Node `twin`: the simulated arm in real time, with the topics of the real one."""

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

RENDERING = "llvmpipe"  # threads of Mesa's software renderer
START_TIMEOUT_S = 120.0  # compiling a scene for the first time on a busy machine


@dataclass(frozen=True, kw_only=True)
class TwinParameters:
    """task, seed, trial and randomization take effect at `~/reset`.

    robot: name of a robot in config/robots, or the path of its YAML file
    task: id of the simulated task
    seed: of the run; trial i of a seed has the same scene for every method
    trial: number of the trial
    randomization: a name in config/randomization or the path of a YAML file
    joint_states_hz: how often the joint states are published, beside those of each image
    states_hz: how often the whole scene is recorded, for the video
    image_noise: of the cameras' pictures, standard deviation [grey levels]; 0 = as rendered
    set_points: whether what the controller interpolates is published too, on `~/set_point`
    priority: real time on Linux (SCHED_FIFO) where the system lets it, but for its cameras, which
        take what a policy needs on few cores; 0 = as other processes
    offset_rad, compliance_rad_per_nm: how far the arm rests beside its set-points, see ServoDroop
    recordings: folder for one .npz per trial; nothing is recorded when empty
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
    """Callbacks only hand over to the physics thread, which owns the twins and their cameras."""

    def __init__(self) -> None:
        super().__init__("twin")
        self._log = NodeLog(self)
        parameters.declare(self, TwinParameters, changeable=("task", "seed", "trial", "randomization"))
        self._config = parameters.read(self, TwinParameters)
        self._spec = load_robot(self._config.robot)
        self._origin_ns: int = (
            self.get_clock().now().nanoseconds - messages.NANO
        )  # time begins here
        self._trajectories: list[PolledSubscription] = []
        self._told = 0.0  # stamp of the newest joint states
        self._wanted: deque[TwinParameters] = deque([self._config])
        self._begun, self._closing, self._fault = Event(), Event(), ""
        self._create_outputs()
        noise = self._config.image_noise
        self._cameras = CameraThread(self._spec, self._publish_images, noise)
        self._thread = Thread(target=self._run, name="physics", daemon=True)
        self._thread.start()
        self._wait_for_trial()
        if self._fault:
            raise SimulationError(self._fault)
        self._create_inputs()
        seeing = {self._cameras.thread_id(), *threads_with_prefix(RENDERING)}
        said = set_realtime_priority(self._config.priority, but=seeing)
        self._log.info(f"scheduled {said}, but for {len(seeing)} threads that render")

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
        self._begun.clear()
        self._fault = ""
        self._wanted.append(config)
        self._wait_for_trial()
        response.success = not self._fault
        response.message = (
            self._fault or f"{config.task}, seed {config.seed}, trial {config.trial}"
        )
        return response

    def _wait_for_trial(self) -> None:
        if not self._begun.wait(START_TIMEOUT_S):
            self._fault = f"no trial began within {START_TIMEOUT_S:.0f} s"

    def _run(self) -> None:
        folder = Path(self._config.recordings) if self._config.recordings else None
        epoch = self._origin_ns / messages.NANO
        config = self._config
        droop = ServoDroop(
            offset_rad=config.offset_rad, compliance_rad_per_nm=config.compliance_rad_per_nm
        )
        live = RealtimeTwin(self._spec, folder, config.states_hz, epoch, droop)
        cameras = self._cameras
        try:
            while not self._closing.is_set():
                self._begin(live, cameras)
                if live.trial is not None:
                    self._pace(live, cameras)
        except Exception:  # a thread must not die unheard
            self._log.fatal(traceback.format_exc())
            self._fault = self._fault or "the physics thread failed; see the log"
        finally:
            live.abort("the twin was ended")
            cameras.close()
            self._begun.set()

    def _begin(self, live: RealtimeTwin, cameras: CameraThread) -> None:
        if not self._wanted:
            self._closing.wait(0.01)
            return
        config = self._wanted.popleft()
        try:
            live.prepare(config.task)
            cameras.prepare(config.task)
            randomization = load_randomization(config.randomization)
            live.start_trial(config.task, config.seed, config.trial, self._now(), randomization)
        except NacError as error:
            self._fault = str(error)
        list(self._arrivals())  # those before it are not meant for this trial
        self._announce(live)
        self._begun.set()

    def _pace(self, live: RealtimeTwin, cameras: CameraThread) -> None:
        """Publishes in real time until another trial is wanted."""
        assert live.trial is not None
        image_period = 1 / max(camera.rate_hz for camera in self._spec.cameras)
        next_joints = next_images = self._now()
        while not self._closing.is_set() and not self._wanted:
            self._closing.wait(max(min(next_joints, next_images) - self._now(), 0.0))
            now = self._now()
            self._take_arrivals(live)
            if live.advance(now):
                self._announce(live)
            self._publish_joints(live)
            next_joints = _next(next_joints, 1 / self._config.joint_states_hz, now)
            if now >= next_images:
                cameras.render(live.trial.task, live.stamp, live.twin.snapshot())
                next_images = _next(next_images, image_period, now)

    def _publish_joints(self, live: RealtimeTwin) -> None:
        stamp, names, origin = live.stamp, self._spec.joint_names, self._origin_ns
        if stamp == self._told:  # no physics step since
            return
        self._told = stamp
        measured = messages.to_joint_state(stamp, names, live.twin.proprio(), origin_ns=origin)
        self._joint_states.publish(measured)
        if self._config.set_points:
            wanted = messages.to_set_point(stamp, names, *live.twin.desired(), origin)
            self._set_points.publish(wanted)

    def _take_arrivals(self, live: RealtimeTwin) -> None:
        for received in self._arrivals():
            # when the middleware had it: a controller would not wait for this interpreter
            arrival = (received.received_ns - self._origin_ns) / messages.NANO
            try:
                message = received.deserialize(JointTrajectory)
                trajectory = messages.from_trajectory_message(message, self._origin_ns)
                if live.send_trajectory(trajectory, arrival):
                    self._announce(live)
            except (NacError, TrajectoryRejected) as error:
                self._log.warning(f"trajectory rejected: {error}", "trajectory")

    def _arrivals(self) -> Iterator[ReceivedMessage]:
        for polled in self._trajectories:
            yield from polled.take()

    def _publish_images(self, stamp: float, images: Images) -> None:
        for name, image in images.items():
            self._images[name].publish(
                messages.to_image(self._origin_ns / messages.NANO + stamp, name, image)
            )

    def _announce(self, live: RealtimeTwin) -> None:
        if live.trial is not None:
            self._outcomes.publish(String(data=json.dumps(asdict(live.trial))))


def _next(due: float, period: float, now: float) -> float:
    """The first due time after `now` [s] on the same grid; what was missed is left out."""
    while due <= now:
        due += period
    return due


def main() -> None:
    exit_process(run(TwinNode))


if __name__ == "__main__":
    main()
