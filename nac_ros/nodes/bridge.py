"""Sensor messages flow into an Aligner; what does not fit is counted by reason, never raised."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock

from rclpy.node import Node
from sensor_msgs.msg import Image, JointState

from nac_ros.align import Aligner
from nac_ros.chunk import Observation
from nac_ros.errors import BadObservation
from nac_ros.nodes import convert, qos
from nac_ros.robot import RobotSpec


class Bridge:
    """Subscribes to the robot's joint states and cameras; `observe` may run in another thread.

    refused: messages that did not fit, by reason; last_refusal: the newest one's sentence
    """

    def __init__(self, node: Node, spec: RobotSpec, cameras: Sequence[str], n_obs_steps: int):
        self.refused: Counter[str] = Counter()
        self.last_refusal = ""
        self._spec, self._lock, self._since = spec, Lock(), 0.0
        self._aligner = Aligner(spec, cameras, n_obs_steps)
        self._node = node
        self._subscriptions = [
            node.create_subscription(
                JointState, spec.joint_states_topic, self._on_joints, qos.SENSOR
            )
        ]
        for name in cameras:
            topic, callback = spec.camera(name).topic, partial(self._on_image, name)
            self._subscriptions.append(
                node.create_subscription(Image, topic, callback, qos.SENSOR)
            )

    def clear(self, since: float) -> None:
        """Forgets all samples, and ignores what is stamped before `since` [s] from now on."""
        with self._lock:
            self._aligner.clear()
            self._since = since

    def observe(self, now: float, task: str) -> Observation:
        """The newest observation at `now` [s]; raises BadObservation when missing or stale."""
        with self._lock:
            return self._aligner.observe(now, task)

    def close(self) -> None:
        """Ends the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _on_joints(self, message: JointState) -> None:
        def store(stamp: float) -> None:
            positions = convert.from_joint_state(message, self._spec.joint_names)
            self._aligner.push_joints(stamp, positions)

        self._take(message, store)

    def _on_image(self, camera: str, message: Image) -> None:
        def store(stamp: float) -> None:
            self._aligner.push_image(camera, stamp, convert.from_image(message))

        self._take(message, store)

    def _take(self, message: JointState | Image, store: Callable[[float], None]) -> None:
        stamp = convert.to_seconds(message.header.stamp)
        with self._lock:
            if stamp < self._since:
                return
            try:
                store(stamp)
            except BadObservation as error:
                self.refused[error.reason] += 1
                self.last_refusal = str(error)
