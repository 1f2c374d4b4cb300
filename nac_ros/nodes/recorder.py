"""Node `recorder`: writes one MCAP file per episode and reports problems of the streams at once.

While active it monitors the streams; between `~/start` and `~/stop` it writes every message as it
was received.
"""

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.serialization import serialize_message
from std_msgs.msg import String
from std_srvs.srv import Trigger

from nac_ros.core.config import number_field
from nac_ros.core.errors import ConfigError, DatasetError, NacError
from nac_ros.core.files import free_bytes
from nac_ros.core.provenance import environment
from nac_ros.core.realtime import set_realtime_priority
from nac_ros.datasets.mcap import topics
from nac_ros.datasets.mcap.dataset import robot_metadata
from nac_ros.datasets.mcap.recorder import DISCARDED, INTERRUPTED, EpisodeRecorder, RecorderConfig
from nac_ros.datasets.mcap.topics import RecordedTopic
from nac_ros.robot.frozen_images import FrozenImageDetector
from nac_ros.robot.spec import load_robot
from nac_ros.ros import image_transport, parameters, qos
from nac_ros.ros.diagnostics import OK, WARN, Diagnostics, Status
from nac_ros.ros.joint_state_monitor import JointStateMonitor
from nac_ros.ros.node_clock import STEADY
from nac_ros.ros.node_main import ManagedNode, exit_process, run

UPDATE_S = 0.25  # period at which new publishers are searched and the streams are checked
DEPTH = 1000  # messages that the middleware keeps while this process does not run
OUTCOMES = {"stop": "success", "fail": "failure", "discard": DISCARDED}
EPISODE_PARAMETERS = ("operator", "note")  # parameters that are read again for each episode


@dataclass(frozen=True, kw_only=True)
class RecorderParameters(RecorderConfig):
    """Parameters of the node.

    robot: name in config/robots, or path of a robot's YAML
    task: prompt or task id; the topic `task` changes it
    bundle: the bundle that drives the arm, if any; stored with the episode
    operator, note: stored with the episode
    extra_topics: `topic type` of topics recorded in addition to the robot's, but not monitored
    priority: SCHED_FIFO priority, if the system permits it; 0 = no real-time priority
    """

    robot: str = "vx300s"
    task: str = ""
    bundle: str = ""
    operator: str = ""
    note: str = ""
    extra_topics: tuple[str, ...] = ("",)
    priority: int = number_field(30, 0, 98)


