"""Messages to core values and back; whatever a message cannot mean raises, nothing is repaired."""

import json
import struct
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMsg
from trajectory_msgs.msg import JointTrajectoryPoint

from nac_ros.core.errors import BadActions, show_text
from nac_ros.core.message_decoding import (
    JPEG_FORMAT,
    NANO,
    from_image,
    from_joint_state,
    to_seconds,
)
from nac_ros.core.types import ActionChunk, JointTrajectory, Trajectory, TrajectoryPoint
from nac_ros.robot.spec import CameraSpec, Intrinsics, RobotSpec

MAX_POINTS = 10_000  # of a chunk's message, whoever reads it
MAX_CHUNK_S = 5.0  # of motion in a chunk that a guard reads; it plays the first second
MIN_POINTS = 64  # that a guard reads, however slow its robot's rate is
MAX_CHUNK_JOINTS = 64  # that a chunk names before its points are looked at
MAX_OTHER_JOINTS = 300  # in joint states, beside the robot's own
NAME_BYTES = 64  # of a joint's name, on average
HEADER_BYTES = 512  # stamp and frame of any message
MAX_TEXT = 1000  # characters of a value on diagnostics
MAX_REPORT_BYTES = 262_144  # of a message with diagnostics, or of an outcome
GRID_S = 1e-3  # how far [s] a chunk's points may lie off its rate
MIN_AHEAD_S = 1e-3  # a controller refuses a first point that is not in its future

__all__ = ["NANO", "from_image", "from_joint_state", "to_seconds"]  # as they stand in decode


def to_time(seconds: float, origin_ns: int = 0) -> Time:
    """A stamp from seconds after `origin_ns`; a float of today's epoch is good for 0.2 us only."""
    whole, nanos = divmod(origin_ns + round(seconds * NANO), NANO)
    return Time(sec=whole, nanosec=nanos)


def to_chunk_message(chunk: ActionChunk) -> JointTrajectoryMsg:
    """Stamped with the observation's time; point i is due (i + 1) / rate later."""
    message = JointTrajectoryMsg(joint_names=list(chunk.names))
    message.header.stamp = to_time(chunk.stamp)
    message.points = [
        JointTrajectoryPoint(positions=row, time_from_start=_to_duration((i + 1) / chunk.rate_hz))
        for i, row in enumerate(chunk.actions.tolist())
    ]
    return message


def from_chunk_message(message: JointTrajectoryMsg, origin_ns: int = 0) -> ActionChunk:
    """The inverse; raises BadActions for ragged points or points off an even grid of times."""
    names, points = tuple(message.joint_names), message.points
    if not 0 < len(points) <= MAX_POINTS:
        raise BadActions(f"the chunk has {len(points)} points; wanted 1 to {MAX_POINTS}")
    for i, point in enumerate(points):
        if len(point.positions) != len(names):
            came = len(point.positions)
            raise BadActions(f"point {i} has {came} positions for {len(names)} joints")
    times = np.array([to_seconds(point.time_from_start) for point in points])
    period = times[-1] / len(times)
    if period <= 0 or np.abs(times - period * (np.arange(len(times)) + 1)).max() > GRID_S:
        shown = np.round(times[:4], 4).tolist()
        raise BadActions(f"the chunk's points are not one period apart from the first: {shown} s")
    actions = np.array([point.positions for point in points], np.float32)
    stamp = to_seconds(message.header.stamp, origin_ns)
    return ActionChunk(stamp, float(1 / period), names, actions, np.empty(0, np.int64))


def max_points(spec: RobotSpec) -> int:
    """Points of the longest chunk that a guard of this robot reads."""
    return max(MIN_POINTS, int(np.ceil(MAX_CHUNK_S * spec.action_rate_hz)))


def max_chunk_bytes(spec: RobotSpec) -> int:
    """Serialized size of the largest chunk that a guard of this robot reads; positions,
    velocities, accelerations and efforts may all be there."""
    values = 4 * (8 + 8 * spec.action_dim)
    return HEADER_BYTES + _names_bytes(spec.joint_names) + max_points(spec) * (values + 8)


