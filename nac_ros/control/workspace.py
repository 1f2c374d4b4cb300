"""Keeps chunks and motion inside the workspace and out of self-collision."""

import numpy as np

from nac_ros.control.checks import Rejection
from nac_ros.robot.kinematics import CollisionModel
from nac_ros.robot.spec import RobotSpec


class WorkspaceMonitor:
    """Checks poses against the robot's collision model; without a `body` it checks nothing.

    An arm that already violates the workspace or collides may move where it does so less deeply.

    shortened: number of chunks that were cut at their first violating action
    """

    STATE_FIELDS = ("_allowed_depth", "shortened")

    def __init__(self, spec: RobotSpec):
        self._model = None if spec.body is None else CollisionModel(spec, spec.body)
        self._margin = 0.0 if spec.body is None else spec.body.margin_m
        self._allowed_depth = 0.0  # [m], of the arm when the newest chunk was accepted
        self.shortened = 0

    def check(self, actions: np.ndarray, here: np.ndarray) -> Rejection | None:
        """Rejects actions `[T, D]` of which one violates by more than the margin, for an arm at
        `here` `[D]`."""
        if self._model is None:
            return None
        depths, violations = self._model.worst_violation(np.concatenate([here[None], actions]))
        if depths[1:].max() <= max(float(depths[0]), 0.0) + self._margin:
            return None
        worst = violations[0]
        text = f"the chunk would bring {worst.text}; only {self._margin} m can be cut off"
        return Rejection(worst.reason, text)

    def truncate(self, actions: np.ndarray, here: np.ndarray) -> np.ndarray:
        """Actions `[T, D]` that stay at the last pose before the first violation, for an arm at
        `here` `[D]`. From now on the arm may be as deep in violation as it is there."""
        if self._model is None:
            return actions
        depths, _ = self._model.worst_violation(np.concatenate([here[None], actions]))
        self._allowed_depth = max(float(depths[0]), 0.0)
        violating = np.flatnonzero(depths[1:] > self._allowed_depth)
        if not len(violating):
            return actions
        self.shortened += 1
        first, kept = violating[0], actions.copy()
        kept[first:] = actions[first - 1] if first else here
        return kept

    def violation_reason(self, positions: np.ndarray) -> str:
        """Reason code if an arm at `positions` `[N, D]` must stop, else ''."""
        if self._model is None:
            return ""
        depths, violations = self._model.worst_violation(positions)
        too_deep = depths.max() > self._allowed_depth + self._margin
        return violations[0].reason if too_deep else ""