class RecorderNode(ManagedNode):
    """Passes serialized messages to an EpisodeRecorder."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self._config = parameters.declare(self, RecorderParameters, changeable=EPISODE_PARAMETERS)
        self._spec = spec = load_robot(self._config.robot)
        self._task = self._config.task
        jpeg = [camera.name for camera in spec.cameras if image_transport.must_use_jpeg(camera)]
        extra_topics = _parse_topics(self._config.extra_topics)
        self._topics = topics.recorded_topics(spec, extra_topics, jpeg)
        streams = topics.monitored_streams(spec, jpeg)
        detector = FrozenImageDetector(spec, [one.topic for one in streams if one.image])
        self._joint_states = JointStateMonitor(spec, detector)
        self._recorder = EpisodeRecorder(
            self._config, streams, self._topics, spec.joint_states_topic, detector
        )
        self._subscribed: set[str] = set()
        self._latched: dict[str, bytes] = {}  # topic -> last message, still valid in an episode
        self.diagnostics = Diagnostics(self, self._status)
        self.log.info(f"scheduled {set_realtime_priority(self._config.priority)}")

    def configure(self) -> None:
        try:
            free_bytes(Path(self._config.out))
        except DatasetError as error:
            self._recorder.last_result = str(error)
            raise

    def activate(self) -> None:
        self._recorder.reset_monitor()
        self._subscribed.clear()
        self.create_timer(UPDATE_S, self._update, clock=STEADY)
        actions: dict[str, Callable[[], str]] = {"start": self._start, "mark": self._mark}
        actions |= {name: partial(self._end, outcome) for name, outcome in OUTCOMES.items()}
        for name, action in actions.items():
            self.create_service(Trigger, f"~/{name}", partial(self._on_service, action))

    def stop(self) -> None:
        """Completes a running episode, with the outcome `interrupted`."""
        if self._recorder.writer is not None:
            self._recorder.stop(INTERRUPTED)
            self._report_problems()

    def _update(self) -> None:
        for topic in self._topics:
            if topic.topic not in self._subscribed:
                self._subscribe(topic)
        self._recorder.joint_state_problem = self._joint_states.problem()
        if self._recorder.update():
            self._report_problems()

    def _report_problems(self) -> None:
        for text in (*self._recorder.problems, self._recorder.last_result):
            if text:
                self.log.warning(text)
        self.diagnostics.publish()

    def _subscribe(self, topic: RecordedTopic) -> None:
        """Subscribes with the QoS of the publishers, once there are any."""
        publishers = self.get_publishers_info_by_topic(self.resolve_topic_name(topic.topic))
        if not publishers:
            return
        profile = qos.matching([publisher.qos_profile for publisher in publishers], DEPTH)
        message_class, on_message = _message_class(topic), partial(self._on_message, topic)
        self.create_subscription(message_class, topic.topic, on_message, profile, raw=True)
        self._subscribed.add(topic.topic)

    def _on_message(self, recorded: RecordedTopic, data: bytes, info: Mapping[str, Any]) -> None:
        topic, received, published = (
            recorded.topic,
            info["received_timestamp"],
            info["source_timestamp"],
        )
        stamp = topics.header_stamp(recorded.message_type, data) or published
        publisher, number = info["publisher_gid"]["data"], info["publication_sequence_number"]
        self._recorder.count_lost_messages(topic, publisher, number)
        self._recorder.add_message(topic, stamp, received, published, data)
        if topic == self._spec.joint_states_topic:
            self._joint_states.add(bytes(publisher), data)
        if topic in topics.LATCHED:
            self._latched[topic] = data
        if topic == topics.TASK:
            self._task = topics.decode_text(data)

    def _on_service(
        self, action: Callable[[], str], request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        try:
            response.message, response.success = action(), True
        except NacError as error:
            response.message, response.success = str(error), False
        self.diagnostics.publish()
        return response

    def _start(self) -> str:
        metadata = {
            **{name: str(self.get_parameter(name).value) for name in EPISODE_PARAMETERS},
            **robot_metadata(self._spec),
            "bundle": self._config.bundle,
            **{key: str(value) for key, value in environment().items()},
        }
        folder, now = self._recorder.start(self._task, metadata), time.time_ns()
        for topic, data in self._latched.items():
            self._recorder.write(topic, now, now, data)
        return f"recording {folder}"

    def _mark(self) -> str:
        if self._recorder.writer is None:
            raise DatasetError("nothing is being recorded; call recorder/start first")
        now = time.time_ns()
        self._recorder.write(topics.MARK, now, now, serialize_message(String(data="mark")))
        return f"marked at {self._recorder.duration_s:.1f} s"

    def _end(self, outcome: str) -> str:
        if self._recorder.stop(outcome) is None:
            raise DatasetError(self._recorder.last_result)
        return self._recorder.last_result

    def _status(self) -> Status:
        recorder = self._recorder
        state = "recording" if recorder.writer else "ready"
        if self.lifecycle != "active":
            state = "inactive"
        values = {"state": state, "task": self._task, **recorder.status()}
        text = f"{state}: {recorder.problems[0]}" if recorder.problems else state
        return Status(WARN if recorder.problems else OK, text, values)


def _message_class(topic: RecordedTopic) -> type:
    """The class of a message type such as std_msgs/msg/String; raises ConfigError."""
    package, _, name = topic.message_type.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"message type {topic.message_type} is not installed here") from error


def _parse_topics(texts: tuple[str, ...]) -> list[RecordedTopic]:
    """The topics of the parameter extra_topics; raises ConfigError."""
    found = []
    for text in filter(None, texts):
        name, _, message_type = text.partition(" ")
        if message_type.count("/") != 2:
            raise ConfigError(f"extra_topics: wanted `topic package/msg/Type`, got '{text}'")
        topic = RecordedTopic(name, message_type)
        _message_class(topic)
        found.append(topic)
    return found


def main() -> None:
    """Entry point of the executable `recorder`."""
    exit_process(run(RecorderNode))


if __name__ == "__main__":
    main()
