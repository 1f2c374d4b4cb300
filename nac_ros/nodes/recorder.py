"""The recorder node: one MCAP file per episode, and a word at once about streams that are wrong.

Active it watches the streams; between `~/start` and `~/stop` it keeps every message as it came.
"""

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from nac_ros.core.config import number_field
from nac_ros.core.errors import BadObservation, ConfigError, DatasetError, NacError
from nac_ros.core.files import free_bytes
from nac_ros.core.message_decoding import to_seconds
from nac_ros.core.provenance import environment
from nac_ros.core.realtime import set_realtime_priority
from nac_ros.datasets.mcap import topics
from nac_ros.datasets.mcap.dataset import robot_metadata
from nac_ros.datasets.mcap.recorder import DISCARDED, INTERRUPTED, EpisodeRecorder, RecorderConfig
from nac_ros.datasets.mcap.stream_monitor import StreamSpec
from nac_ros.datasets.mcap.topics import RecordedTopic
from nac_ros.robot.frozen_images import FrozenImageDetector
from nac_ros.robot.joint_states import JointStateMerger
from nac_ros.robot.spec import load_robot
from nac_ros.ros import image_transport, parameters
from nac_ros.ros import messages as ros_messages
from nac_ros.ros.diagnostics import OK, WARN, Diagnostics, Status
from nac_ros.ros.node_clock import STEADY
from nac_ros.ros.node_log import NodeLog
from nac_ros.ros.node_main import exit_process, run

LOOK_S = 0.25  # how often new publishers are looked for, and the streams judged
ARM_S = 0.02  # how often the joint states of a publisher are read to see whether the arm rests
DEPTH = 1000  # messages that wait in the middleware while this process does not run
OUTCOMES = {"stop": "success", "fail": "failure", "discard": DISCARDED}
EPISODE_PARAMETERS = ("operator", "note")  # parameters that are read anew for each episode


@dataclass(frozen=True, kw_only=True)
class RecorderParameters(RecorderConfig):
    """Parameters of the node.

    robot: name in config/robots, or the path of a robot's YAML
    task: prompt or task id; the topic `task` changes it
    bundle: what drives the arm, if anything does; written beside the episode
    operator, note: written beside the episode
    extra_topics: `topic type` of what is recorded beside the robot's own, but not watched
    priority: real time on Linux (SCHED_FIFO) where the system lets it; 0 = as other processes
    """

    robot: str = "vx300s"
    task: str = ""
    bundle: str = ""
    operator: str = ""
    note: str = ""
    extra_topics: tuple[str, ...] = ("",)
    priority: int = number_field(30, 0, 98)


