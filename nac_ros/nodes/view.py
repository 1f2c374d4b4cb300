"""Node `view`: shows the running graph in a rerun viewer, or saves it to a file.

It only subscribes. nac_ros.reporting.rerun maps joint states, images, chunks, set-points and
diagnostics to entities.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError, NacError
from nac_ros.reporting.rerun import RerunLogger, ensure_viewer, split_address
from nac_ros.robot.joint_states import JointStateMerger
from nac_ros.robot.spec import load_robot
from nac_ros.ros import image_transport, messages, parameters, qos
from nac_ros.ros.diagnostics import ERROR, OK
from nac_ros.ros.node_log import NodeLog
from nac_ros.ros.node_main import exit_process, run

FLUSH_PERIOD_S = 1.0


@dataclass(frozen=True, kw_only=True)
class ViewParameters:
    """Parameters of the node.

    robot: name of a robot in config/robots, or path of its YAML file
    save: path of a new .rrd file; empty = show everything in a viewer
    connect: host:port of the viewer; on this machine one is opened if none listens there
    images_hz: largest number of images of each camera per second
    """

    robot: str = "vx300s"
    save: str = ""
    connect: str = "127.0.0.1:9876"
    images_hz: float = number_field(10.0, 0.1, 1000.0)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.save and Path(self.save).suffix != ".rrd":
            raise ConfigError(f"view: save must be the path of an .rrd file, got '{self.save}'")
        split_address(self.connect)


class ViewNode(Node):
    """Passes messages to a RerunLogger."""

    def __init__(self) -> None:
        super().__init__("view")
        self._log = NodeLog(self)
        config = parameters.declare(self, ViewParameters)
        spec = load_robot(config.robot)
        self._rejection, self._keeps_up = "", True
        self._mergers = {
            source: JointStateMerger(spec.joint_names, spec.joint_states_max_age_s)
            for source in ("measured", "commanded")
        }
        self._rerun = RerunLogger(spec, config.images_hz)
        if config.save:
            self._rerun.save(Path(config.save))
        else:
            self._rerun.connect(ensure_viewer(config.connect))
        self.create_timer(FLUSH_PERIOD_S, self._flush)
        on_measured = partial(self._on_joints, "measured")
        on_commanded = partial(self._on_joints, "commanded")
        self.create_subscription(JointState, spec.joint_states_topic, on_measured, qos.SENSOR)
        self.create_subscription(JointState, "guard/command", on_commanded, qos.MONITOR)
        for camera in spec.cameras:
            message_type, topic = image_transport.image_topic(camera)
            on_image = partial(self._on_image, camera.name)
            self.create_subscription(message_type, topic, on_image, qos.SENSOR)
        self.create_subscription(JointTrajectory, "policy/chunk", self._on_chunk, qos.MONITOR)
        self.create_subscription(DiagnosticArray, "diagnostics", self._on_reports, qos.MONITOR)
        self._log.info(f"logging to {config.save or config.connect}")

    def close(self) -> None:
        """Completes the file, or sends the viewer everything."""
        if not self._rerun.close():
            self._log.warning("not everything was written")

    def _flush(self) -> None:
        before, self._keeps_up = self._keeps_up, self._rerun.flush()
        if before and not self._keeps_up:
            self._log.warning("the file or viewer is gone or too slow; data is dropped")
        elif self._keeps_up and not before:
            self._log.info("the file or viewer receives everything again")

    def _on_joints(self, source: Literal["commanded", "measured"], message: JointState) -> None:
        try:
            sample = self._mergers[source].add_message(message)
        except NacError as error:
            self._report_rejection(error)
        else:
            if sample is not None:
                self._rerun.log_joints(source, *sample)

    def _on_image(self, camera: str, message: Image | CompressedImage) -> None:
        try:
            self._rerun.log_image(camera, *messages.read_image(message))
        except NacError as error:
            self._report_rejection(error)

    def _on_chunk(self, message: JointTrajectory) -> None:
        try:
            self._rerun.log_chunk(messages.from_chunk_message(message))
        except NacError as error:
            self._report_rejection(error)

    def _on_reports(self, message: DiagnosticArray) -> None:
        stamp = messages.to_seconds(message.header.stamp)
        for status in message.status:
            report = messages.values_from_status(status)
            level = {OK: "INFO", ERROR: "ERROR"}.get(status.level, "WARN")
            if status.name == "policy":
                self._rerun.log_policy_status(stamp, report, level)
            elif status.name == "guard":
                self._rerun.log_guard_status(stamp, report, level)

    def _report_rejection(self, error: NacError) -> None:
        """Logs why a message cannot be shown, once until the reason changes."""
        if str(error) != self._rejection:
            self._rejection = str(error)
            self._log.warning(f"not shown: {error}", "not shown")


def main() -> None:
    """Entry point of the executable `view`."""
    exit_process(run(ViewNode))


if __name__ == "__main__":
    main()
