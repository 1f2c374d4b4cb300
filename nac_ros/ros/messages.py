"""Converts ROS messages to core values and back; an invalid message raises, none is repaired.

A time [s] counts from `origin_ns`, 0 = the epoch of the message's stamp.
"""

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

MAX_POINTS = 10_000  # of a chunk, for every reader
MAX_CHUNK_S = 5.0  # longest chunk that a guard reads; it plays the first second
MIN_POINTS = 64  # a guard reads at least so many, also at a low action rate
MAX_CHUNK_JOINTS = 64  # joint names that are read before the points
MAX_OTHER_JOINTS = 300  # in joint states, in addition to the robot's
NAME_BYTES = 64  # mean length of a joint name, a generous estimate
HEADER_BYTES = 512  # stamp and frame of any message
MAX_TEXT = 1000  # characters of a value on diagnostics
MAX_REPORT_BYTES = 262_144  # of a diagnostics message or an outcome
GRID_S = 1e-3  # largest deviation [s] of a chunk's points from an even grid
MIN_AHEAD_S = 1e-3  # a controller rejects a first point that is not in its future

__all__ = ["NANO", "from_image", "from_joint_state", "to_seconds"]  # from core.message_decoding


def to_time(seconds: float, origin_ns: int = 0) -> Time:
    """A stamp. A float of seconds since 1970 resolves only 0.2 us, hence `origin_ns`."""
    whole, nanos = divmod(origin_ns + round(seconds * NANO), NANO)
    return Time(sec=whole, nanosec=nanos)


def to_chunk_message(chunk: ActionChunk) -> JointTrajectoryMsg:
    """A chunk as a message, stamped with its observation; point i is due (i + 1) / rate later."""
    message = JointTrajectoryMsg(joint_names=list(chunk.names))
    message.header.stamp = to_time(chunk.stamp)
    message.points = [
        JointTrajectoryPoint(positions=row, time_from_start=_to_duration((i + 1) / chunk.rate_hz))
        for i, row in enumerate(chunk.actions.tolist())
    ]
    return message


def from_chunk_message(message: JointTrajectoryMsg, origin_ns: int = 0) -> ActionChunk:
    """The inverse of `to_chunk_message`; raises BadActions unless every point has a position for
    each joint and the points are evenly spaced in time."""
    names, points = tuple(message.joint_names), message.points
    if not 0 < len(points) <= MAX_POINTS:
        raise BadActions(f"the chunk has {len(points)} points; wanted 1 to {MAX_POINTS}")
    for i, point in enumerate(points):
        if len(point.positions) != len(names):
            n_positions = len(point.positions)
            raise BadActions(f"point {i} has {n_positions} positions for {len(names)} joints")
    times = np.array([to_seconds(point.time_from_start) for point in points])
    period = times[-1] / len(times)
    if period <= 0 or np.abs(times - period * (np.arange(len(times)) + 1)).max() > GRID_S:
        first = np.round(times[:4], 4).tolist()
        raise BadActions(f"the chunk's points are not evenly spaced from its stamp: {first} s")
    actions = np.array([point.positions for point in points], np.float32)
    stamp = to_seconds(message.header.stamp, origin_ns)
    return ActionChunk(stamp, float(1 / period), names, actions, np.empty(0, np.int64))


def max_points(spec: RobotSpec) -> int:
    """Points of the longest chunk that the guard of this robot reads."""
    return max(MIN_POINTS, int(np.ceil(MAX_CHUNK_S * spec.action_rate_hz)))


def max_chunk_bytes(spec: RobotSpec) -> int:
    """Serialized size [bytes] of the largest chunk that the guard of this robot reads, with
    positions, velocities, accelerations and efforts."""
    values = 4 * (8 + 8 * spec.action_dim)
    return HEADER_BYTES + _names_bytes(spec.joint_names) + max_points(spec) * (values + 8)


def check_chunk_size(data: bytes, spec: RobotSpec) -> None:
    """Raises BadActions for a serialized chunk (CDR) with too many points or joints.

    Only the lengths of its lists are read, because deserializing the points takes long.
    """
    try:
        order = "<" if data[1] & 1 else ">"  # CDR: a header of 4 bytes, then aligned values
        body = data[4:]
        at = _after_text(body, 8, order)  # stamp, frame
        (n_joints,) = struct.unpack_from(f"{order}I", body, at)
        if n_joints > MAX_CHUNK_JOINTS:
            raise BadActions(f"the chunk has {n_joints} joints, the robot has {spec.action_dim}")
        at += 4
        for _ in range(n_joints):
            at = _after_text(body, at, order)
        (n_points,) = struct.unpack_from(f"{order}I", body, at)
    except (struct.error, IndexError):
        raise BadActions(f"{len(data)} bytes are no JointTrajectory") from None
    if n_points > max_points(spec):
        raise BadActions(f"the chunk has {n_points} points; wanted 1 to {max_points(spec)}")


