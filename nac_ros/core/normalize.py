"""Normalization of actions to about [-1, 1] from their range in a data set."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import BadActions, ConfigError

FLAT_RANGE = 1e-6  # [rad or m] a dimension with a smaller half range is only centred
QUANTILES = (0.01, 0.99)  # as in OpenVLA (arXiv 2406.09246) and FAST (arXiv 2501.09747)
# Smallest half range, as a share of a joint's range: 13 mrad of a joint that turns 360 degrees.
# That is about eight steps of a 4096-step encoder (1.5 mrad) and above the repeatability of the
# arms supported here (up to 5 mrad), and below any motion that a demonstration means.
MIN_HALF_RANGE_SHARE = 0.002
MAX_HALF_RANGE = 1e4  # [rad or m]


@dataclass(frozen=True, kw_only=True)
class NormalizerConfig:
    """How the range of each dimension is found.

    range: minmax = minimum and maximum of the training actions; quantiles = QUANTILES, so that a
        few outliers do not shrink all other motions. Values beyond them exceed [-1, 1] and are
        kept. A dimension whose quantiles coincide, such as a gripper that rarely moves, takes
        minimum and maximum.
    min_half_range: `[D]` or empty, half range [rad or m] that a dimension has at least, so that
        the noise of a joint that hardly moves is not blown up to [-1, 1] (`min_half_range_of`)
    """

    range: Literal["minmax", "quantiles"] = "minmax"
    min_half_range: tuple[float, ...] = number_field((), 0, MAX_HALF_RANGE, "rad or m")

    def __post_init__(self) -> None:
        check_fields(self)

    def check_columns(self, action_dim: int) -> None:
        """Raises ConfigError unless there are as many half ranges as dimensions, or none."""
        if len(self.min_half_range) not in (0, action_dim):
            raise ConfigError(
                f"normalizer: min_half_range has {len(self.min_half_range)} entries for "
                f"{action_dim} dimensions"
            )


def min_half_range_of(low: np.ndarray, high: np.ndarray) -> tuple[float, ...]:
    """`min_half_range` of joints with the position limits low and high `[D]`."""
    return tuple((MIN_HALF_RANGE_SHARE * (np.asarray(high) - low)).tolist())


@dataclass(frozen=True)
class ActionNormalizer:
    """Maps actions in physical units to about [-1, 1] and back, per dimension.

    low, high: float32 `[D]`, range of the training actions by a NormalizerConfig
    relative: bool `[D]`, dimensions from which the reference (the joint state at the time of the
        observation) is subtracted first
    is_relative: whether any dimension is relative, known without reading `relative`
    The first three are numpy arrays, or torch tensors on one device; the methods take the same
    kind.
    """

    low: Any
    high: Any
    relative: Any
    is_relative: bool

    @classmethod
    def fit(
        cls,
        actions: Any,
        reference: Any = None,
        relative: Any = None,
        config: NormalizerConfig | None = None,
    ) -> "ActionNormalizer":
        """From actions `[B, H, D]` and references `[B, D]`; raises BadActions if they are empty or
        not finite."""
        config = config or NormalizerConfig()
        actions = np.asarray(actions, np.float32)
        none = np.zeros(actions.shape[-1], bool)
        relative = none if relative is None else np.asarray(relative, bool)
        if reference is not None:
            reference = np.asarray(reference, np.float32)
        is_relative = bool(relative.any())
        values = actions - cls(none, none, relative, is_relative)._offset(reference)
        flat = values.reshape(-1, values.shape[-1])
        if not len(flat) or not np.isfinite(flat).all():
            raise BadActions("statistics need at least one action, all finite")
        return cls(*_range(flat, config), relative, is_relative)

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
        if not self.is_relative:
            return 0.0
        if reference is None:
            raise BadActions("relative actions need the joint state as reference [B, D]")
        return (reference * self.relative)[..., None, :]


def _range(values: np.ndarray, config: NormalizerConfig) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end `[D]` of values `[N, D]`, float32, at least 2 min_half_range apart."""
    low, high = values.min(0), values.max(0)
    floor = np.zeros(len(low), np.float32)
    if config.min_half_range:
        floor = np.asarray(config.min_half_range, np.float32)
    if config.range == "quantiles":
        ends = np.quantile(values, QUANTILES, axis=0).astype(np.float32)
        wide = (ends[1] - ends[0]) / 2 > np.maximum(floor, FLAT_RANGE)
        low, high = np.where(wide, ends, (low, high))
    centre, half = (low + high) / 2, (high - low) / 2
    narrow = half < floor
    return np.where(narrow, centre - floor, low), np.where(narrow, centre + floor, high)
