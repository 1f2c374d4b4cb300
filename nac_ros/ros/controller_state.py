"""Reads the controllers' set-points from `<controller>/controller_state` of ros2_control.

The message type is in control_msgs, which comes with ros2_controllers and is missing in other
installations of ROS. Without it the set-point is unknown, and the guard gets no update.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from rclpy.node import Node

from nac_ros.control.checks import Rejection
from nac_ros.control.controller_reference import MAX_AGE_S
from nac_ros.control.guard import Guard
from nac_ros.core.errors import BadActions, NacError
from nac_ros.robot.spec import RobotSpec
from nac_ros.ros import messages, qos
from nac_ros.ros.polled_subscription import PolledSubscription

N_JOINT_SETS = 5  # in a message: reference, feedback, error, output, fields of older versions


class ControllerStates:
    """The newest set-point of each controller of `spec`; updates a guard once all are known.

    text: for the log, whether the set-points can be received
    """

    def __init__(self, node: Node, spec: RobotSpec):
        self._spec = spec
        self._positions = np.full(spec.action_dim, np.nan)
        self._received_at = np.full(spec.action_dim, -np.inf)
        self._subscriptions: list[tuple[PolledSubscription, list[int]]] = []
        controller_state = message_type()
        without_state = [group.name for group in spec.groups if group.kind != "jtc"]
        if controller_state is None:
            self.text = "control_msgs is not installed, so the controllers' set-point is unknown"
            return
        if without_state:
            names = ", ".join(without_state)
            self.text = f"{names} has no controller_state: its set-point is unknown"
            return
        max_bytes = N_JOINT_SETS * messages.max_joint_state_bytes(spec)
        for group in spec.groups:
            columns = [spec.joint_names.index(joint) for joint in group.joints]
            topic = state_topic(group.topic)
            polled = PolledSubscription(node, controller_state, topic, qos.SENSOR, max_bytes)
            self._subscriptions.append((polled, columns))
        topics = ", ".join(polled.topic for polled, _ in self._subscriptions)
        self.text = f"the controllers' set-point is read from {topics}"

    def update(self, guard: Guard, now: float) -> list[Rejection]:
        """Updates `guard` with the messages that were received since the last call; the time is
        `now` [s]. Only the newest message of each controller is read. Returns the rejections."""
        received_any, rejections = False, []
        for polled, columns in self._subscriptions:
            for received in list(polled.take())[-1:]:
                names = [self._spec.joint_names[column] for column in columns]
                try:
                    positions = reference_positions(
                        received.deserialize(polled.message_type), names
                    )
                except NacError as error:
                    rejections.append(guard.reject("reference_not_finite", str(error)))
                    positions = np.full(len(columns), np.nan)
                self._positions[columns], self._received_at[columns] = positions, now
                received_any = True
        known = np.isfinite(self._positions).all() and (now - self._received_at <= MAX_AGE_S).all()
        if received_any and known:
            rejection = guard.update_reference(now, self._positions)
            rejections += [] if rejection is None else [rejection]
        return rejections


def message_type() -> Any:
    """control_msgs/JointTrajectoryControllerState, None if it is not installed."""
    try:
        return import_module("control_msgs.msg").JointTrajectoryControllerState
    except ImportError:
        return None


def state_topic(topic: str) -> str:
    """`arm_controller/controller_state` for `arm_controller/joint_trajectory`."""
    return f"{topic.rpartition('/')[0]}/controller_state".lstrip("/")


def reference_positions(message: Any, joints: Sequence[str]) -> np.ndarray:
    """The set-point `[len(joints)]` of a JointTrajectoryControllerState, in the order of `joints`.

    The field is `reference` since Iron and `desired` before; newer messages lack `desired`. Raises
    BadActions if a joint is missing or a position is not finite.
    """
    points = (getattr(message, name, None) for name in ("reference", "desired"))
    values = next((p.positions for p in points if p is not None and len(p.positions)), ())
    found = dict(zip(message.joint_names, values))
    positions = np.array([found.get(joint, np.nan) for joint in joints], float)
    if not np.isfinite(positions).all():
        bad = ", ".join(j for j, p in zip(joints, positions) if not np.isfinite(p))
        raise BadActions(
            f"a controller_state has no finite set-point of {bad}; see the robot's groups"
        )
    return positions
