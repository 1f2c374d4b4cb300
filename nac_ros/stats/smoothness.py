"""Smoothness of a motion: the spectral arc length of its speed."""

import numpy as np

from nac_ros.core.errors import ConfigError

MAX_FREQUENCY_HZ, AMPLITUDE_THRESHOLD, PADDING = 10.0, 0.05, 4  # as in the paper


def sparc(speed: np.ndarray, rate_hz: float) -> float | None:
    """SPARC of a speed `[T]` sampled at `rate_hz`: dimensionless and negative, closer to 0 is
    smoother; None without motion.

    The negative arc length of the normalized amplitude spectrum up to the last frequency whose
    amplitude is at least 5 %, at most 10 Hz (Balasubramanian, Melendez-Calderon, Roby-Brami and
    Burdet 2015, J. NeuroEng. Rehabil. 12:112). Amplitude and duration do not change it, but every
    stop and restart makes it longer, so compare within one task only. Raises ConfigError for a
    rate below 20 Hz.
    """
    if rate_hz < 2 * MAX_FREQUENCY_HZ:
        raise ConfigError(
            f"a spectrum up to {MAX_FREQUENCY_HZ:g} Hz needs samples at "
            f"{2 * MAX_FREQUENCY_HZ:g} Hz or more, got {rate_hz:g} Hz"
        )
    if len(speed) < 2 or not np.any(speed):
        return None
    n_fft = 2 ** (int(np.ceil(np.log2(len(speed)))) + PADDING)
    amplitude = np.abs(np.fft.rfft(speed, n_fft))
    amplitude, frequency = amplitude / amplitude.max(), np.fft.rfftfreq(n_fft, 1 / rate_hz)
    amplitude = amplitude[frequency <= MAX_FREQUENCY_HZ]
    end = int(np.flatnonzero(amplitude >= AMPLITUDE_THRESHOLD)[-1])
    if end == 0:
        return None
    return -float(np.hypot(np.diff(amplitude[: end + 1]), 1 / end).sum())