def check_chunk_size(data: bytes, spec: RobotSpec) -> None:
    """Raises BadActions for a serialized chunk of more points or joints than are read, which is
    seen in its first bytes; the points themselves take long to deserialize."""
    try:
        order = "<" if data[1] & 1 else ">"  # CDR: a header of 4 bytes, then aligned values
        body = data[4:]
        at = _after_text(body, 8, order)  # stamp, frame
        (n_joints,) = struct.unpack_from(f"{order}I", body, at)
        if n_joints > MAX_CHUNK_JOINTS:
            raise BadActions(f"the chunk is of {n_joints} joints, the robot has {spec.action_dim}")
        at += 4
        for _ in range(n_joints):
            at = _after_text(body, at, order)
        (n_points,) = struct.unpack_from(f"{order}I", body, at)
    except (struct.error, IndexError):
        raise BadActions(f"{len(data)} bytes are no JointTrajectory") from None
    if n_points > (most := max_points(spec)):
        raise BadActions(f"the chunk has {n_points} points; wanted 1 to {most}")


def _after_text(body: bytes, at: int, order: str) -> int:
    """Where the next value of 4 bytes begins after the text at `at`."""
    (size,) = struct.unpack_from(f"{order}I", body, at)
    return -(-(at + 4 + size) // 4) * 4


def max_joint_state_bytes(spec: RobotSpec) -> int:
    """Serialized size of the largest joint state that is read, which may hold other joints too."""
    others = MAX_OTHER_JOINTS * (NAME_BYTES + 3 * 8)
    return HEADER_BYTES + _names_bytes(spec.joint_names) + 3 * 8 * spec.action_dim + others


def _names_bytes(names: Sequence[str]) -> int:
    return sum(len(name.encode()) + 8 for name in names)


def to_trajectory_message(
    motion: JointTrajectory,
    names: Sequence[str],
    columns: Sequence[int],
    sent: float | None = None,
    origin_ns: int = 0,
    spare: list[JointTrajectoryPoint] | None = None,
) -> JointTrajectoryMsg:
    """The part of a motion that one controller plays, at its stamp [s] after `origin_ns`.

    sent: time [s] it is sent at, for a controller that is to begin when it arrives (stamp 0)
    spare: points of messages that were sent, to be used again (making them takes longest)
    """
    message = JointTrajectoryMsg(joint_names=list(names))
    due_ns, rows = _on_the_nanosecond(motion)
    if sent is None:
        message.header.stamp = to_time(motion.stamp, origin_ns)
        from_start = due_ns - due_ns[0]  # the first point is due at the stamp
    else:
        ahead_ns = max(int(due_ns[0]) - round(sent * NANO), round(MIN_AHEAD_S * NANO))
        from_start = due_ns - due_ns[0] + ahead_ns
    spare = [] if spare is None else spare
    spare += [JointTrajectoryPoint() for _ in range(len(due_ns) - len(spare))]
    message.points = spare[: len(due_ns)]
    for point, nanos, place, speed, change in zip(
        message.points, from_start.tolist(), *(part[:, columns].tolist() for part in rows)
    ):
        point.positions, point.velocities, point.accelerations = place, speed, change
        point.time_from_start.sec, point.time_from_start.nanosec = divmod(nanos, NANO)
    return message


def _on_the_nanosecond(motion: JointTrajectory) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """When its points are due, int64 [ns], and positions, velocities and accelerations then.

    Half a nanosecond off is nothing to an arm, but two points 0.1 ms apart that do not fit one
    another to 1e-13 are an acceleration beyond its limits.
    """
    exact_ns = (motion.stamp + motion.times) * NANO
    due_ns = np.rint(exact_ns).astype(np.int64)
    late = ((due_ns - exact_ns) / NANO)[:, None]
    places, speeds, changes = motion.positions, motion.velocities, motion.accelerations
    return due_ns, (places + late * speeds, speeds + late * changes, changes)


def from_trajectory_message(message: JointTrajectoryMsg, origin_ns: int = 0) -> Trajectory:
    """What a controller makes of it, its stamp [s] after `origin_ns`; only positions must be
    there, the controller judges all."""
    points = [
        TrajectoryPoint(
            np.array(point.positions),
            to_seconds(point.time_from_start),
            np.array(point.velocities) if len(point.velocities) else None,
            np.array(point.accelerations) if len(point.accelerations) else None,
        )
        for point in message.points
    ]
    stamp = 0.0  # on arrival
    if message.header.stamp.sec or message.header.stamp.nanosec:
        stamp = max(to_seconds(message.header.stamp, origin_ns), 1 / NANO)
    return Trajectory(tuple(message.joint_names), points, stamp)


def to_array_message(values: np.ndarray) -> Float64MultiArray:
    """What a forward command controller takes."""
    return Float64MultiArray(data=values.tolist())


def to_joint_state(
    stamp: float,
    names: Sequence[str],
    positions: np.ndarray,
    velocities: np.ndarray | None = None,
    origin_ns: int = 0,
) -> JointState:
    """Positions and optional velocities `[D]`."""
    message = JointState(name=list(names), position=positions.tolist())
    message.header.stamp = to_time(stamp, origin_ns)
    if velocities is not None:
        message.velocity = velocities.tolist()
    return message


def to_set_point(
    stamp: float,
    names: Sequence[str],
    positions: np.ndarray,
    velocities: np.ndarray,
    accelerations: np.ndarray,
    origin_ns: int = 0,
) -> JointState:
    """What a controller interpolates at `stamp` [s]; accelerations take the place of efforts."""
    message = to_joint_state(stamp, names, positions, velocities, origin_ns)
    message.effort = accelerations.tolist()
    return message


def to_image(stamp: float, frame: str, image: np.ndarray) -> Image:
    """An RGB uint8 `[H, W, 3]` image."""
    height, width, _ = image.shape
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.header.stamp, message.header.frame_id = to_time(stamp), frame
    message.data = _to_bytes(image)
    return message


def to_depth(stamp: float, frame: str, depth_mm: np.ndarray) -> Image:
    """Depth [mm], uint16 `[H, W]`, 0 = unknown."""
    height, width = depth_mm.shape
    message = Image(height=height, width=width, encoding="16UC1", step=2 * width)
    message.header.stamp, message.header.frame_id = to_time(stamp), frame
    message.data = _to_bytes(depth_mm)
    return message


def _to_bytes(values: np.ndarray) -> array:
    """The one kind of value that a message takes without looking at each byte."""
    data = array("B")
    data.frombytes(memoryview(np.ascontiguousarray(values)).cast("B"))
    return data


def to_compressed(stamp: float, frame: str, data: bytes) -> CompressedImage:
    """A picture that is JPEG already."""
    message = CompressedImage(format=JPEG_FORMAT)
    message.header.stamp, message.header.frame_id = to_time(stamp), frame
    message.data = array("B", data)
    return message


def to_camera_info(stamp: float, camera: CameraSpec, intrinsics: Intrinsics | None) -> CameraInfo:
    """Without intrinsics all of its matrices are zero, which means uncalibrated."""
    message = CameraInfo(height=camera.height, width=camera.width)
    message.header.stamp, message.header.frame_id = to_time(stamp), camera.name
    if intrinsics is not None:
        fx, fy, cx, cy = intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy
        message.distortion_model, message.d = "plumb_bob", list(intrinsics.distortion)
        message.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
        message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        message.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def to_status(name: str, level: bytes, text: str, values: Mapping[str, Any]) -> DiagnosticStatus:
    """A diagnostic status; values are written as JSON, except plain text, which comes on one line
    of at most MAX_TEXT characters."""
    pairs = [
        KeyValue(
            key=show_text(key, MAX_TEXT),
            value=show_text(value, MAX_TEXT) if isinstance(value, str) else json.dumps(value),
        )
        for key, value in values.items()
    ]
    message = show_text(text, MAX_TEXT)
    return DiagnosticStatus(level=level, name=name, message=message, values=pairs)


def values_from_status(status: DiagnosticStatus) -> dict[str, Any]:
    """The inverse for its values, with the text as `message`."""
    return {"message": status.message, **{p.key: _value(p.value) for p in status.values}}


def from_outcome(text: str) -> dict[str, Any]:
    """What the twin's judge says, as JSON; empty for anything else."""
    found = _value(text)
    return found if isinstance(found, dict) else {}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or such as nobody of us writes
        return text


def _to_duration(seconds: float) -> Duration:
    whole, nanos = divmod(round(seconds * NANO), NANO)
    return Duration(sec=whole, nanosec=nanos)
