"""Sensor noise for rendered images, which are bit-identical while nothing moves."""

import numpy as np

from nac_ros.core.errors import SimulationError

IMAGE_NOISE = 1.0  # standard deviation [grey levels]; a small sensor in daylight has 1 to 2
MAX_IMAGE_NOISE = 20.0
TABLE = 1 << 20  # values drawn once; each image uses a part with a random offset


class ImageNoise:
    """Adds Gaussian noise, rounded to whole grey levels, to images.

    The values are drawn once, so an image costs one addition and one random offset.
    Raises SimulationError unless 0 <= sigma <= MAX_IMAGE_NOISE.

    sigma: standard deviation [grey levels]; 0 adds none
    """

    def __init__(self, sigma: float, seed: int = 0):
        if not 0 <= sigma <= MAX_IMAGE_NOISE:
            raise SimulationError(
                f"image noise must be in 0 .. {MAX_IMAGE_NOISE} grey levels, got {sigma}"
            )
        self.sigma = sigma
        drawn = np.random.default_rng(0).standard_normal(TABLE, np.float32) if sigma else 0
        self._table = np.rint(np.float32(sigma) * drawn).astype(np.int16)
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Restarts the offsets; the same seed gives the same sequence of noise."""
        self._rng = np.random.default_rng([seed, 3])

    def add(self, image: np.ndarray) -> np.ndarray:
        """A noisy copy, uint8 `[H, W, 3]`, clipped to 0 .. 255; `image` itself if sigma is 0."""
        if not self.sigma:
            return image
        n_values = image.size
        if n_values >= len(self._table):  # an image with more values than the table
            self._table = np.resize(self._table, n_values + TABLE)
        first = int(self._rng.integers(len(self._table) - n_values))
        noise = self._table[first : first + n_values].reshape(image.shape)
        return np.clip(image + noise, 0, 255).astype(np.uint8)
