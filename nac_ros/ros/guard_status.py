"""What the guard reports on diagnostics."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nac_ros.control.call_log import CallLog
from nac_ros.control.guard import Guard
from nac_ros.core.message_decoding import NANO
from nac_ros.ros.diagnostics import ERROR, OK, WARN, Status
from nac_ros.ros.guard_mode import EXPECTED_HOLDS


def guard_status(
    guard: Guard, state: str, hold_reason: str, now: float, origin_ns: int, more: Mapping[str, Any]
) -> Status:
    """Status of a guard at `now` [s] of its time, which began at `origin_ns`.

    state, hold_reason: of the last tick, or `inactive` and ''
    more: values of the node that are added
    """
    values: dict[str, Any] = {
        "mode": guard.mode,
        "state": state,
        "approaching": guard.approaching,
        "hold": hold_reason,
        "fault": guard.fault,
        **guard.ages(now),
        "reference_known": guard.reference_known(now),
        **_transition(guard, origin_ns),
        **{f"holds.{reason}": n for reason, n in guard.holds.items()},
        **{f"rejections.{reason}": n for reason, n in guard.rejections.items()},
        **{f"clips.{joint}": int(n) for joint, n in zip(guard.spec.joint_names, guard.clips) if n},
        "clips.workspace": guard.workspace.shortened,
        **more,
    }
    level = ERROR if guard.fault else OK if hold_reason in EXPECTED_HOLDS else WARN
    return Status(level, f"{state}: {hold_reason}" if hold_reason else state, values)


def call_log_values(log: CallLog) -> dict[str, Any]:
    """`call_log`: why nothing can be written; `call_log_lost`: calls that are missing from it."""
    values: dict[str, Any] = {"call_log": log.problem} if log.problem else {}
    return values | ({"call_log_lost": log.lost} if log.lost else {})


def _transition(guard: Guard, origin_ns: int) -> dict[str, float]:
    """Stamp [s] of the policy's chunk that is played, and the largest distance [rad or m] of a
    joint between the chunk and the commanded positions when the chunk was accepted."""
    if guard.mode != "policy" or guard.chunk is None:
        return {}
    jump = np.abs(guard.jump[guard.spec.relative_mask]).max()
    return {
        "chunk_stamp": guard.chunk.stamp + origin_ns / NANO,
        "transition_jump": float(jump),
    }
