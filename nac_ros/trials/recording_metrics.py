"""How smooth the motion of a recorded trial was, by what the guard commanded while it ran."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from nac_ros.core.errors import BadObservation
from nac_ros.core.message_decoding import from_joint_state, to_seconds
from nac_ros.datasets.mcap import reader, topics, writer
from nac_ros.robot.kinematics import CollisionModel
from nac_ros.robot.spec import RobotSpec
from nac_ros.stats.smoothness import HIGHEST_HZ, sparc

EVEN = 0.5  # of a period that set-points of one motion may lie off their grid


class Smoothness(NamedTuple):
    """jerk: root mean square as a share of the limits; sparc: of the first point of the robot's
    body; None for what cannot be told."""

    jerk: float | None = None
    sparc: float | None = None


def smoothness(folder: Path, spec: RobotSpec) -> Smoothness:
    """Of what was commanded in mode `policy`, rows `[D]` [rad or m] at their stamps [s].

    Raises DatasetError for a damaged recording.
    """
    driven, times, rows = False, [], []
    for message in reader.messages(folder, {f"/{topics.MODE}", f"/{topics.COMMAND}"}):
        if message.topic == f"/{topics.MODE}":
            driven = topics.text_of(message.data) == "policy"
        elif driven:
            where = f"{folder}, topic {message.topic} at {message.received} ns"
            command = writer.deserialize(message.data, topics.JOINTS, where)
            try:
                rows.append(from_joint_state(command, spec.joint_names))
            except BadObservation:  # of another robot's guard
                continue
            times.append(to_seconds(command.header.stamp))
    if len(rows) < 4:
        return Smoothness()
    return _of(np.array(times), np.array(rows), spec)


def _of(times: np.ndarray, rows: np.ndarray, spec: RobotSpec) -> Smoothness:
    rate = spec.guard_rate_hz
    next_one = np.abs(np.diff(times) * rate - 1) < EVEN
    whole = next_one[:-2] & next_one[1:-1] & next_one[2:]  # no set-point is missing among four
    jerks = (np.diff(rows, 3, axis=0) * rate**3 / spec.jerk_limit)[whole]
    jerk = float(np.sqrt((jerks**2).mean())) if len(jerks) else None
    return Smoothness(jerk, _sparc(times, rows, spec))


def _sparc(times: np.ndarray, rows: np.ndarray, spec: RobotSpec) -> float | None:
    """At the rate of actions, as trials without a recording are measured, or as slowly as it is
    defined."""
    if spec.body is None or not spec.body.points:
        return None
    rate = max(spec.action_rate_hz, 2 * HIGHEST_HZ)
    even = np.arange(times[0], times[-1], 1 / rate)
    places = CollisionModel(spec, spec.body).points(rows)[:, 0]
    way = np.stack([np.interp(even, times, places[:, axis]) for axis in range(3)], 1)
    return sparc(np.linalg.norm(np.diff(way, axis=0), axis=1) * rate, rate)
