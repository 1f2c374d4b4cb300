"""Checks the joint states that the recorder receives, without deserializing all of them."""

import time

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState

from nac_ros.core.errors import BadObservation
from nac_ros.robot.frozen_images import FrozenImageDetector
from nac_ros.robot.joint_states import JointStateMerger
from nac_ros.robot.spec import RobotSpec
from nac_ros.ros.messages import max_joint_state_bytes, to_seconds

SAMPLE_S = 0.02  # period at which the joint states of a publisher are passed to the detector


class JointStateMonitor:
    """Reports invalid joint states, and passes the arm's motion to a FrozenImageDetector.

    The detector needs the motion to learn the noise of a camera while the arm is at rest.
    """

    def __init__(self, spec: RobotSpec, detector: FrozenImageDetector):
        self._spec, self._detector = spec, detector
        self._merger = self._new_merger()
        self._newest: dict[bytes, bytes] = {}  # publisher -> newest message
        self._sampled_at: dict[bytes, float] = {}

    def add(self, publisher: bytes, data: bytes) -> None:
        """Adds a serialized message of a publisher."""
        self._newest[publisher] = data
        now = time.monotonic()
        if now - self._sampled_at.get(publisher, -SAMPLE_S) < SAMPLE_S:
            return
        self._sampled_at[publisher] = now
        if len(data) > max_joint_state_bytes(self._spec):
            return
        try:
            sample = self._merger.add_message(deserialize_message(data, JointState))
        except (BadObservation, RuntimeError):  # `problem` reports it
            return
        if sample is not None:
            self._detector.add_joint_state(*sample)

    def problem(self) -> str:
        """What is wrong with the newest message of each publisher since the last call, or ''."""
        newest, self._newest = self._newest, {}
        self._sampled_at.clear()
        if not newest:
            return ""
        merger = self._new_merger()
        try:
            messages = [deserialize_message(data, JointState) for data in newest.values()]
            for message in sorted(messages, key=_stamp):
                merger.add_message(message)
            merger.check(max(map(_stamp, messages)))
        except BadObservation as error:
            return str(error)
        except RuntimeError as error:  # the bytes are no such message
            return f"joint_states: {error}"
        return ""

    def _new_merger(self) -> JointStateMerger:
        return JointStateMerger(self._spec.joint_names, self._spec.joint_states_max_age_s)


def _stamp(message: JointState) -> float:
    return to_seconds(message.header.stamp)
