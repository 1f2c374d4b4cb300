"""SPARC: invariance to amplitude, duration and rate; sensitivity to stops and oscillation."""

import numpy as np
import pytest

from nac_ros.core.errors import ConfigError
from nac_ros.stats.smoothness import sparc


def reach(seconds, rate=30.0):
    """Speed of one minimum-jerk motion."""
    u = np.linspace(0, 1, round(seconds * rate) + 1)
    return 30 * u**2 * (1 - u) ** 2


def test_amplitude_duration_and_sample_rate_do_not_change_sparc():
    one = sparc(reach(3), 30)
    assert sparc(7 * reach(3), 30) == pytest.approx(one)
    assert sparc(reach(6), 30) == pytest.approx(one, abs=5e-3)
    assert sparc(reach(3, 100.0), 100) == pytest.approx(one, abs=1e-2)
    assert one == pytest.approx(-1.4, abs=0.05)  # a minimum-jerk reach is the smoothest


def test_stops_and_oscillation_lower_sparc():
    smooth, halting = reach(3), np.concatenate([reach(1)] * 3)
    oscillating = smooth * (1 + 0.8 * np.sin(2 * np.pi * 3 * np.arange(len(smooth)) / 30))
    assert sparc(halting, 30) < sparc(smooth, 30) - 0.5
    assert sparc(oscillating, 30) < sparc(smooth, 30) - 0.3


def test_sparc_is_none_without_motion_and_rejects_low_sample_rates():
    assert sparc(np.zeros(50), 30) is None and sparc(np.ones(1), 30) is None
    with pytest.raises(ConfigError, match=r"samples at 20 Hz or more, got 15 Hz"):
        sparc(reach(1), 15)