def _after_text(body: bytes, at: int, order: str) -> int:
    """Offset of the next 4-byte value after the string at offset `at`."""
    (size,) = struct.unpack_from(f"{order}I", body, at)
    return -(-(at + 4 + size) // 4) * 4


def max_joint_state_bytes(spec: RobotSpec) -> int:
    """Serialized size [bytes] of the largest joint state that is read, other joints included."""
    others = MAX_OTHER_JOINTS * (NAME_BYTES + 3 * 8)
    return HEADER_BYTES + _names_bytes(spec.joint_names) + 3 * 8 * spec.action_dim + others


def _names_bytes(names: Sequence[str]) -> int:
    return sum(len(name.encode()) + 8 for name in names)


def to_trajectory_message(
    trajectory: JointTrajectory,
    names: Sequence[str],
    columns: Sequence[int],
    sent: float | None = None,
    origin_ns: int = 0,
    point_pool: list[JointTrajectoryPoint] | None = None,
) -> JointTrajectoryMsg:
    """The `columns` of a trajectory, joints `names`, for one controller.

    sent: time [s] of sending, for a controller that starts on arrival (stamp 0)
    point_pool: points of earlier messages that are reused, because creating them takes longest
    """
    message = JointTrajectoryMsg(joint_names=list(names))
    due_ns, rows = _on_the_nanosecond(trajectory)
    if sent is None:
        message.header.stamp = to_time(trajectory.stamp, origin_ns)
        from_start = due_ns - due_ns[0]  # the first point is due at the stamp
    else:
        ahead_ns = max(int(due_ns[0]) - round(sent * NANO), round(MIN_AHEAD_S * NANO))
        from_start = due_ns - due_ns[0] + ahead_ns
    pool = [] if point_pool is None else point_pool
    pool += [JointTrajectoryPoint() for _ in range(len(due_ns) - len(pool))]
    message.points = pool[: len(due_ns)]
    for point, nanos, position, velocity, acceleration in zip(
        message.points, from_start.tolist(), *(part[:, columns].tolist() for part in rows)
    ):
        point.positions, point.velocities = position, velocity
        point.accelerations = acceleration
        point.time_from_start.sec, point.time_from_start.nanosec = divmod(nanos, NANO)
    return message


def _on_the_nanosecond(trajectory: JointTrajectory) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Due times of the points, int64 [ns], and positions, velocities and accelerations then.

    Rounding a due time moves a point by up to 0.5 ns. Positions and velocities are extrapolated
    to the rounded time: between points 0.1 ms apart a mismatch of 1e-13 rad would already be an
    acceleration beyond the limits.
    """
    exact_ns = (trajectory.stamp + trajectory.times) * NANO
    due_ns = np.rint(exact_ns).astype(np.int64)
    late_s = ((due_ns - exact_ns) / NANO)[:, None]
    velocities, accelerations = trajectory.velocities, trajectory.accelerations
    positions = trajectory.positions + late_s * velocities
    return due_ns, (positions, velocities + late_s * accelerations, accelerations)


def from_trajectory_message(message: JointTrajectoryMsg, origin_ns: int = 0) -> Trajectory:
    """The trajectory of a message as a controller reads it; stamp 0.0 = starts on arrival.

    Velocities and accelerations are optional. The controller checks the values.
    """
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
    """Set-points `[D]` for a forward command controller."""
    return Float64MultiArray(data=values.tolist())


def to_joint_state(
    stamp: float,
    names: Sequence[str],
    positions: np.ndarray,
    velocities: np.ndarray | None = None,
    accelerations: np.ndarray | None = None,
    origin_ns: int = 0,
) -> JointState:
    """Positions and optional velocities and accelerations `[D]`; the effort field holds the
    accelerations, because a JointState has no field for them."""
    message = JointState(name=list(names), position=positions.tolist())
    message.header.stamp = to_time(stamp, origin_ns)
    if velocities is not None:
        message.velocity = velocities.tolist()
    if accelerations is not None:
        message.effort = accelerations.tolist()
    return message


def to_image(stamp: float, frame: str, image: np.ndarray) -> Image:
    """An RGB uint8 image `[H, W, 3]`."""
    return _to_image(stamp, frame, image, "rgb8")


def to_depth(stamp: float, frame: str, depth_mm: np.ndarray) -> Image:
    """Depth [mm], uint16 `[H, W]`, 0 = unknown."""
    return _to_image(stamp, frame, depth_mm, "16UC1")


def _to_image(stamp: float, frame: str, pixels: np.ndarray, encoding: str) -> Image:
    height, width = pixels.shape[:2]
    step = pixels.nbytes // height
    message = Image(height=height, width=width, encoding=encoding, step=step)
    message.header.stamp, message.header.frame_id = to_time(stamp), frame
    # A message copies an array("B") at once, but checks every element of any other sequence.
    message.data = array("B")
    message.data.frombytes(np.ascontiguousarray(pixels).data.cast("B"))
    return message


def read_image(message: Image | CompressedImage) -> tuple[float, np.ndarray]:
    """Stamp [s] and RGB uint8 `[H, W, 3]` of a raw or JPEG image; raises BadObservation."""
    if isinstance(message, CompressedImage):
        from nac_ros.core.image_codec import (
            decode_compressed_image,
        )  # OpenCV, which the guard never needs

        image = decode_compressed_image(message)
    else:
        image = from_image(message)
    return to_seconds(message.header.stamp), image


def to_compressed(stamp: float, frame: str, data: bytes) -> CompressedImage:
    """A JPEG image from its bytes."""
    message = CompressedImage(format=JPEG_FORMAT)
    message.header.stamp, message.header.frame_id = to_time(stamp), frame
    message.data = array("B", data)
    return message


def to_camera_info(stamp: float, camera: CameraSpec, intrinsics: Intrinsics | None) -> CameraInfo:
    """Without intrinsics all matrices are zero, which means an uncalibrated camera."""
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
    """A diagnostic status. Texts are put on one line of at most MAX_TEXT characters, other values
    are written as JSON."""
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
    """The values of a status by key, and its text as `message`; the inverse of `to_status`."""
    return {"message": status.message, **{p.key: _value(p.value) for p in status.values}}


def from_outcome(text: str) -> dict[str, Any]:
    """The twin's outcome from its JSON text; empty if the text is no JSON object."""
    found = _value(text)
    return found if isinstance(found, dict) else {}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or nested too deeply
        return text


def _to_duration(seconds: float) -> Duration:
    whole, nanos = divmod(round(seconds * NANO), NANO)
    return Duration(sec=whole, nanosec=nanos)
