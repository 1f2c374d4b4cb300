"""Checks of chunks and of the start of motion; each returns a Rejection or None."""

from typing import NamedTuple

import numpy as np

from nac_ros.core.types import ActionChunk
from nac_ros.robot.spec import RobotSpec

CLOCK_SKEW_S = 0.05  # a stamp farther in the future is a clock error, not jitter
# Share of a joint's range by which an action may exceed a position limit. A codec of 120 bits
# overshoots by up to 5 % when a gripper opens or closes at once (docs/results.md). Such actions
# are clipped and counted; a chunk with a larger excess is rejected.
OVERSHOOT = 0.1
OUTSIDE = 0.005  # [rad or m] an arm that droops this far beyond a limit can still be started
MAX_POINTS = 8  # of a teleoperation command


class Rejection(NamedTuple):
    """Why something was rejected: a reason code for counters, and a sentence."""

    reason: str
    text: str


def check_chunk(
    spec: RobotSpec, chunk: ActionChunk, now: float, max_age_s: float, speed_scale: float = 1.0
) -> Rejection | None:
    """Checks whether a policy chunk may be executed at `now` [s].

    speed_scale: share of its rate at which it will be executed
    """
    return (
        _check_names(spec, chunk)
        or _check_shape(spec, chunk)
        or _check_finite(chunk)
        or _check_time(spec, chunk, now, max_age_s, speed_scale)
        or _check_positions(spec, chunk)
        or _check_velocities(spec, chunk)
    )


def check_command(
    spec: RobotSpec, chunk: ActionChunk, now: float, max_age_s: float
) -> Rejection | None:
    """Checks whether a teleoperation command may be executed at `now` [s].

    Positions and velocities beyond the limits are accepted; the arm follows within its limits.
    """
    return (
        _check_names(spec, chunk)
        or _check_shape(spec, chunk, MAX_POINTS)
        or _check_finite(chunk)
        or _check_stamp(chunk, now, max_age_s)
        or _check_rate(spec, chunk)
    )


def check_start(spec: RobotSpec, offset: np.ndarray, seconds: float) -> Rejection | None:
    """Checks whether a chunk may start from rest with its first action `offset` `[D]` from the
    set-point: each joint must be able to move there in `seconds` at its velocity limit.

    The first action of a gripper may be anywhere, because grippers open and close at once.
    """
    reach = spec.velocity_limit * seconds
    if (joint := _farthest(spec, offset, reach)) is None:
        return None
    name, unit = spec.joint_names[joint], spec.units[joint]
    return Rejection(
        "jump",
        f"{name} would jump by {abs(offset[joint]):.4f} {unit}, its velocity limit allows "
        f"{reach[joint]:.4f}; the chunk does not start where the arm is (guard/ramp moves there)",
    )


def check_inside(spec: RobotSpec, measured: np.ndarray) -> Rejection | None:
    """Checks that an arm `measured` at `[D]` is inside its position limits, except grippers."""
    beyond = np.maximum(spec.position_low - measured, measured - spec.position_high)
    if (joint := _farthest(spec, np.maximum(beyond, 0), OUTSIDE)) is None:
        return None
    name, unit = spec.joint_names[joint], spec.units[joint]
    return Rejection(
        "outside",
        f"{name} is {beyond[joint]:.3f} {unit} beyond its position limit; move it inside with the "
        "tools of the arm",
    )


def check_displaced(spec: RobotSpec, measured: np.ndarray, rest: np.ndarray) -> Rejection | None:
    """Checks that an arm `measured` at `[D]` is within max_offset of `rest` `[D]`, where its
    motion ended, except grippers."""
    off = measured - rest
    if (joint := _farthest(spec, off, spec.max_offset)) is None:
        return None
    name, unit = spec.joint_names[joint], spec.units[joint]
    return Rejection(
        "displaced",
        f"{name} is {abs(off[joint]):.3f} {unit} from where the guard left it; look for contact, "
        "then call guard/reset to start from where the arm is",
    )


def check_offset(spec: RobotSpec, measured: np.ndarray, reference: np.ndarray) -> Rejection | None:
    """Checks that an arm `measured` at `[D]` is within max_offset of `reference` `[D]`, the
    set-point of its controllers, except grippers."""
    off = measured - reference
    if (joint := _farthest(spec, off, spec.max_offset)) is None:
        return None
    name, unit, most = spec.joint_names[joint], spec.units[joint], spec.max_offset[joint]
    return Rejection(
        "offset",
        f"{name} is {abs(off[joint]):.4f} {unit} from the set-point of its controller, its "
        f"max_offset is {most:g}; free the arm, or let the controller hold its present position",
    )


