"""SPARC: what it may not know, and what it must see."""

import numpy as np
import pytest

from nac_ros.core.errors import ConfigError
from nac_ros.stats.smoothness import sparc


def reach(seconds, rate=30.0):
    """Speed of one motion of minimum jerk."""
    u = np.linspace(0, 1, round(seconds * rate) + 1)
    return 30 * u**2 * (1 - u) ** 2


def test_it_knows_neither_amplitude_nor_tempo_nor_rate():
    one = sparc(reach(3), 30)
    assert sparc(7 * reach(3), 30) == pytest.approx(one)
    assert sparc(reach(6), 30) == pytest.approx(one, abs=5e-3)
    assert sparc(reach(3, 100.0), 100) == pytest.approx(one, abs=1e-2)
    assert one == pytest.approx(-1.4, abs=0.05)  # the smoothest reach there is


def test_stops_and_starts_and_trembling_are_less_smooth():
    smooth, halting = reach(3), np.concatenate([reach(1)] * 3)
    trembling = smooth * (1 + 0.8 * np.sin(2 * np.pi * 3 * np.arange(len(smooth)) / 30))
    assert sparc(halting, 30) < sparc(smooth, 30) - 0.5
    assert sparc(trembling, 30) < sparc(smooth, 30) - 0.3


def test_no_motion_has_no_smoothness_and_too_few_samples_are_refused():
    assert sparc(np.zeros(50), 30) is None and sparc(np.ones(1), 30) is None
    with pytest.raises(ConfigError, match=r"samples at 20 Hz or more, got 15 Hz"):
        sparc(reach(1), 15)
