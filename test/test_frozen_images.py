"""Frozen cameras are told from cameras that see nothing move, by the noise of their sensors."""

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
    """A fixed camera and an arm on a clock of their own, 30 times a second."""

    def __init__(self, sigma: float = 1.0):
        self.aligner = ObservationBuffer(ROBOT, ("scene",), 1)
        self.noise, self.now, self.place = ImageNoise(sigma), 0.0, ROBOT.home.copy()
        self.shown = GREY

    def run(self, seconds: float, speed: float = 0.0, camera: str = "live", moves: bool = False):
        """speed: of the arm [rad/s]; camera: live or frozen; moves: whether something in view
        does."""
        for _ in range(round(seconds * HZ)):
            self.now += 1 / HZ
            self.place = self.place + speed / HZ
            self.aligner.add_joint_state(self.now, self.place)
            if camera == "live":
                self.shown = self.noise.add(
                    GREY + np.uint8(round(self.now * HZ) % 100 if moves else 0)
                )
            self.aligner.add_image("scene", self.now, self.shown)
        return self

    def reason(self) -> str:
        try:
            self.aligner.get_observation(self.now, "t")
        except BadObservation as error:
            return error.reason
        return ""


def test_a_noiseless_camera_that_the_arm_has_left_is_not_frozen():
    scene = Scene(sigma=0.0).run(3.0).run(5.0, speed=0.3)
    assert scene.reason() == "" and scene.aligner.unchecked == ["scene"]


def test_a_camera_with_noise_that_the_arm_has_left_is_not_frozen():
    scene = Scene().run(3.0)
    assert scene.aligner.unchecked == []
    assert scene.run(5.0, speed=0.3).reason() == ""


def test_a_camera_with_noise_that_shows_one_picture_is_frozen_and_says_for_how_long():
    scene = Scene().run(3.0).run(1.0, speed=0.3).run(1.0, speed=0.3, camera="frozen")
    with pytest.raises(BadObservation, match=r"camera scene: the same image for 1\.00 s") as e:
        scene.aligner.get_observation(scene.now, "t")
    assert e.value.reason == "frozen" and scene.aligner.frozen == [str(e.value)]


def test_a_frozen_camera_is_found_although_the_arm_holds():
    assert Scene().run(3.0).run(1.0, camera="frozen").reason() == "frozen"


def test_a_camera_is_not_checked_before_it_has_shown_noise_at_rest():
    scene = Scene().run(5.0, speed=0.3)
    assert scene.aligner.unchecked == ["scene"]
    assert scene.run(1.0, speed=0.3, camera="frozen").reason() == ""


def test_pictures_that_change_because_the_arm_moves_are_no_noise():
    scene = Scene(sigma=0.0)
    for _ in range(5):
        scene.run(2.0, speed=0.3, moves=True).run(0.3)
    assert scene.aligner.unchecked == ["scene"]
    assert scene.run(2.0, speed=0.3).reason() == ""


def test_a_verdict_clears_by_itself_with_the_first_new_picture_while_the_arm_holds():
    scene = Scene().run(3.0).run(2.0, camera="frozen")
    assert scene.reason() == "frozen"
    assert scene.run(1 / HZ).reason() == "" and scene.aligner.frozen == []


def test_the_verdict_and_what_is_known_of_a_camera_outlive_clearing_the_samples():
    scene = Scene().run(3.0).run(1.0, camera="frozen")
    scene.aligner.clear()
    assert scene.aligner.unchecked == [] and scene.aligner.frozen
    assert scene.run(0.1, camera="frozen").reason() == "frozen"


def test_clearing_for_a_clock_that_was_set_back_is_no_freeze():
    scene = Scene().run(3.0)
    scene.aligner.clear()
    scene.now = 0.0
    assert scene.run(0.2, camera="frozen").reason() == ""
    assert scene.run(1.0, camera="frozen").reason() == "frozen"


def test_a_picture_that_comes_twice_is_no_freeze():
    scene = Scene().run(3.0)
    for _ in range(20):
        scene.run(1 / HZ, speed=0.3).run(1 / HZ, speed=0.3, camera="frozen")
        assert scene.reason() == ""


@settings(deadline=None, max_examples=10)
@given(st.integers(1, NOISE_PAIRS - 2))  # and the picture after them differs too
def test_fewer_pictures_that_differ_than_wanted_are_no_proof_of_noise(count):
    scene = Scene(sigma=0.0).run(1.0)
    scene.run(count / HZ, moves=True).run(1.0)
    assert scene.aligner.unchecked == ["scene"]


@settings(deadline=None, max_examples=10)
@given(st.floats(0.0, FROZEN_S - 2 / HZ))
def test_a_camera_may_stand_for_a_moment(seconds):
    assert Scene().run(3.0).run(seconds, camera="frozen", speed=0.5).reason() == ""