def _farthest(spec: RobotSpec, distance: np.ndarray, limit: np.ndarray | float) -> int | None:
    """Index of the joint whose `distance` `[D]` exceeds its `limit` most; None if none does.
    Grippers do not count."""
    share = np.where(spec.relative_mask, np.abs(distance) / limit, 0)
    joint = int(share.argmax())
    return None if share[joint] <= 1 else joint  # NaN counts as exceeding


def _check_names(spec: RobotSpec, chunk: ActionChunk) -> Rejection | None:
    if tuple(chunk.names) == spec.joint_names:
        return None
    wanted, found = ", ".join(spec.joint_names), ", ".join(chunk.names)
    if sorted(chunk.names) == sorted(spec.joint_names):
        return Rejection("order", f"the chunk's joints are {found}; wanted the order {wanted}")
    return Rejection("names", f"the chunk moves {found or 'no joint'}; this robot has {wanted}")


def _check_shape(
    spec: RobotSpec, chunk: ActionChunk, max_points: float = np.inf
) -> Rejection | None:
    shape = np.shape(chunk.actions)
    if len(shape) != 2 or not shape[0] or shape[1] != spec.action_dim:
        wanted = f"[T, {spec.action_dim}]"
        return Rejection("shape", f"the chunk's actions are {list(shape)}; wanted {wanted}")
    if shape[0] > max_points:
        text = f"a command has {shape[0]} points; wanted 1 to {max_points}"
        return Rejection("shape", text)
    return None


def _check_finite(chunk: ActionChunk) -> Rejection | None:
    finite = np.isfinite(chunk.actions)
    if finite.all():
        return None
    step, column = np.argwhere(~finite)[0]
    value = chunk.actions[step, column]
    return Rejection("not_finite", f"{chunk.names[column]} is {value} at step {step}")


def _check_time(
    spec: RobotSpec, chunk: ActionChunk, now: float, max_age_s: float, speed_scale: float
) -> Rejection | None:
    rejection = _check_stamp(chunk, now, max_age_s) or _check_rate(spec, chunk)
    if rejection is not None:
        return rejection
    end = chunk.stamp + (chunk.end - chunk.stamp) / speed_scale
    if end <= now:
        return Rejection("late", f"the chunk's last action was due {now - end:.3f} s ago")
    return None


def _check_stamp(chunk: ActionChunk, now: float, max_age_s: float) -> Rejection | None:
    if not np.isfinite(chunk.stamp) or chunk.stamp > now + CLOCK_SKEW_S:
        ahead = chunk.stamp - now
        text = f"the chunk is stamped {ahead:.3f} s ahead; check the clocks"
        return Rejection("future", text)
    age = now - chunk.stamp
    if age > max_age_s:
        text = f"the chunk is {age:.3f} s old; at most {max_age_s} s is allowed"
        return Rejection("stale", text)
    return None


def _check_rate(spec: RobotSpec, chunk: ActionChunk) -> Rejection | None:
    if not abs(chunk.rate_hz - spec.action_rate_hz) <= 1e-3 * spec.action_rate_hz:
        text = f"the chunk has {chunk.rate_hz} Hz, not {spec.action_rate_hz} Hz"
        return Rejection("rate", text)
    return None


def _check_positions(spec: RobotSpec, chunk: ActionChunk) -> Rejection | None:
    actions = chunk.actions.astype(np.float64)
    beyond = np.maximum(spec.position_low - actions, actions - spec.position_high)
    excess = beyond / (spec.position_high - spec.position_low)
    if excess.max() <= OVERSHOOT:
        return None
    step, column = np.unravel_index(excess.argmax(), excess.shape)
    joint = spec.joints[column]
    return Rejection(
        "position",
        f"{joint.name} would move to {actions[step, column]:.4f} {joint.unit} at step {step}; its "
        f"limits are {joint.position[0]} .. {joint.position[1]}",
    )


def _check_velocities(spec: RobotSpec, chunk: ActionChunk) -> Rejection | None:
    speeds = np.abs(np.diff(chunk.actions.astype(np.float64), axis=0)) * chunk.rate_hz
    share = speeds / spec.velocity_limit
    # float32 actions have rounding errors of this size
    if not len(speeds) or share.max() <= 1 + 1e-5:
        return None
    step, column = np.unravel_index(share.argmax(), share.shape)
    joint = spec.joints[column]
    return Rejection(
        "velocity",
        f"{joint.name} would move at {speeds[step, column]:.3f} {joint.unit}/s after step {step}; "
        f"its limit is {joint.velocity}",
    )
