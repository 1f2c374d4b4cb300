"""Keeps the arm's parts in the workspace and out of one another, as far as its body is known."""

import numpy as np

from nac_ros.control.checks import Rejection
from nac_ros.robot.kinematics import CollisionModel
from nac_ros.robot.spec import RobotSpec


class WorkspaceMonitor:
    """An arm that is out already may move where it is less so. Without a body nothing is checked.

    `held` counts the chunks that were held back at their first point outside.
    """

    MEMORY = ("_allowed", "held")

    def __init__(self, spec: RobotSpec):
        self._shape = None if spec.body is None else CollisionModel(spec, spec.body)
        self._margin = 0.0 if spec.body is None else spec.body.margin_m
        self._allowed = 0.0
        self.held = 0

    def check(self, actions: np.ndarray, here: np.ndarray) -> Rejection | None:
        """Refuses actions `[T, D]` of which one lies beyond the margin, the arm being `here`
        `[D]`."""
        if self._shape is None:
            return None
        depths, breaches = self._shape.worst(np.concatenate([here[None], actions]))
        if depths[1:].max() <= max(float(depths[0]), 0.0) + self._margin:
            return None
        worst = breaches[0]
        text = f"the chunk would bring {worst.text}; at most {self._margin} m is held back"
        return Rejection(worst.reason, text)

    def hold_back(self, actions: np.ndarray, here: np.ndarray) -> np.ndarray:
        """Actions `[T, D]` that stop before the first one that is out, the arm being `here`
        `[D]`; from now on it may be as deep as it is."""
        if self._shape is None:
            return actions
        depths, _ = self._shape.worst(np.concatenate([here[None], actions]))
        self._allowed = max(float(depths[0]), 0.0)
        out = np.flatnonzero(depths[1:] > self._allowed)
        if not len(out):
            return actions
        self.held += 1
        kept = actions.copy()
        kept[out[0] :] = actions[out[0] - 1] if out[0] else here
        return kept

    def doubt(self, positions: np.ndarray) -> str:
        """Why an arm that is, or will be, at `positions` `[N, D]` must stop, or ''."""
        if self._shape is None:
            return ""
        depths, breaches = self._shape.worst(positions)
        deep = depths.max() > self._allowed + self._margin
        return breaches[0].reason if deep else ""
