"""Frozen cameras are distinguished from static views by the noise of their sensors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nac_ros.core.errors import BadObservation
from nac_ros.robot.frozen_images import FROZEN_S, NOISE_PAIRS
from nac_ros.robot.observation_buffer import ObservationBuffer
from nac_ros.robot.spec import load_robot
from nac_ros.simulation.image_noise import ImageNoise

ROBOT = load_robot("vx300s")
HZ = 30
GREY = np.full((96, 96, 3), 90, np.uint8)


class Scene:
    """A fixed camera and an arm, 30 times a second, with a simulated clock."""

    def __init__(self, sigma: float = 1.0):
        self.buffer = ObservationBuffer(ROBOT, ("scene",), 1)
        self.noise, self.now, self.positions = ImageNoise(sigma), 0.0, ROBOT.home.copy()
        self.image = GREY

    def run(self, seconds: float, speed: float = 0.0, camera: str = "live", moves: bool = False):
        """Runs for `seconds`; speed: of the arm [rad/s]; camera: live or frozen; moves: whether
        something in view moves."""
        for _ in range(round(seconds * HZ)):
            self.now += 1 / HZ
            self.positions = self.positions + speed / HZ
            self.buffer.add_joint_state(self.now, self.positions)
            if camera == "live":
                self.image = self.noise.add(
                    GREY + np.uint8(round(self.now * HZ) % 100 if moves else 0)
                )
            self.buffer.add_image("scene", self.now, self.image)
        return self

    def reason(self) -> str:
        try:
            self.buffer.get_observation(self.now, "t")
        except BadObservation as error:
            return error.reason
        return ""


def test_a_camera_without_noise_and_with_a_static_view_is_not_frozen():
    scene = Scene(sigma=0.0).run(3.0).run(5.0, speed=0.3)
    assert scene.reason() == "" and scene.buffer.unchecked == ["scene"]


def test_a_camera_with_noise_and_a_static_view_is_not_frozen():
    scene = Scene().run(3.0)
    assert scene.buffer.unchecked == []
    assert scene.run(5.0, speed=0.3).reason() == ""


def test_a_camera_with_noise_that_repeats_one_image_is_frozen_with_its_duration():
    scene = Scene().run(3.0).run(1.0, speed=0.3).run(1.0, speed=0.3, camera="frozen")
    with pytest.raises(BadObservation, match=r"camera scene: the same image for 1\.00 s") as e:
        scene.buffer.get_observation(scene.now, "t")
    assert e.value.reason == "frozen" and scene.buffer.frozen == [str(e.value)]


def test_a_frozen_camera_is_detected_while_the_arm_holds():
    assert Scene().run(3.0).run(1.0, camera="frozen").reason() == "frozen"


def test_a_camera_is_not_checked_before_it_has_shown_noise_at_rest():
    scene = Scene().run(5.0, speed=0.3)
    assert scene.buffer.unchecked == ["scene"]
    assert scene.run(1.0, speed=0.3, camera="frozen").reason() == ""


def test_images_that_differ_because_the_arm_moves_are_no_noise():
    scene = Scene(sigma=0.0)
    for _ in range(5):
        scene.run(2.0, speed=0.3, moves=True).run(0.3)
    assert scene.buffer.unchecked == ["scene"]
    assert scene.run(2.0, speed=0.3).reason() == ""


def test_the_result_ends_with_the_first_new_image_while_the_arm_holds():
    scene = Scene().run(3.0).run(2.0, camera="frozen")
    assert scene.reason() == "frozen"
    assert scene.run(1 / HZ).reason() == "" and scene.buffer.frozen == []


def test_clearing_the_samples_keeps_what_is_known_of_a_camera():
    scene = Scene().run(3.0).run(1.0, camera="frozen")
    scene.buffer.clear()
    assert scene.buffer.unchecked == [] and scene.buffer.frozen
    assert scene.run(0.1, camera="frozen").reason() == "frozen"


def test_clearing_for_a_clock_that_was_set_back_makes_no_camera_frozen():
    scene = Scene().run(3.0)
    scene.buffer.clear()
    scene.now = 0.0
    assert scene.run(0.2, camera="frozen").reason() == ""
    assert scene.run(1.0, camera="frozen").reason() == "frozen"


def test_an_image_that_is_repeated_once_is_not_frozen():
    scene = Scene().run(3.0)
    for _ in range(20):
        scene.run(1 / HZ, speed=0.3).run(1 / HZ, speed=0.3, camera="frozen")
        assert scene.reason() == ""


@settings(deadline=None, max_examples=10)
@given(st.integers(1, NOISE_PAIRS - 2))  # the image after them differs too
def test_too_few_differing_images_prove_no_noise(count):
    scene = Scene(sigma=0.0).run(1.0)
    scene.run(count / HZ, moves=True).run(1.0)
    assert scene.buffer.unchecked == ["scene"]


@settings(deadline=None, max_examples=10)
@given(st.floats(0.0, FROZEN_S - 2 / HZ))
def test_a_camera_may_repeat_an_image_for_a_short_time(seconds):
    assert Scene().run(3.0).run(seconds, camera="frozen", speed=0.5).reason() == ""
