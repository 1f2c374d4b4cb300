"""Linear per-dimension normalisation to [-1, 1] from a dataset's minimum and maximum."""

from dataclasses import dataclass

import numpy as np

from nac_ros.core.errors import BadActions

FLAT_RANGE = 1e-6  # [rad or m] a dimension with a smaller half range is centred, not scaled


@dataclass(frozen=True)
class LinearNormalizer:
    """Maps `[low, high]` of each of the D dimensions to [-1, 1]; float32 `[D]` each."""

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray) -> "LinearNormalizer":
        """From values `[..., D]`; raises BadActions if there are none or one is not finite."""
        flat = np.asarray(values, np.float32).reshape(-1, np.shape(values)[-1])
        if not len(flat) or not np.isfinite(flat).all():
            raise BadActions("statistics need at least one value, all finite")
        return cls(flat.min(0), flat.max(0))

    @property
    def centre(self) -> np.ndarray:
        """Middle of the range, float32 `[D]`."""
        return ((self.low + self.high) / 2).astype(np.float32)

    @property
    def half_range(self) -> np.ndarray:
        """Half of the range, float32 `[D]`; 1 for a flat dimension."""
        half = (self.high - self.low) / 2
        return np.where(half < FLAT_RANGE, 1.0, half).astype(np.float32)

    def normalize(self, values):
        """Values in physical units `[..., D]` -> about [-1, 1]."""
        return (values - self.centre) / self.half_range

    def denormalize(self, values):
        """Values in about [-1, 1] `[..., D]` -> physical units."""
        return values * self.half_range + self.centre
