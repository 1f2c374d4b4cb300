"""Smoothness of the commanded motion of a trial, from its recording."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from nac_ros.core.errors import BadObservation
from nac_ros.core.message_decoding import from_joint_state, to_seconds
from nac_ros.datasets.mcap import reader, topics, writer
from nac_ros.robot.kinematics import CollisionModel
from nac_ros.robot.spec import RobotSpec
from nac_ros.stats.smoothness import MAX_FREQUENCY_HZ, sparc

TOLERANCE = 0.5  # of a period, by which consecutive set-points may be off the nominal period


class Smoothness(NamedTuple):
    """jerk: root mean square, as a share of the limits; sparc: of the first point of the robot's
    body; None if it cannot be computed."""

    jerk: float | None = None
    sparc: float | None = None


def recording_smoothness(folder: Path, spec: RobotSpec) -> Smoothness:
    """Smoothness of the set-points `[T, D]` [rad or m] that were commanded in mode `policy`.

    Raises DatasetError for a damaged recording.
    """
    in_policy_mode, times, rows = False, [], []
    for message in reader.read_messages(folder, {f"/{topics.MODE}", f"/{topics.COMMAND}"}):
        if message.topic == f"/{topics.MODE}":
            in_policy_mode = topics.decode_text(message.data) == "policy"
        elif in_policy_mode:
            where = f"{folder}, topic {message.topic} at {message.received} ns"
            command = writer.deserialize(message.data, topics.JOINTS, where)
            try:
                rows.append(from_joint_state(command, spec.joint_names))
            except BadObservation:  # a command of another robot's guard
                continue
            times.append(to_seconds(command.header.stamp))
    if len(rows) < 4:
        return Smoothness()
    stamps, positions = np.array(times), np.array(rows)
    return Smoothness(_jerk(stamps, positions, spec), _sparc(stamps, positions, spec))


def _jerk(times: np.ndarray, positions: np.ndarray, spec: RobotSpec) -> float | None:
    """Third differences at the guard's rate, where no set-point is missing among four."""
    rate = spec.guard_rate_hz
    consecutive = np.abs(np.diff(times) * rate - 1) < TOLERANCE
    complete = consecutive[:-2] & consecutive[1:-1] & consecutive[2:]
    jerks = (np.diff(positions, 3, axis=0) * rate**3 / spec.jerk_limit)[complete]
    return float(np.sqrt((jerks**2).mean())) if len(jerks) else None


def _sparc(times: np.ndarray, positions: np.ndarray, spec: RobotSpec) -> float | None:
    """SPARC at the action rate, as in trials without a recording, or at the lowest rate for which
    it is defined if that is higher."""
    if spec.body is None or not spec.body.points:
        return None
    rate = max(spec.action_rate_hz, 2 * MAX_FREQUENCY_HZ)
    even_times = np.arange(times[0], times[-1], 1 / rate)
    points = CollisionModel(spec, spec.body).points(positions)[:, 0]
    path = np.stack([np.interp(even_times, times, points[:, axis]) for axis in range(3)], 1)
    return sparc(np.linalg.norm(np.diff(path, axis=0), axis=1) * rate, rate)
