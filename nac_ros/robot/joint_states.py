"""Merges JointState messages, each of which may have only some joints, by joint name.

The arm and the gripper, or two arms, often publish separate messages on one topic. Each joint
keeps its newest position and the stamp of that position. The live nodes and the readers of
recordings use the same class.
"""

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

import numpy as np

from nac_ros.core.errors import BadObservation
from nac_ros.core.message_decoding import format_names, positions_by_name, to_seconds

MAX_FOREIGN = 10  # successive messages without a joint of this robot; the next is rejected


class JointSample(NamedTuple):
    """Positions, float64 `[D]` [rad or m] in the robot's order, with the OLDEST stamp [s] among
    them."""

    stamp: float
    positions: np.ndarray


class JointStateMerger:
    """Merges messages into samples of all joints.

    A message with every joint is a sample at its own stamp. Partial messages give a sample
    whenever the oldest stamp among the joints advances. In a sample every joint was measured
    within `max_age_s` after the sample's stamp; the arm at t and the gripper at t - 9 ms are one
    sample at t - 9 ms. A larger spread is rejected, and the error names the late joint.

    names: the robot's joints, in the order of every sample
    max_age_s: how much older [s] than the newest message a joint's position may be
    """

    def __init__(self, names: Sequence[str], max_age_s: float):
        self.names, self.max_age_s = tuple(names), max_age_s
        self._columns = {name: column for column, name in enumerate(self.names)}
        self.clear()

    def clear(self) -> None:
        """Forgets all positions, for a clock that was set back or a new episode."""
        self._positions = np.zeros(len(self.names))
        self._stamps = np.full(len(self.names), -inf)
        self._first = inf  # stamp [s] of the first message
        self._sampled = -inf  # stamp [s] of the newest sample
        self._newest_names = "no joint"  # in the newest message
        self._n_foreign = 0  # successive messages without a joint of this robot

    def add_message(self, message: Any, origin_ns: int = 0) -> JointSample | None:
        """Adds a sensor_msgs/JointState, its stamp counted from `origin_ns`; see `add`."""
        stamp = to_seconds(message.header.stamp, origin_ns)
        return self.add(stamp, message.name, message.position)

    def add(
        self, stamp: float, names: Sequence[str], positions: Sequence[float]
    ) -> JointSample | None:
        """Adds a message with stamp `stamp` [s]; returns the sample that it completes, or None.

        Joints of other robots are ignored. Raises BadObservation that names the joint if a joint
        is named twice, has no position, is not finite, or has a stamp that is not newer than its
        last one; then the message changes nothing. Also raises it if a joint is missing for longer
        than `max_age_s`, or its position is older than that.
        """
        found = positions_by_name(names, positions, self._columns)
        if len(found) == len(self.names):
            return self._sample_all(stamp, found)
        self._check_order(stamp, found)
        self._newest_names = format_names(names)
        self._first = min(self._first, stamp)
        self._n_foreign = 0 if found else self._n_foreign + 1
        if 0 < self._n_foreign < MAX_FOREIGN:
            return None
        for name, position in found.items():
            column = self._columns[name]
            self._positions[column], self._stamps[column] = position, stamp
        if stamp - self._first > self.max_age_s:
            self.check(stamp)
        return self._sample_oldest()

    def check(self, stamp: float) -> None:
        """Raises BadObservation that names the joints without a position that is at most
        `max_age_s` old at `stamp` [s]."""
        missing = self._named(~np.isfinite(self._stamps))
        if missing:
            text = (
                f"joint_states: {missing} missing; the newest message holds {self._newest_names}"
            )
            raise BadObservation(text, "joint_names")
        if behind := self._named(self._stamps < stamp - self.max_age_s):
            age = stamp - self._stamps.min()
            raise BadObservation(
                f"joint_states: {behind} stale, {age:.3f} s older than the newest message; at "
                f"most {self.max_age_s} s is allowed; check that publisher and its clock",
                "stale",
            )

    def _named(self, chosen: np.ndarray) -> str:
        return ", ".join(name for name, is_chosen in zip(self.names, chosen) if is_chosen)

    def _sample_all(self, stamp: float, found: dict[str, float]) -> JointSample:
        self._positions = np.array([found[name] for name in self.names])
        self._stamps[:] = self._sampled = stamp
        self._n_foreign = 0
        self._first = min(self._first, stamp)
        return JointSample(stamp, self._positions.copy())

    def _check_order(self, stamp: float, found: dict[str, float]) -> None:
        """Rejects a position that is not newer than the known one. If the stamp went back by more
        than `max_age_s`, the clock was set back, and all positions are forgotten."""
        known = {name: self._stamps[self._columns[name]] for name in found}
        late = [name for name, before in known.items() if stamp <= before]
        if not late:
            return
        if stamp < max(known.values()) - self.max_age_s:
            self.clear()
            return
        raise BadObservation(
            f"joint_states: {late[0]} stamped {stamp:.6f} s is not after "
            f"{known[late[0]]:.6f} s; does another node publish the same joint?",
            "clock",
        )

    def _sample_oldest(self) -> JointSample | None:
        oldest, newest = float(self._stamps.min()), float(self._stamps.max())
        too_old = newest - oldest > self.max_age_s
        if not np.isfinite(oldest) or too_old or oldest == self._sampled:
            return None
        self._sampled = oldest
        return JointSample(oldest, self._positions.copy())
