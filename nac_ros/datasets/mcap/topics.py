"""The topics of an episode and their types; reads stamps and texts of serialized messages."""

import struct
from collections.abc import Collection, Iterable
from typing import NamedTuple

from nac_ros.core.message_decoding import NANO
from nac_ros.datasets.mcap.stream_monitor import STAMP_END, StreamSpec
from nac_ros.robot.spec import CameraSpec, RobotSpec

JOINTS, IMAGE = "sensor_msgs/msg/JointState", "sensor_msgs/msg/Image"
TEXT, CHUNK = "std_msgs/msg/String", "trajectory_msgs/msg/JointTrajectory"
INFO, DIAGNOSTICS = "sensor_msgs/msg/CameraInfo", "diagnostic_msgs/msg/DiagnosticArray"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
STAMPED_TYPES = (JOINTS, IMAGE, COMPRESSED, INFO, DIAGNOSTICS, CHUNK)  # begin with a Header
COMMAND, MODE, TASK, MARK = "guard/command", "guard/mode", "task", "recorder/mark"
LATCHED = (MODE, TASK)  # the last message is still valid when an episode starts


class RecordedTopic(NamedTuple):
    """One topic of an episode and its message type."""

    topic: str
    message_type: str


def monitored_streams(spec: RobotSpec, jpeg: Collection[str] = ()) -> list[StreamSpec]:
    """The streams that an episode needs: joint states and all cameras.

    jpeg: cameras recorded as JPEG although the robot's YAML does not ask for it
    """
    joints = StreamSpec(
        topic=spec.joint_states_topic,
        message_type=JOINTS,
        rate_hz=spec.action_rate_hz,  # a driver may be faster, but not slower than the actions
    )
    return [joints, *(_camera_stream(camera, camera.name in jpeg) for camera in spec.cameras)]


def _camera_stream(camera: CameraSpec, as_jpeg: bool) -> StreamSpec:
    raw = camera.transport == "raw" and not as_jpeg
    return StreamSpec(
        topic=camera.topic if raw else camera.compressed_topic,
        message_type=IMAGE if raw else COMPRESSED,
        rate_hz=camera.rate_hz,
        image=True,
        size=(camera.width, camera.height) if raw else None,
    )


def recorded_topics(
    spec: RobotSpec, extra: Iterable[RecordedTopic] = (), jpeg: Collection[str] = ()
) -> list[RecordedTopic]:
    """Every topic that goes into an episode's file."""
    return [
        *(RecordedTopic(s.topic, s.message_type) for s in monitored_streams(spec, jpeg)),
        *(RecordedTopic(camera.sibling_topic("camera_info"), INFO) for camera in spec.cameras),
        RecordedTopic(COMMAND, JOINTS),
        RecordedTopic("policy/chunk", CHUNK),
        RecordedTopic("teleop/command", CHUNK),
        RecordedTopic(MODE, TEXT),
        RecordedTopic(TASK, TEXT),
        RecordedTopic(MARK, TEXT),
        RecordedTopic("twin/outcome", TEXT),
        RecordedTopic("diagnostics", DIAGNOSTICS),
        *extra,
    ]


def decode_text(data: bytes) -> str:
    """The text of a serialized std_msgs/String."""
    (length,) = struct.unpack_from(f"{_byte_order(data)}I", data, 4)
    return data[8 : 8 + length].rstrip(b"\0").decode(errors="replace")


def header_stamp(message_type: str, data: bytes) -> int:
    """Stamp [ns] in a serialized message's header, 0 for types without one."""
    if message_type not in STAMPED_TYPES or len(data) < STAMP_END:
        return 0
    seconds, nanoseconds = struct.unpack_from(f"{_byte_order(data)}iI", data, 4)
    return seconds * NANO + nanoseconds


def _byte_order(data: bytes) -> str:
    """CDR states it in the second byte; the 4-byte CDR header precedes the content."""
    return "<" if data[1] & 1 else ">"
