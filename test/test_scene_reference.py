"""The overlay tells a moved thing from a dimmed lamp, in pictures of the real twin."""

import cv2
import numpy as np
import pytest

from nac_ros.core import image_codec
from nac_ros.core.errors import TrialError
from nac_ros.trials.scene_reference import MAX_MISMATCH, ReferenceImages, edges, mismatch
from nac_ros.trials.schedule import Slot

pytest.importorskip("mujoco")

from twin_setup import SPEC

from nac_ros.simulation.bodies import FreeBody
from nac_ros.simulation.twin import Twin

SLOT = Slot(0, "marker", 3, "A1", "larch")


@pytest.fixture(scope="module")
def twin():
    made = Twin(SPEC, "marker")
    yield made
    made.close()


@pytest.fixture(scope="module")
def look(twin):
    """The scene camera's picture with the marker moved [m] and turned [rad] from its place."""
    random = np.random.default_rng(0)

    def picture(seed=0, move=(0.0, 0.0), turn=0.0, light=1.0):
        twin.reset(seed)
        if any(move) or turn:
            part = FreeBody(twin.model, "marker")
            w, *_, z = twin.data.body("marker").xquat
            place = part.position(twin.data) + [*move, 0.0]
            part.place(twin.data, place, 2 * np.arctan2(z, w) + turn)
            twin.step_until(twin.now() + 0.05)
        image = twin.read().images["scene"][1].astype(float)
        noise = random.normal(0, 2, image.shape)
        return np.clip(light * image + noise, 0, 255).astype(np.uint8)

    return picture


def test_the_same_scene_passes_with_noise_and_through_jpeg(look):
    reference = look()
    assert mismatch(reference, reference) == 0
    assert (
        mismatch(reference, image_codec.decode(image_codec.encode_jpeg(look(), 85)))
        < MAX_MISMATCH / 2
    )


@pytest.mark.parametrize("light", [0.6, 1.2])
def test_another_light_passes(look, light):
    assert mismatch(look(), look(light=light)) < MAX_MISMATCH


@pytest.mark.parametrize("move", [(0.015, 0.0), (0.0, 0.015), (-0.03, 0.02)])
def test_a_thing_centimetres_off_does_not_pass(look, move):
    assert mismatch(look(), look(move=move)) > MAX_MISMATCH


def test_a_thing_turned_away_does_not_pass(look):
    assert mismatch(look(), look(turn=np.pi / 2)) > MAX_MISMATCH


def test_another_scene_or_a_camera_that_was_pushed_does_not_pass(look):
    reference = look()
    assert mismatch(reference, look(seed=5)) > MAX_MISMATCH
    pushed = cv2.warpAffine(look(), np.float32([[1, 0, 4], [0, 1, 2]]), (96, 96))
    assert mismatch(reference, pushed) > MAX_MISMATCH
    turned = cv2.warpAffine(look(), cv2.getRotationMatrix2D((48, 48), 6, 1), (96, 96))
    assert mismatch(reference, turned) > MAX_MISMATCH


def test_the_number_grows_with_the_distance_and_stays_within_0_and_1(look):
    reference = look()
    near, far = (mismatch(reference, look(move=(d, 0.0))) for d in (0.005, 0.03))
    assert 0 <= near < far <= 1
    assert mismatch(reference, np.zeros((48, 64, 3), np.uint8)) == 1


def test_a_reference_is_kept_for_its_place_and_read_again(tmp_path, look):
    places, image = ReferenceImages(tmp_path), look()
    assert places.reference(SLOT) is None
    places.keep(SLOT, image)
    assert (tmp_path / "places/marker_A1.png").is_file()
    np.testing.assert_array_equal(ReferenceImages(tmp_path).reference(SLOT), image)
    twin_slot = SLOT._replace(place="")
    assert places.path(twin_slot).name == "marker_003.png" and places.reference(twin_slot) is None


def test_a_damaged_reference_is_named(tmp_path):
    path = tmp_path / "places/marker_A1.png"
    path.parent.mkdir()
    path.write_text("no picture")
    with pytest.raises(TrialError, match=r"marker_A1.png is no picture; remove it"):
        ReferenceImages(tmp_path).reference(SLOT)


def test_outlines_are_clear_but_where_the_reference_has_edges(look):
    shown = cv2.imdecode(np.frombuffer(edges(look()), np.uint8), cv2.IMREAD_UNCHANGED)
    clear = shown[..., 3] == 0
    assert shown.shape == (96, 96, 4) and 0.5 < clear.mean() < 0.99
