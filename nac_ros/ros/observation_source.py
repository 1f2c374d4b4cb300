"""Fills an ObservationBuffer from the robot's topics; messages that do not fit are only counted.

The topics are polled: their messages are read before each observation, in the order in which they
were received, so that a flooded topic costs inference no more than reading it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image, JointState

from nac_ros.core.errors import BadObservation, NacError
from nac_ros.core.types import Observation
from nac_ros.robot.observation_buffer import COMMANDS, JOINTS, ObservationBuffer
from nac_ros.robot.spec import CameraSpec, RobotSpec
from nac_ros.ros import image_transport, messages, qos
from nac_ros.ros.polled_subscription import PolledSubscription, ReceivedMessage


class _Input(NamedTuple):
    """A topic, the stream of the buffer that it fills, and the function that adds a message."""

    subscription: PolledSubscription
    stream: str
    add: Callable[[Any], None]


class ObservationSource:
    """Observations from the joint states and cameras of a robot.

    `read_messages` and `get_observation` belong to one thread, `clear` to any.

    rejections: messages that did not fit, by reason; last_rejection: the text of the newest
    notices: what the operator should know about the image topics
    """

    def __init__(
        self,
        node: Node,
        spec: RobotSpec,
        cameras: Sequence[str],
        n_obs_steps: int,
        n_past_commands: int = 0,
    ):
        self.rejections: Counter[str] = Counter()
        self.last_rejection = ""
        self.notices: list[str] = []
        self._lock, self._since = Lock(), 0.0
        self._buffer = ObservationBuffer(spec, cameras, n_obs_steps, n_past_commands)
        self._joint_names = spec.joint_names
        joint_states = PolledSubscription(
            node,
            JointState,
            spec.joint_states_topic,
            _sensor_profile(self._buffer.N_JOINTS),
            messages.max_joint_state_bytes(spec),
        )
        self._inputs = [_Input(joint_states, JOINTS, self._add_joint_state)]
        self._inputs += [self._image_input(node, spec.camera(name)) for name in cameras]
        if n_past_commands:
            profile = _sensor_profile(self._buffer.N_JOINTS)
            size = messages.max_joint_state_bytes(spec)
            commands = PolledSubscription(node, JointState, COMMANDS, profile, size)
            self._inputs.append(_Input(commands, COMMANDS, self._add_command))

    def _image_input(self, node: Node, camera: CameraSpec) -> _Input:
        message_type, topic = image_transport.image_topic(camera)
        if notice := image_transport.jpeg_notice(camera):
            self.notices.append(notice)
        profile = _sensor_profile(self._buffer.N_IMAGES)
        subscription = PolledSubscription(node, message_type, topic, profile)
        return _Input(subscription, camera.name, partial(self._add_image, camera.name))

    def clear(self, since: float) -> None:
        """Forgets all samples, and ignores those stamped before `since` [s] from now on."""
        with self._lock:
            self._buffer.clear()
            self._since = since

    def read_messages(self) -> int:
        """Adds the messages received since the last call to the buffer; returns their number."""
        found = [
            (received.received_ns, i, received)
            for i, source in enumerate(self._inputs)
            for received in source.subscription.take()
        ]
        for _, i, received in sorted(found, key=lambda row: row[0]):
            self._add(self._inputs[i], received)
        return len(found)

    def get_observation(self, now: float, task: str) -> Observation:
        """The newest observation at `now` [s]; raises BadObservation if it is missing or stale."""
        self.read_messages()
        with self._lock:
            return self._buffer.get_observation(now, task)

    @property
    def frozen(self) -> list[str]:
        """A sentence for each camera that sends frozen images."""
        with self._lock:
            return self._buffer.frozen

    @property
    def unchecked(self) -> list[str]:
        """Cameras not checked for frozen images, because they have shown no noise."""
        with self._lock:
            return self._buffer.unchecked

    def _add(self, source: _Input, received: ReceivedMessage) -> None:
        subscription = source.subscription
        try:
            try:
                message = received.deserialize(subscription.message_type)
            except NacError as error:
                raise BadObservation(f"{subscription.topic}: {error}", "shape") from None
            source.add(message)
        except BadObservation as error:
            self.rejections[error.reason] += 1
            self.last_rejection = str(error)
            with self._lock:
                self._buffer.reject(source.stream, error)

    def _add_joint_state(self, message: JointState) -> None:
        stamp = messages.to_seconds(message.header.stamp)
        with self._lock:
            if stamp >= self._since:
                self._buffer.add_named_joint_state(stamp, message.name, message.position)

    def _add_command(self, message: JointState) -> None:
        stamp = messages.to_seconds(message.header.stamp)
        positions = messages.from_joint_state(message, self._joint_names)
        with self._lock:
            if stamp >= self._since:
                self._buffer.add_command(stamp, positions)

    def _add_image(self, camera: str, message: Image | CompressedImage) -> None:
        stamp, image = messages.read_image(message)  # before the lock: decoding a JPEG takes long
        with self._lock:
            if stamp >= self._since:
                self._buffer.add_image(camera, stamp, image)


def _sensor_profile(depth: int) -> QoSProfile:
    return QoSProfile(depth=depth, reliability=qos.SENSOR.reliability)
