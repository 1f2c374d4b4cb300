"""Whether a chunk may be played at all: names, shape, finite, in time, inside the limits."""

from typing import NamedTuple

import numpy as np

from nac_ros.core.types import ActionChunk
from nac_ros.robot.spec import RobotSpec

CLOCK_SKEW_S = 0.05  # a stamp this far ahead is a clock error, not jitter
# A decoded set-point may end this share of a joint's range beyond its limit: a codec of 120 bits
# rings by up to 5 % where a gripper snaps open or shut (docs/results.md). It is played
# clipped, and the clip is counted; anything more is refused.
OVERSHOOT = 0.1
OUTSIDE = 0.005  # [rad or m] beyond a limit an arm may sag and still be started
MAX_POINTS = 8  # of a command of teleoperation


class Rejection(NamedTuple):
    """Why a command was not taken: a short code for counters and one sentence for people."""

    reason: str
    text: str


def check_chunk(
    spec: RobotSpec, chunk: ActionChunk, now: float, max_age_s: float, speed_scale: float = 1.0
) -> Rejection | None:
    """The first thing wrong with `chunk` at `now` [s]; None when it may be played.

    speed_scale: share of its rate that it will be played at
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
    """The first thing wrong with a command of teleoperation at `now` [s].

    It may ask for more than the limits allow: a hand does, and the arm follows as far as it may.
    """
    too_long = None
    if np.shape(chunk.actions)[0] > MAX_POINTS:
        found = np.shape(chunk.actions)[0]
        too_long = Rejection("shape", f"a command has 1 to {MAX_POINTS} points, this one {found}")
    return (
        _check_names(spec, chunk)
        or _check_shape(spec, chunk)
        or too_long
        or _check_finite(chunk)
        or _check_stamp(chunk, now, max_age_s)
        or _check_rate(spec, chunk)
    )


def check_start(spec: RobotSpec, offset: np.ndarray, seconds: float) -> Rejection | None:
    """Refuses a chunk that begins farther `[D]` from the arm's set-point than `seconds` allow.

    Grippers may be anywhere: what is asked of one is absolute, open or shut, and it goes there
    within its limits.
    """
    reach = spec.velocity_limit * seconds
    joint = int(np.where(spec.relative_mask, np.abs(offset) / reach, 0).argmax())
    if not spec.relative_mask[joint] or abs(offset[joint]) <= reach[joint]:
        return None
    name, unit = spec.joint_names[joint], spec.units[joint]
    return Rejection(
        "jump",
        f"{name} would jump by {abs(offset[joint]):.4f} {unit}, its velocity limit allows "
        f"{reach[joint]:.4f}; the chunk does not start where the arm is (guard/ramp goes there)",
    )


def check_inside(spec: RobotSpec, measured: np.ndarray) -> Rejection | None:
    """Refuses to start an arm that was `measured` `[D]` beyond its position limits."""
    beyond = np.maximum(spec.position_low - measured, measured - spec.position_high)
    beyond = np.where(spec.relative_mask, beyond, 0)
    joint = int(beyond.argmax())
    if beyond[joint] <= OUTSIDE:
        return None
    name, unit = spec.joint_names[joint], spec.units[joint]
    return Rejection(
        "outside",
        f"{name} is {beyond[joint]:.3f} {unit} beyond its position limit; move it inside by the "
        "arm's own means",
    )


def check_displaced(spec: RobotSpec, measured: np.ndarray, rest: np.ndarray) -> Rejection | None:
    """Refuses to start from `rest` `[D]` an arm that was `measured` elsewhere; grippers may be."""
    if (joint := _farthest(spec, off := measured - rest)) is None:
        return None
    name, unit = spec.joint_names[joint], spec.units[joint]
    return Rejection(
        "displaced",
        f"{name} is {abs(off[joint]):.3f} {unit} from where the guard left it; look for contact, "
        "then call guard/reset to start from where the arm is",
    )


def check_offset(spec: RobotSpec, measured: np.ndarray, reference: np.ndarray) -> Rejection | None:
    """Refuses to start an arm that was `measured` `[D]` farther from the set-point that its
    controllers hold, `reference` `[D]`, than the robot file allows; grippers may be."""
    if (joint := _farthest(spec, off := measured - reference)) is None:
        return None
    name, unit, most = spec.joint_names[joint], spec.units[joint], spec.max_offset[joint]
    return Rejection(
        "offset",
        f"{name} is {abs(off[joint]):.4f} {unit} from the set-point of its controller, its "
        f"max_offset is {most:g}; free the arm, or have the controller hold where it is",
    )


def _farthest(spec: RobotSpec, off: np.ndarray) -> int | None:
    """The joint that is farthest beyond its max_offset, if any; not a gripper."""
    share = np.where(spec.relative_mask, np.abs(off) / spec.max_offset, 0)
    joint = int(share.argmax())
    return joint if share[joint] > 1 else None


def _check_names(spec: RobotSpec, chunk: ActionChunk) -> Rejection | None:
    if tuple(chunk.names) == spec.joint_names:
        return None
    wanted, found = ", ".join(spec.joint_names), ", ".join(chunk.names)
    if sorted(chunk.names) == sorted(spec.joint_names):
        return Rejection("order", f"the chunk's joints come as {found}; wanted the order {wanted}")
    return Rejection("names", f"the chunk moves {found or 'no joint'}; this robot has {wanted}")


def _check_shape(spec: RobotSpec, chunk: ActionChunk) -> Rejection | None:
    shape = np.shape(chunk.actions)
    if len(shape) == 2 and shape[0] and shape[1] == spec.action_dim:
        return None
    wanted = f"[T, {spec.action_dim}]"
    return Rejection("shape", f"the chunk's actions are {list(shape)}; wanted {wanted}")


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
        return Rejection("future", f"the chunk is stamped {ahead:.3f} s ahead; check the clocks")
    age = now - chunk.stamp
    if age > max_age_s:
        return Rejection(
            "stale", f"the chunk is {age:.3f} s old; at most {max_age_s} s is allowed"
        )
    return None


def _check_rate(spec: RobotSpec, chunk: ActionChunk) -> Rejection | None:
    if not abs(chunk.rate_hz - spec.action_rate_hz) <= 1e-3 * spec.action_rate_hz:
        return Rejection(
            "rate", f"the chunk runs at {chunk.rate_hz} Hz, not {spec.action_rate_hz} Hz"
        )
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
        f"{joint.name} is to reach {actions[step, column]:.4f} {joint.unit} at step {step}; its "
        f"limits are {joint.position[0]} .. {joint.position[1]}",
    )


def _check_velocities(spec: RobotSpec, chunk: ActionChunk) -> Rejection | None:
    speeds = np.abs(np.diff(chunk.actions.astype(np.float64), axis=0)) * chunk.rate_hz
    share = speeds / spec.velocity_limit
    # float32 actions may be this much off by rounding alone
    if not len(speeds) or share.max() <= 1 + 1e-5:
        return None
    step, column = np.unravel_index(share.argmax(), share.shape)
    joint = spec.joints[column]
    return Rejection(
        "velocity",
        f"{joint.name} would move at {speeds[step, column]:.3f} {joint.unit}/s after step {step}; "
        f"its limit is {joint.velocity}",
    )
