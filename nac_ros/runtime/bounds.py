"""Keeps the arm's parts in the workspace and out of one another, as far as its body is known."""

import numpy as np

from nac_ros.robot import RobotSpec
from nac_ros.safety.limits import Refusal
from nac_ros.safety.shape import Shape


class Bounds:
    """An arm that is out already may move where it is less so. Without a body nothing is checked.

    `held` counts the chunks that were held back at their first point outside.
    """

    MEMORY = ("_allowed", "held")

    def __init__(self, spec: RobotSpec):
        self._shape = None if spec.body is None else Shape(spec, spec.body)
        self._margin = 0.0 if spec.body is None else spec.body.margin_m
        self._allowed = 0.0
        self.held = 0

    def hold_back(
        self, actions: np.ndarray, here: np.ndarray
    ) -> tuple[np.ndarray, Refusal | None]:
        """Actions `[T, D]` that stop before the first one that is out, the arm being `here` `[D]`;
        a refusal where one lies beyond the margin."""
        if self._shape is None:
            return actions, None
        depths, _ = self._shape.worst(np.concatenate([here[None], actions]))
        self._allowed = max(float(depths[0]), 0.0)
        out = np.flatnonzero(depths[1:] > self._allowed)
        if not len(out):
            return actions, None
        self.held += 1
        kept = actions.copy()
        kept[out[0] :] = actions[out[0] - 1] if out[0] else here
        deep = depths[1:].max() > self._allowed + self._margin
        return kept, self._refusal(actions) if deep else None

    def doubt(self, positions: np.ndarray) -> str:
        """Why an arm that is, or will be, at `positions` `[N, D]` must stop, or ''."""
        if self._shape is None:
            return ""
        depths, breaches = self._shape.worst(positions)
        deep = depths.max() > self._allowed + self._margin
        return breaches[0].reason if deep else ""

    def _refusal(self, actions: np.ndarray) -> Refusal:
        assert self._shape is not None
        _, breaches = self._shape.worst(actions)
        worst = breaches[0]
        text = (
            f"the chunk would bring {worst.text}; {self._margin} m is the most that is held back"
        )
        return Refusal(worst.reason, text)