class RecorderNode(LifecycleNode):
    """Messages in, files out; every decision is the session's."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self._log = NodeLog(self)
        config = parameters.declare(self, RecorderParameters, changeable=EPISODE_PARAMETERS)
        spec = load_robot(config.robot)
        self._config, self._robot, self._task = config, robot_metadata(spec), config.task
        self._spec = spec
        self._joint_states: dict[bytes, bytes] = {}  # publisher -> its newest message
        jpeg = [camera.name for camera in spec.cameras if image_transport.must_use_jpeg(camera)]
        self._sources = topics.recorded_topics(spec, _extra(config.extra_topics), jpeg)
        self._merger = JointStateMerger(spec.joint_names, spec.joint_states_max_age_s)
        self._arm_heard: dict[bytes, float] = {}  # publisher -> when it was read last [s]
        self._session = self._new_session(config, topics.monitored_streams(spec, jpeg))
        self._heard: dict[str, Any] = {}
        self._offered: list[Any] = []
        self._latest: dict[str, bytes] = {}  # of topics whose last message still holds
        self._diagnostics = Diagnostics(self, self._status)
        self._log.info(f"scheduled {set_realtime_priority(config.priority)}")

    def _new_session(
        self, config: RecorderParameters, watched: Sequence[StreamSpec]
    ) -> EpisodeRecorder:
        limits = {f.name: getattr(config, f.name) for f in fields(RecorderConfig)}
        pictures = [stream.topic for stream in watched if stream.image]
        self._content = FrozenImageDetector(self._spec, pictures)
        joints = self._spec.joint_states_topic
        return EpisodeRecorder(
            RecorderConfig(**limits), watched, self._sources, joints, self._content
        )

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            free_bytes(Path(self._config.out))
        except DatasetError as error:
            self._log.error(str(error))
            self._session.last_result = str(error)
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Watches from now on."""
        self._session.reset_monitor()
        self._timer = self.create_timer(LOOK_S, self._look, clock=STEADY)
        deeds: dict[str, Callable[[], str]] = {"start": self._start, "mark": self._mark}
        deeds |= {name: partial(self._end, outcome) for name, outcome in OUTCOMES.items()}
        self._offered = [
            self.create_service(Trigger, f"~/{name}", partial(self._answer, deed))
            for name, deed in deeds.items()
        ]
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """An episode that runs is kept, as one that nobody judged."""
        self.close()
        self.destroy_timer(self._timer)
        for service in self._offered:
            self.destroy_service(service)
        for subscription in self._heard.values():
            self.destroy_subscription(subscription)
        self._offered, self._heard = [], {}
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Nothing is lost where the process is asked to end."""
        if self._session.writer is not None:
            self._session.stop(INTERRUPTED)
            self._tell()

    def _look(self) -> None:
        for source in self._sources:
            if source.topic not in self._heard:
                self._listen(source)
        self._session.joint_state_problem = self._check_joint_states()
        if self._session.update():
            self._tell()

    def _check_joint_states(self) -> str:
        """What is wrong with the joint states that came since the last look, '' when nothing is;
        only the newest message of each publisher is read."""
        newest, self._joint_states = self._joint_states, {}
        self._arm_heard.clear()
        if not newest:
            return ""
        merger = JointStateMerger(self._spec.joint_names, self._spec.joint_states_max_age_s)
        try:
            messages = [deserialize_message(data, JointState) for data in newest.values()]
            for message in sorted(messages, key=_stamp):
                merger.add_message(message)
            merger.check(max(map(_stamp, messages)))
        except BadObservation as error:
            return str(error)
        except RuntimeError as error:  # bytes that are no such message
            return f"joint_states: {error}"
        return ""

    def _watch_arm(self, publisher: bytes, data: bytes) -> None:
        """Whether the arm rests, which a camera's noise is told from; a sample each ARM_S [s] and
        publisher will do."""
        now = time.monotonic()
        if now - self._arm_heard.get(publisher, -ARM_S) < ARM_S:
            return
        self._arm_heard[publisher] = now
        if len(data) > ros_messages.max_joint_state_bytes(self._spec):
            return
        try:
            sample = self._merger.add_message(deserialize_message(data, JointState))
        except (BadObservation, RuntimeError):  # told by `_check_joint_states`
            return
        if sample is not None:
            self._content.add_joint_state(*sample)

    def _tell(self) -> None:
        for text in (*self._session.problems, self._session.last_result):
            if text:
                self._log.warning(text)
        self._diagnostics.publish()

    def _listen(self, source: RecordedTopic) -> None:
        """Subscribes as the publishers offer, once there are any."""
        offers = self.get_publishers_info_by_topic(self.resolve_topic_name(source.topic))
        if not offers:
            return
        profiles = [offer.qos_profile for offer in offers]
        profile = QoSProfile(depth=DEPTH)
        if any(p.reliability != QoSReliabilityPolicy.RELIABLE for p in profiles):
            profile.reliability = QoSReliabilityPolicy.BEST_EFFORT
        if all(p.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL for p in profiles):
            profile.durability = QoSDurabilityPolicy.TRANSIENT_LOCAL
        message_type, take = _type_of(source.message_type), partial(self._on_message, source)
        self._heard[source.topic] = self.create_subscription(
            message_type, source.topic, take, profile, raw=True
        )

    def _on_message(self, source: RecordedTopic, data: bytes, info: Mapping[str, Any]) -> None:
        received, published = info["received_timestamp"], info["source_timestamp"]
        stamp = topics.header_stamp(source.message_type, data) or published
        publisher, number = info["publisher_gid"]["data"], info["publication_sequence_number"]
        self._session.count_lost_messages(source.topic, publisher, number)
        self._session.add_message(source.topic, stamp, received, published, data)
        if source.topic == self._spec.joint_states_topic:
            self._joint_states[bytes(publisher)] = data
            self._watch_arm(bytes(publisher), data)
        if source.topic in topics.LATCHED:
            self._latest[source.topic] = data
        if source.topic == topics.TASK:
            self._task = topics.decode_text(data)

    def _answer(
        self, deed: Callable[[], str], request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        try:
            response.message, response.success = deed(), True
        except NacError as error:
            response.message, response.success = str(error), False
        self._diagnostics.publish()
        return response

    def _start(self) -> str:
        facts = {key: str(self.get_parameter(key).value) for key in EPISODE_PARAMETERS}
        facts |= {**self._robot, "bundle": self._config.bundle}
        facts |= {key: str(value) for key, value in environment().items()}
        folder, now = self._session.start(self._task, facts), time.time_ns()
        for topic, data in self._latest.items():
            self._session.write(topic, now, now, data)
        return f"recording {folder}"

    def _mark(self) -> str:
        if self._session.writer is None:
            raise DatasetError("nothing is being recorded, so there is nothing to mark")
        now = time.time_ns()
        self._session.write(topics.MARK, now, now, serialize_message(String(data="mark")))
        return f"marked at {self._session.duration_s:.1f} s"

    def _end(self, outcome: str) -> str:
        if self._session.stop(outcome) is None:
            raise DatasetError(self._session.last_result)
        return self._session.last_result

    def _status(self) -> Status:
        session = self._session
        state = "recording" if session.writer else "ready" if self._offered else "inactive"
        values = {"state": state, "task": self._task, **session.status()}
        text = f"{state}: {session.problems[0]}" if session.problems else state
        return Status(WARN if session.problems else OK, text, values)


def _stamp(message: JointState) -> float:
    return to_seconds(message.header.stamp)


def _type_of(message_type: str) -> type:
    """The message class of e.g. std_msgs/msg/String; raises ConfigError."""
    package, _, name = message_type.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"message type {message_type} is not installed here") from error


def _extra(given: tuple[str, ...]) -> list[RecordedTopic]:
    """`topic type` of each; raises ConfigError."""
    sources = []
    for text in filter(None, given):
        topic, _, message_type = text.partition(" ")
        if message_type.count("/") != 2:
            raise ConfigError(f"extra_topics: '{text}' is no `topic package/msg/Type`")
        _type_of(message_type)
        sources.append(RecordedTopic(topic, message_type))
    return sources


def main() -> None:
    """Entry point of the executable `recorder`."""
    exit_process(run(RecorderNode))


if __name__ == "__main__":
    main()
