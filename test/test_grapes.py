"""The bunch of grapes: its shape, the count on the plate, every outcome of a trial."""

import numpy as np
import pytest
from twin_setup import SPEC, outcome, put, put_tool, run, skip_to_horizon

from nac_ros.simulation.tasks.grapes import APART, GRAPE, HEIGHT, PLATE, _grape_positions
from nac_ros.simulation.twin import Twin

MIDDLE = 0.045  # of the bunch, behind its stem [m]


@pytest.fixture(scope="module")
def twin():
    return Twin(SPEC, "grapes", render=False)


def put_on_plate(twin, x=0.0, height=0.012):
    """Puts the middle of the bunch `x` [m] from the middle of the plate."""
    put(twin, "bunch", [PLATE[0] + MIDDLE + x, PLATE[1], HEIGHT + height])


def test_a_bunch_at_rest_on_the_plate_is_success(twin):
    twin.reset(0)
    put_on_plate(twin)
    run(twin, 0.4)
    assert twin.outcome().state == "running"
    run(twin, 1.2)
    assert outcome(twin) == "success: the grapes lie on the plate"
    assert twin.task.n_on_plate() == len(_grape_positions())


def test_a_bunch_with_more_than_half_on_the_plate_is_success(twin):
    twin.reset(0)
    put_on_plate(twin, x=-0.08)
    run(twin, 2.0)
    assert len(_grape_positions()) / 2 <= twin.task.n_on_plate() < len(_grape_positions())
    assert twin.outcome().state == "success"


def test_a_bunch_with_less_than_half_on_the_plate_is_failure(twin):
    twin.reset(0)
    put_on_plate(twin, x=-0.108)
    run(twin, 2.0)
    assert 0 < twin.task.n_on_plate() < len(_grape_positions()) / 2
    assert outcome(twin) == "failure: fewer than half of the grapes remain on the plate"


def test_a_trial_with_the_bunch_next_to_the_plate_runs_until_the_horizon(twin):
    twin.reset(0)
    run(twin, 1.5)
    assert twin.task.n_on_plate() == 0
    assert twin.outcome().state == "running"
    skip_to_horizon(twin)
    assert outcome(twin) == "failure: the grapes are not on the plate at the end"


def test_a_bunch_still_held_over_the_plate_is_not_success(twin):
    twin.reset(0)
    put_on_plate(twin, height=0.006)
    put_tool(twin, [PLATE[0] + MIDDLE, PLATE[1], HEIGHT + 0.01], opening=0.009)
    run(twin, 1.5)
    assert twin.outcome().state == "running"
    skip_to_horizon(twin)
    held = "failure: the grapes are on the plate but not released and at rest at the end"
    assert outcome(twin) == held


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ([0.3, -0.8, -0.1], "the grapes fell off the table"),
        ([0.62, 0.0, HEIGHT], "the grapes left the workspace"),
    ],
)
def test_a_bunch_that_is_lost_is_failure_at_once(twin, place, reason):
    twin.reset(0)
    put(twin, "bunch", place)
    run(twin, 0.04)
    assert outcome(twin) == f"failure: {reason}"


def test_sixteen_grapes_hang_on_one_stem_and_follow_it(twin):
    assert len(_grape_positions()) == 16
    gaps = [
        np.linalg.norm(np.subtract(a, b))
        for i, a in enumerate(_grape_positions())
        for b in _grape_positions()[:i]
    ]
    assert min(gaps) > 2 * GRAPE - 1e-3 and min(gaps) < APART + 1e-6
    twin.reset(0)
    put(twin, "bunch", [0.3, 0.0, 0.5])
    run(twin, 0.2)
    grapes = np.array([twin.data.geom(f"grape_{i}").xpos for i in range(16)])
    assert np.ptp(grapes[:, 2]) < 0.06 and np.linalg.norm(np.ptp(grapes, axis=0)) < 0.12


def test_the_bunch_starts_on_the_table_around_its_mark(twin):
    (start,) = twin.task.start_poses
    for seed in range(12):
        twin.reset(seed)
        assert twin.outcome().state == "running"
        place = twin.data.body("bunch").xpos
        assert np.abs(place[:2] - (start.x, start.y)).max() < start.spread + 2e-3
        assert twin.task.n_on_plate() == 0
