"""Which topics an episode is made of, and where a serialized message says when it was made."""

import struct
from collections.abc import Collection, Iterable
from typing import NamedTuple

from nac_ros.core.message_decoding import NANO
from nac_ros.datasets.mcap.stream_monitor import StreamSpec
from nac_ros.robot.spec import CameraSpec, RobotSpec

JOINTS, IMAGE = "sensor_msgs/msg/JointState", "sensor_msgs/msg/Image"
TEXT, CHUNK = "std_msgs/msg/String", "trajectory_msgs/msg/JointTrajectory"
INFO, DIAGNOSTICS = "sensor_msgs/msg/CameraInfo", "diagnostic_msgs/msg/DiagnosticArray"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
HEADED = (JOINTS, IMAGE, COMPRESSED, INFO, DIAGNOSTICS, CHUNK)  # begin with a stamp
COMMAND, MODE, TASK, MARK = "guard/command", "guard/mode", "task", "recorder/mark"
STATIC = (MODE, TASK)  # what was said last still holds when an episode begins


class RecordedTopic(NamedTuple):
    """One topic of an episode and its message type."""

    topic: str
    kind: str


def watched(spec: RobotSpec, jpeg: Collection[str] = ()) -> list[StreamSpec]:
    """What has to come all the time for an episode to be worth keeping; jpeg: cameras that are
    taken so although the robot's YAML does not ask for it."""
    joints = StreamSpec(
        topic=spec.joint_states_topic, kind=JOINTS, rate_hz=spec.action_rate_hz
    )  # a driver may be faster; slower than the actions is too slow
    cameras = [_pictures(camera, camera.name in jpeg) for camera in spec.cameras]
    return [joints, *cameras]


def _pictures(camera: CameraSpec, as_jpeg: bool) -> StreamSpec:
    raw = camera.transport == "raw" and not as_jpeg
    kind, topic = (IMAGE, camera.topic) if raw else (COMPRESSED, camera.compressed_topic)
    size = (camera.width, camera.height) if raw else None
    return StreamSpec(topic=topic, kind=kind, rate_hz=camera.rate_hz, image=True, size=size)


def recorded(
    spec: RobotSpec, extra: Iterable[RecordedTopic] = (), jpeg: Collection[str] = ()
) -> list[RecordedTopic]:
    """Everything that goes into an episode's file."""
    streams = [RecordedTopic(stream.topic, stream.kind) for stream in watched(spec, jpeg)]
    infos = [RecordedTopic(camera.beside("camera_info"), INFO) for camera in spec.cameras]
    said = [
        RecordedTopic(COMMAND, JOINTS),
        RecordedTopic("policy/chunk", CHUNK),
        RecordedTopic("teleop/command", CHUNK),
        RecordedTopic(MODE, TEXT),
        RecordedTopic(TASK, TEXT),
        RecordedTopic(MARK, TEXT),
        RecordedTopic("twin/outcome", TEXT),
        RecordedTopic("diagnostics", DIAGNOSTICS),
    ]
    return [*streams, *infos, *said, *extra]


def text_of(data: bytes) -> str:
    """What a serialized std_msgs/String says."""
    order = "<" if data[1] & 1 else ">"
    (length,) = struct.unpack_from(f"{order}I", data, 4)
    return data[8 : 8 + length].rstrip(b"\0").decode(errors="replace")


def stamp_of(kind: str, data: bytes) -> int:
    """Nanoseconds of a serialized message's header, 0 for types without one."""
    if kind not in HEADED or len(data) < 12:
        return 0
    order = "<" if data[1] & 1 else ">"  # CDR says its byte order in the second byte
    seconds, nanos = struct.unpack_from(f"{order}iI", data, 4)
    return seconds * NANO + nanos
