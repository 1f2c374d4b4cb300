"""Sensor messages flow into an Aligner; what does not fit is counted by reason, never raised."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock

import numpy as np
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image, JointState

from nac_ros.align import Aligner
from nac_ros.chunk import Observation
from nac_ros.errors import BadObservation
from nac_ros.nodes import convert, images, qos
from nac_ros.robot import CameraSpec, RobotSpec


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
            self._subscriptions.append(self._look(node, spec.camera(name)))

    def _look(self, node: Node, camera: CameraSpec) -> Subscription:
        kind, topic, read = images.feed(camera)
        if reason := images.why_compressed(camera):
            node.get_logger().warning(reason)
        callback = partial(self._on_image, camera.name, read)
        return node.create_subscription(kind, topic, callback, qos.SENSOR)

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

    def _on_image(
        self,
        camera: str,
        read: Callable[[Image | CompressedImage], np.ndarray],
        message: Image | CompressedImage,
    ) -> None:
        try:
            image = read(message)  # before the lock: a JPEG takes a while
        except BadObservation as error:
            return self._refuse(error)
        return self._take(message, partial(self._aligner.push_image, camera, image=image))

    def _take(
        self, message: JointState | Image | CompressedImage, store: Callable[[float], None]
    ) -> None:
        stamp = convert.to_seconds(message.header.stamp)
        with self._lock:
            if stamp < self._since:
                return
            try:
                store(stamp)
            except BadObservation as error:
                self._refuse(error)

    def _refuse(self, error: BadObservation) -> None:
        self.refused[error.reason] += 1
        self.last_refusal = str(error)
