"""Domain randomization: within its ranges, by the seed alone, and off by default."""

import numpy as np
import pytest
from twin_setup import SPEC

from nac_ros.core.errors import ConfigError, UnknownName
from nac_ros.simulation.domain_randomization import (
    NOMINAL,
    DomainRandomization,
    list_randomizations,
    load_randomization,
)
from nac_ros.simulation.tasks import list_tasks, make_task
from nac_ros.simulation.twin import Twin

VARIED = load_randomization("varied")


@pytest.fixture(scope="module")
def plain():
    made = Twin(SPEC, "marker")
    yield made
    made.close()


@pytest.fixture(scope="module")
def varied():
    made = Twin(SPEC, "marker", randomization=VARIED)
    yield made
    made.close()


def render(twin, seed):
    twin.reset(seed)
    return {camera.name: twin.render(camera.name, 96, 96) for camera in SPEC.cameras}


def test_nominal_is_the_default_and_every_file_loads():
    assert load_randomization("nominal") == NOMINAL == DomainRandomization()
    assert NOMINAL.keeps_appearance and not VARIED.keeps_appearance
    assert {"nominal", "varied"} <= set(list_randomizations())


def test_a_seed_gives_the_same_images_after_any_other_trial(varied):
    first = render(varied, 3)
    render(varied, 4)
    again = render(varied, 3)
    for camera, image in first.items():
        np.testing.assert_array_equal(image, again[camera])


def test_the_appearance_varies_while_the_objects_stay_in_place(plain, varied):
    for seed in range(3):
        nominal, other = render(plain, seed), render(varied, seed)
        np.testing.assert_array_equal(plain.snapshot().physics, varied.snapshot().physics)
        for camera, image in nominal.items():
            assert np.abs(image.astype(int) - other[camera]).mean() > 2


def test_nominal_randomization_leaves_the_appearance_unchanged(plain):
    appearance = plain.snapshot().appearance
    for seed in range(3):
        plain.reset(seed)
        np.testing.assert_array_equal(plain.snapshot().appearance, appearance)


def test_values_fill_each_range_and_stay_inside(plain):
    model, wanted = (
        plain.model,
        DomainRandomization(camera_shift_m=0.02, camera_turn_rad=0.05, light=0.4),
    )
    twin = Twin(SPEC, "marker", render=False, randomization=wanted)
    shifts, lamps = [], []
    for seed in range(40):
        twin.reset(seed)
        shifts.append(twin.model.cam_pos - model.cam_pos)
        lamps.append(twin.model.light_diffuse / model.light_diffuse)
        np.testing.assert_allclose(np.linalg.norm(twin.model.cam_quat, axis=1), 1, atol=1e-6)
        np.testing.assert_array_equal(twin.model.geom_rgba, model.geom_rgba)
    assert 0.018 < np.abs(shifts).max() <= 0.02 + 1e-9
    assert 0.6 - 1e-6 <= np.min(lamps) < 0.7 and 1.3 < np.max(lamps) <= 1.4 + 1e-6


def test_the_arm_keeps_its_colours(varied, plain):
    varied.reset(1)
    arm = plain.arm.geoms
    np.testing.assert_array_equal(varied.model.geom_rgba[arm], plain.model.geom_rgba[arm])
    table = plain.model.geom("table").id
    assert (varied.model.geom_rgba[table] != plain.model.geom_rgba[table]).any()


def test_without_spread_every_object_starts_at_its_mark():
    for task in list_tasks():
        twin = Twin(SPEC, task, render=False, randomization=DomainRandomization(start_share=0.0))
        for start in make_task(task).start_poses:
            place = twin.data.body(start.name).xpos[:2]
            np.testing.assert_allclose(place, (start.x, start.y), atol=2e-3, err_msg=task)


def test_a_snapshot_restores_the_appearance_in_another_twin(plain, varied):
    varied.reset(5)
    image = varied.render("scene", 96, 96)
    before = plain.snapshot()
    plain.restore(varied.snapshot())
    np.testing.assert_array_equal(plain.render("scene", 96, 96), image)
    plain.restore(before)


def test_values_out_of_range_and_unknown_names_are_rejected():
    with pytest.raises(ConfigError, match=r"light must be in 0 \.\. 0\.9, got 2"):
        DomainRandomization(light=2.0)
    with pytest.raises(
        UnknownName, match="unknown randomization 'dusk'; known are: nominal, varied"
    ):
        load_randomization("dusk")
