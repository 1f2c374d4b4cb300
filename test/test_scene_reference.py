"""The scene comparison detects a moved object but not a dimmed lamp, in images of the twin."""

import cv2
import numpy as np
import pytest

from nac_ros.core import image_codec
from nac_ros.core.errors import TrialError
from nac_ros.trials.scene_reference import (
    MAX_MISMATCH,
    ReferenceImages,
    outlines_png,
    scene_mismatch,
)
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
def render(twin):
    """Images of the scene camera with the marker displaced [m] and rotated [rad]."""
    random = np.random.default_rng(0)

    def render(seed=0, move=(0.0, 0.0), turn=0.0, light=1.0):
        twin.reset(seed)
        if any(move) or turn:
            part = FreeBody(twin.model, twin.data, "marker")
            w, *_, z = twin.data.body("marker").xquat
            place = part.position() + [*move, 0.0]
            part.set_pose(place, 2 * np.arctan2(z, w) + turn)
            twin.step_until(twin.now() + 0.05)
        image = twin.read().images["scene"][1].astype(float)
        noise = random.normal(0, 2, image.shape)
        return np.clip(light * image + noise, 0, 255).astype(np.uint8)

    return render


def test_the_same_scene_passes_with_noise_and_after_jpeg(render):
    reference = render()
    assert scene_mismatch(reference, reference) == 0
    assert (
        scene_mismatch(reference, image_codec.decode_image(image_codec.encode_jpeg(render(), 85)))
        < MAX_MISMATCH / 2
    )


@pytest.mark.parametrize("light", [0.6, 1.2])
def test_another_brightness_passes(render, light):
    assert scene_mismatch(render(), render(light=light)) < MAX_MISMATCH


@pytest.mark.parametrize("move", [(0.015, 0.0), (0.0, 0.015), (-0.03, 0.02)])
def test_an_object_centimetres_off_does_not_pass(render, move):
    assert scene_mismatch(render(), render(move=move)) > MAX_MISMATCH


def test_a_rotated_object_does_not_pass(render):
    assert scene_mismatch(render(), render(turn=np.pi / 2)) > MAX_MISMATCH


def test_another_scene_or_a_displaced_camera_does_not_pass(render):
    reference = render()
    assert scene_mismatch(reference, render(seed=5)) > MAX_MISMATCH
    pushed = cv2.warpAffine(render(), np.float32([[1, 0, 4], [0, 1, 2]]), (96, 96))
    assert scene_mismatch(reference, pushed) > MAX_MISMATCH
    turned = cv2.warpAffine(render(), cv2.getRotationMatrix2D((48, 48), 6, 1), (96, 96))
    assert scene_mismatch(reference, turned) > MAX_MISMATCH


def test_the_mismatch_grows_with_the_distance_and_stays_within_0_and_1(render):
    reference = render()
    near, far = (scene_mismatch(reference, render(move=(d, 0.0))) for d in (0.005, 0.03))
    assert 0 <= near < far <= 1
    assert scene_mismatch(reference, np.zeros((48, 64, 3), np.uint8)) == 1


def test_a_reference_is_saved_for_its_start_position_and_loaded_again(tmp_path, render):
    references, image = ReferenceImages(tmp_path), render()
    assert references.load(SLOT) is None
    references.save(SLOT, image)
    assert (tmp_path / "references/marker_A1.png").is_file()
    np.testing.assert_array_equal(ReferenceImages(tmp_path).load(SLOT), image)
    twin_slot = SLOT._replace(start_position="")
    assert (
        references.path(twin_slot).name == "marker_003.png" and references.load(twin_slot) is None
    )


def test_the_error_names_a_damaged_reference(tmp_path):
    path = tmp_path / "references/marker_A1.png"
    path.parent.mkdir()
    path.write_text("no image")
    with pytest.raises(TrialError, match=r"marker_A1.png is no image .*; remove it"):
        ReferenceImages(tmp_path).load(SLOT)


def test_outlines_are_transparent_except_at_the_edges(render):
    shown = cv2.imdecode(np.frombuffer(outlines_png(render()), np.uint8), cv2.IMREAD_UNCHANGED)
    transparent = shown[..., 3] == 0
    assert shown.shape == (96, 96, 4) and 0.5 < transparent.mean() < 0.99
