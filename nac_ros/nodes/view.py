"""Node `view`: shows the running graph in a rerun viewer, or saves it for one.

It only listens. Joint states, images, chunks, set-points and diagnostics become entities in
nac_ros.reporting.rerun.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError, NacError
from nac_ros.reporting.rerun import ensure_viewer, split_address
from nac_ros.robot.joint_states import JointStateMerger
from nac_ros.robot.spec import load_robot
from nac_ros.ros import image_transport, messages, qos
from nac_ros.ros import parameters as ros_parameters
from nac_ros.ros.diagnostics import ERROR, OK
from nac_ros.ros.node_log import NodeLog
from nac_ros.ros.node_main import exit_process, run

DRAIN_PERIOD_S = 1.0


@dataclass(frozen=True, kw_only=True)
class ViewParameters:
    """Where the view goes, and how much of it.

    robot: name of a robot in config/robots, or the path of its YAML file
    save: path of a new .rrd file; when empty, a viewer shows everything at once
    connect: host:port of the viewer; on this machine one is opened if none listens there
    images_hz: at most so many images of each camera per second
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
    """Messages in, entities out."""

    def __init__(self) -> None:
        super().__init__("view")
        self._lines = NodeLog(self)
        parameters = ros_parameters.declare(self, ViewParameters)
        self._spec = load_robot(parameters.robot)
        self._rejection, self._taken = "", True
        names, max_age_s = self._spec.joint_names, self._spec.joint_states_max_age_s
        self._mergers = {
            source: JointStateMerger(names, max_age_s) for source in ("measured", "commanded")
        }
        from nac_ros.reporting.rerun import (
            RerunLogger,  # says what to install where rerun is absent
        )

        self._log = RerunLogger(self._spec, parameters.images_hz)
        if parameters.save:
            self._log.save(Path(parameters.save))
        else:
            self._log.connect(ensure_viewer(parameters.connect))
        self._subscribe()
        self._drains = self.create_timer(DRAIN_PERIOD_S, self._drain)
        self._lines.info(f"logging to {parameters.save or parameters.connect}")

    def close(self) -> None:
        """The file is complete, or the viewer has everything."""
        if not self._log.close():
            self._lines.warning("not everything was written")

    def _drain(self) -> None:
        before, self._taken = self._taken, self._log.flush()
        if before and not self._taken:
            self._lines.warning("file or viewer is gone or too slow; what comes is dropped")
        elif self._taken and not before:
            self._lines.info("everything is taken again")

    def _subscribe(self) -> None:
        on_measured = partial(self._on_joints, "measured")
        on_commanded = partial(self._on_joints, "commanded")
        topic = self._spec.joint_states_topic
        self.create_subscription(JointState, topic, on_measured, qos.SENSOR)
        self.create_subscription(JointState, "guard/command", on_commanded, qos.MONITOR)
        for camera in self._spec.cameras:
            kind, topic, read = image_transport.image_topic(camera)
            on_image = partial(self._on_image, camera.name, read)
            self.create_subscription(kind, topic, on_image, qos.SENSOR)
        self.create_subscription(JointTrajectory, "policy/chunk", self._on_chunk, qos.MONITOR)
        self.create_subscription(DiagnosticArray, "diagnostics", self._on_reports, qos.MONITOR)

    def _on_joints(self, source: Literal["commanded", "measured"], message: JointState) -> None:
        try:
            sample = self._mergers[source].add_message(message)
        except NacError as error:
            return self._reject(error)
        return None if sample is None else self._log.log_joints(source, *sample)

    def _on_image(
        self,
        camera: str,
        read: Callable[[Image | CompressedImage], np.ndarray],
        message: Image | CompressedImage,
    ) -> None:
        try:
            image = read(message)
        except NacError as error:
            return self._reject(error)
        return self._log.log_image(camera, messages.to_seconds(message.header.stamp), image)

    def _on_chunk(self, message: JointTrajectory) -> None:
        try:
            self._log.log_chunk(messages.from_chunk_message(message))
        except NacError as error:
            self._reject(error)

    def _on_reports(self, message: DiagnosticArray) -> None:
        stamp = messages.to_seconds(message.header.stamp)
        for status in message.status:
            report = messages.values_from_status(status)
            level = {OK: "INFO", ERROR: "ERROR"}.get(status.level, "WARN")
            if status.name == "policy":
                self._log.log_policy_status(stamp, report, level)
            elif status.name == "guard":
                self._log.log_guard_status(stamp, report, level)

    def _reject(self, error: NacError) -> None:
        """Says what cannot be shown, once until it is something else."""
        if str(error) != self._rejection:
            self._rejection = str(error)
            self._lines.warning(f"not shown: {error}", "not shown")


def main() -> None:
    """Entry point of the executable `view`."""
    exit_process(run(ViewNode))


if __name__ == "__main__":
    main()
