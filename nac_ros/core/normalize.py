"""Normalization of actions to [-1, 1] from the minimum and maximum of a data set."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from nac_ros.core.errors import BadActions

FLAT_RANGE = 1e-6  # [rad or m] a dimension with a smaller half range is only centred


@dataclass(frozen=True)
class ActionNormalizer:
    """Maps actions in physical units to about [-1, 1] and back, per dimension.

    low, high: float32 `[D]`, minimum and maximum of the training actions
    relative: bool `[D]`, dimensions from which the reference (the joint state at the time of the
        observation) is subtracted first
    All three are numpy arrays, or torch tensors on one device; the methods take the same kind.
    """

    low: Any
    high: Any
    relative: Any

    @classmethod
    def fit(cls, actions: Any, reference: Any = None, relative: Any = None) -> "ActionNormalizer":
        """From actions `[B, H, D]` and references `[B, D]`; raises BadActions if they are empty or
        not finite."""
        actions = np.asarray(actions, np.float32)
        none = np.zeros(actions.shape[-1], bool)
        relative = none if relative is None else np.asarray(relative, bool)
        if reference is not None:
            reference = np.asarray(reference, np.float32)
        values = actions - cls(none, none, relative)._offset(reference)
        flat = values.reshape(-1, values.shape[-1])
        if not len(flat) or not np.isfinite(flat).all():
            raise BadActions("statistics need at least one action, all finite")
        return cls(flat.min(0), flat.max(0), relative)

    @property
    def centre(self) -> Any:
        """Float32 `[D]`."""
        return (self.low + self.high) / 2

    @property
    def half_range(self) -> Any:
        """Float32 `[D]`, 1 in dimensions whose half range is below FLAT_RANGE."""
        half = (self.high - self.low) / 2
        flat = half < FLAT_RANGE
        return half * ~flat + flat  # for numpy and torch alike

    def normalize(self, actions: Any, reference: Any = None) -> Any:
        """Physical actions `[B, H, D]` -> about [-1, 1]; relative dimensions need the reference
        `[B, D]`, otherwise it raises BadActions."""
        return (actions - self._offset(reference) - self.centre) / self.half_range

    def denormalize(self, normalized: Any, reference: Any = None) -> Any:
        """The inverse of `normalize`."""
        return normalized * self.half_range + self.centre + self._offset(reference)

    def _offset(self, reference: Any) -> Any:
        """Reference of the relative dimensions, `[B, 1, D]`, or zero."""
        if not self.relative.any():
            return 0.0
        if reference is None:
            raise BadActions("relative actions need the joint state as reference [B, D]")
        return (reference * self.relative)[..., None, :]
