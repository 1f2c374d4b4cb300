"""How smooth a motion was: the spectral arc length of its speed."""

import numpy as np

from nac_ros.core.errors import ConfigError

HIGHEST_HZ, FLOOR, PADDING = 10.0, 0.05, 4  # the source's cut-offs, and 2^4 times finer spectrum


def sparc(speed: np.ndarray, rate_hz: float) -> float | None:
    """SPARC of a speed `[T]` sampled at `rate_hz`: dimensionless and negative, nearer to 0 is
    smoother; None where nothing moved.

    The length of the normalised amplitude spectrum's curve, up to where it stays below 5 % or
    10 Hz, with the sign turned (Balasubramanian, Melendez-Calderon, Roby-Brami and Burdet 2015,
    J. NeuroEng. Rehabil. 12:112). It knows neither amplitude nor tempo, but more stops and starts
    make it longer: compare within one task alone. Raises ConfigError for a rate below 20 Hz.
    """
    if rate_hz < 2 * HIGHEST_HZ:
        raise ConfigError(
            f"a spectrum up to {HIGHEST_HZ:g} Hz needs samples at {2 * HIGHEST_HZ:g} Hz or more, "
            f"got {rate_hz:g} Hz"
        )
    if len(speed) < 2 or not np.any(speed):
        return None
    points = 2 ** (int(np.ceil(np.log2(len(speed)))) + PADDING)
    height = np.abs(np.fft.rfft(speed, points))
    height, frequency = height / height.max(), np.fft.rfftfreq(points, 1 / rate_hz)
    height = height[frequency <= HIGHEST_HZ]
    end = int(np.flatnonzero(height >= FLOOR)[-1])
    if end == 0:
        return None
    return -float(np.hypot(np.diff(height[: end + 1]), 1 / end).sum())
