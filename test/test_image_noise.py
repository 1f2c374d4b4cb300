"""Sensor noise of the simulated cameras: small, seeded, and never the same twice."""

import numpy as np
import pytest

from nac_ros.core.errors import SimulationError
from nac_ros.simulation.image_noise import IMAGE_NOISE, ImageNoise

IMAGE = np.full((96, 96, 3), 128, np.uint8)


def test_the_noise_has_the_configured_standard_deviation():
    for sigma in (1.0, 2.0, 5.0):
        noise = ImageNoise(sigma)
        off = np.stack([noise.add(IMAGE) for _ in range(20)]).astype(float) - 128
        assert abs(off.mean()) < 0.05
        assert off.std() == pytest.approx(np.hypot(sigma, 12**-0.5), rel=0.03)  # and rounding


def test_successive_images_differ_and_a_seed_repeats_them():
    one, other = ImageNoise(IMAGE_NOISE, 7), ImageNoise(IMAGE_NOISE, 7)
    images = [one.add(IMAGE) for _ in range(50)]
    assert all(np.array_equal(other.add(IMAGE), image) for image in images)
    assert len({image.tobytes() for image in images}) == 50
    one.reseed(7)
    assert np.array_equal(one.add(IMAGE), images[0])


def test_black_and_white_do_not_wrap_and_the_rendered_image_is_unchanged():
    noise = ImageNoise(5.0)
    black, white = np.zeros_like(IMAGE), np.full_like(IMAGE, 255)
    assert noise.add(black).max() < 40 and noise.add(white).min() > 215
    assert not black.any() and noise.add(black).dtype == np.uint8


def test_without_noise_an_image_is_as_rendered():
    assert ImageNoise(0.0).add(IMAGE) is IMAGE


def test_a_large_image_has_noise_too():
    large = np.full((1080, 1920, 3), 128, np.uint8)
    assert (ImageNoise(1.0).add(large) != 128).mean() > 0.5


@pytest.mark.parametrize("sigma", [-1.0, float("nan"), 1e3])
def test_noise_out_of_range_is_rejected(sigma):
    with pytest.raises(SimulationError, match="image noise must be in 0"):
        ImageNoise(sigma)
