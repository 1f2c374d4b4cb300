"""Where the guard's motion leaves: one publisher for each group of joints."""

import numpy as np
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from nac_ros.chunk import Motion
from nac_ros.nodes import convert, qos
from nac_ros.robot import ControllerGroup, RobotSpec


class Controller:
    """One controller group and the publisher that reaches it."""

    def __init__(self, node: Node, spec: RobotSpec, group: ControllerGroup):
        self._group, self._streams = group, group.kind == "jtc"
        self._columns = [spec.joint_names.index(joint) for joint in group.joints]
        self._spare: list[JointTrajectoryPoint] = []
        kind = JointTrajectory if self._streams else Float64MultiArray
        self.publisher = node.create_publisher(kind, group.topic, qos.COMMAND)

    def send(self, motion: Motion | None, here: np.ndarray, now: float, origin_ns: int) -> None:
        """A trajectory that ends at rest, where there is a new one, or the bare set-point for a
        forward controller."""
        if self._streams and motion is None:
            return
        if self._streams:
            arrival = now if self._group.stamps == "arrival" else None
            message = convert.to_trajectory_message(
                motion, self._group.joints, self._columns, arrival, origin_ns, self._spare
            )
        else:
            message = convert.to_array_message(here[self._columns])
        self.publisher.publish(message)
