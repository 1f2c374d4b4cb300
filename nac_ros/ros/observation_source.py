"""Sensor messages flow into an Aligner; what does not fit is counted by reason, never raised.

No message wakes the node: all are looked at before an observation, in the order in which they
came, so that their number costs inference no more than reading them.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image, JointState

from nac_ros.core.errors import BadObservation, NacError
from nac_ros.core.types import Observation
from nac_ros.robot.observation_buffer import JOINTS, ObservationBuffer
from nac_ros.robot.spec import CameraSpec, RobotSpec
from nac_ros.ros import image_transport, messages, qos
from nac_ros.ros.polled_subscription import PolledSubscription, Received


class _Source(NamedTuple):
    """A topic, the stream of the aligner that it feeds, and where a message of it goes."""

    polled: PolledSubscription
    stream: str
    store: Callable[[Any], None]


class ObservationSource:
    """Listens to the robot's joint states and cameras; `take` and `observe` belong to one thread.

    refused: messages that did not fit, by reason; last_rejection: the newest one's sentence
    notices: what the operator should know of the set-up
    """

    def __init__(self, node: Node, spec: RobotSpec, cameras: Sequence[str], n_obs_steps: int):
        self.refused: Counter[str] = Counter()
        self.last_rejection = ""
        self.notices: list[str] = []
        self._spec, self._lock, self._since = spec, Lock(), 0.0
        self._aligner = ObservationBuffer(spec, cameras, n_obs_steps)
        self._node = node
        joints = PolledSubscription(
            node,
            JointState,
            spec.joint_states_topic,
            _kept(self._aligner.N_JOINTS),
            messages.max_joint_state_bytes(spec),
        )
        self._sources = [_Source(joints, JOINTS, self._on_joints)]
        self._sources += [self._look(node, spec.camera(name)) for name in cameras]

    def _look(self, node: Node, camera: CameraSpec) -> _Source:
        kind, topic, read = image_transport.image_topic(camera)
        if reason := image_transport.jpeg_notice(camera):
            self.notices.append(reason)
        polled = PolledSubscription(node, kind, topic, _kept(self._aligner.N_IMAGES))
        return _Source(polled, camera.name, partial(self._on_image, camera.name, read))

    def clear(self, since: float) -> None:
        """Forgets all samples, and ignores what is stamped before `since` [s] from now on; any
        thread may call it."""
        with self._lock:
            self._aligner.clear()
            self._since = since

    def take(self) -> int:
        """Looks at what came since the last time, as many messages as it returns."""
        came = [
            (received.at_ns, i, received)
            for i, source in enumerate(self._sources)
            for received in source.polled.take()
        ]
        for _, i, received in sorted(came, key=lambda one: one[0]):
            self._read(self._sources[i], received)
        return len(came)

    def get_observation(self, now: float, task: str) -> Observation:
        """The newest observation at `now` [s]; raises BadObservation when missing or stale."""
        self.take()
        with self._lock:
            return self._aligner.get_observation(now, task)

    @property
    def frozen(self) -> list[str]:
        """A sentence for each camera that is frozen, as of the last `take`."""
        with self._lock:
            return self._aligner.frozen

    @property
    def unchecked(self) -> list[str]:
        """Cameras whose content is not checked, because they have shown no noise."""
        with self._lock:
            return self._aligner.unchecked

    def close(self) -> None:
        """Ends the subscriptions."""
        for source in self._sources:
            self._node.destroy_subscription(source.polled.subscription)
        self._sources.clear()

    def _read(self, source: _Source, received: Received) -> None:
        try:
            source.store(_message(source, received))
        except BadObservation as error:
            self.refused[error.reason] += 1
            self.last_rejection = str(error)
            with self._lock:
                self._aligner.reject(source.stream, error)

    def _on_joints(self, message: JointState) -> None:
        def store(stamp: float) -> None:
            self._aligner.add_named_joint_state(stamp, message.name, message.position)

        self._put(message, store)

    def _on_image(
        self,
        camera: str,
        read: Callable[[Image | CompressedImage], np.ndarray],
        message: Image | CompressedImage,
    ) -> None:
        image = read(message)  # before the lock: a JPEG takes a while
        self._put(message, partial(self._aligner.add_image, camera, image=image))

    def _put(
        self, message: JointState | Image | CompressedImage, store: Callable[[float], None]
    ) -> None:
        stamp = messages.to_seconds(message.header.stamp)
        with self._lock:
            if stamp >= self._since:
                store(stamp)


def _message(source: _Source, received: Received) -> Any:
    try:
        return received.message(source.polled.kind)
    except NacError as error:
        raise BadObservation(f"{source.polled.topic}: {error}", "shape") from None


def _kept(depth: int) -> QoSProfile:
    """Of a sensor, as many samples as are of use."""
    return QoSProfile(depth=depth, reliability=qos.SENSOR.reliability)
