"""Sensor messages flow into an Aligner; what does not fit is counted by reason, never raised."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState

from nac_ros.align import Aligner
from nac_ros.chunk import Observation
from nac_ros.errors import BadObservation
from nac_ros.nodes import convert, images, qos
from nac_ros.nodes.spin import STEADY
from nac_ros.robot import CameraSpec, RobotSpec

WATCH_S = 0.5  # how often it is looked whether all inputs speak,
SILENT_S = 2.0  # and how long one may be silent


@dataclass
class Input:
    """A topic that is listened to; heard: when it spoke last, on a clock that nobody sets [s]."""

    kind: Any
    topic: str
    told: Callable[[Any], None]
    heard: float = 0.0
    subscription: Any = None


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
        self._inputs = [Input(JointState, spec.joint_states_topic, self._on_joints)]
        self._inputs += [self._eye(spec.camera(name)) for name in cameras]
        for one in self._inputs:
            self._listen(one)
        self._watch = node.create_timer(WATCH_S, self._renew, clock=STEADY)

    def _eye(self, camera: CameraSpec) -> Input:
        kind, topic, read = images.feed(camera)
        if reason := images.why_compressed(camera):
            self._node.get_logger().warning(reason)
        return Input(kind, topic, partial(self._on_image, camera.name, read))

    def _listen(self, one: Input) -> None:
        def told(message: Any) -> None:
            one.heard = time.monotonic()
            one.told(message)

        one.heard = time.monotonic()
        one.subscription = self._node.create_subscription(one.kind, one.topic, told, qos.SENSOR)

    def _renew(self) -> None:
        """Subscribes anew to what has senders and yet is silent: where a neighbour of ours was
        killed, the middleware at times sends us nothing (Fast DDS issue 5469)."""
        for one in self._inputs:
            silent = time.monotonic() - one.heard
            if silent > SILENT_S and self._node.count_publishers(one.topic):
                self._node.get_logger().warning(
                    f"{one.topic}: nothing for {silent:.1f} s; subscribed anew"
                )
                self._node.destroy_subscription(one.subscription)
                self._listen(one)

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
        self._node.destroy_timer(self._watch)
        for one in self._inputs:
            self._node.destroy_subscription(one.subscription)
        self._inputs.clear()

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
