"""The towel: grasp and release, detection of a fold, every outcome of a trial."""

import numpy as np
import pytest
from twin_setup import SPEC, outcome, put_tool, run, skip_to_horizon

from nac_ros.simulation.tasks.fold_towel import LOW, SHAPE, SPACING, START
from nac_ros.simulation.twin import Twin

MIDDLE = SHAPE[0] // 2


@pytest.fixture(scope="module")
def twin():
    return Twin(SPEC, "fold_towel", render=False)


def fold(twin, row=MIDDLE, left=False):
    """Folds the towel at a row of vertices: the right part over the left one, or the reverse."""
    points = twin.task.cloth.points()
    points = points[::-1] if left else points
    for k in range(row):
        over = points[2 * row - k]
        points[k] = over + [0, 0, 0.002]
    twin.task.cloth.set_points(points[::-1] if left else points)


def unfold(twin):
    twin.task.cloth.set_flat(np.zeros(2), 0.0)


@pytest.mark.parametrize("left", [False, True])
def test_half_over_half_at_rest_is_success(twin, left):
    twin.reset(0)
    fold(twin, left=left)
    run(twin, 0.4)
    assert twin.outcome().state == "running"
    run(twin, 0.8)
    assert outcome(twin) == "success: the towel is folded in half"


@pytest.mark.parametrize("row", [2, 3])
def test_a_towel_folded_by_less_runs_until_the_horizon(twin, row):
    twin.reset(0)
    fold(twin, row)
    run(twin, 1.2)
    assert twin.outcome().state == "running"
    skip_to_horizon(twin)
    assert outcome(twin) == "failure: the towel is not folded at the end"


def test_a_flat_towel_is_not_folded(twin):
    twin.reset(0)
    run(twin, 0.8)
    assert twin.task.cloth.overlap() < 0.1
    assert twin.outcome().state == "running"
    skip_to_horizon(twin)
    assert outcome(twin) == "failure: the towel is not folded at the end"


def test_the_halves_of_a_folded_towel_overlap_completely(twin):
    twin.reset(0)
    fold(twin)
    twin.restore(twin.snapshot())
    assert twin.task.cloth.overlap() == pytest.approx(1, abs=0.1)
    assert twin.task.is_folded()


def test_a_towel_that_is_unfolded_again_is_failure(twin):
    twin.reset(0)
    fold(twin)
    run(twin, 0.3)
    unfold(twin)
    run(twin, 0.8)
    assert outcome(twin) == "failure: the towel was unfolded again"


def test_a_towel_outside_the_workspace_is_failure_at_once(twin):
    twin.reset(0)
    twin.task.cloth.set_flat(np.array([0.3, 0.0]), 0.0)
    run(twin, 0.04)
    assert outcome(twin) == "failure: the towel left the workspace"


def test_closing_fingers_grasp_the_cloth_and_opening_fingers_release_it(twin):
    twin.reset(0)
    unfold(twin)
    twin.restore(twin.snapshot())
    edge = twin.task.cloth.points()[0, SHAPE[1] // 2]
    put_tool(twin, edge + [0, 0, LOW], opening=0.04)
    run(twin, 0.1)
    assert twin.task.cloth.held_vertex() is None
    put_tool(twin, edge + [0, 0, LOW])
    run(twin, 0.1)
    assert twin.task.cloth.held_vertex() == SHAPE[1] // 2
    put_tool(twin, edge + [0, 0.03, 0.08])
    run(twin, 0.6)
    assert twin.task.cloth.points()[..., 2].max() > 0.06
    put_tool(twin, edge + [0, 0.03, 0.08], opening=0.04)
    run(twin, 0.6)
    assert twin.task.cloth.held_vertex() is None
    assert twin.task.cloth.points()[..., 2].max() < 0.045


def test_fingers_that_are_closed_already_grasp_nothing(twin):
    twin.reset(0)
    edge = twin.task.cloth.points()[0, SHAPE[1] // 2]
    put_tool(twin, edge + [0, 0, 0.1])
    run(twin, 0.1)
    put_tool(twin, edge + [0, 0, LOW])
    run(twin, 0.2)
    assert twin.task.cloth.held_vertex() is None


def test_a_folded_towel_that_is_still_held_is_not_success(twin):
    twin.reset(0)
    fold(twin)
    twin.restore(twin.snapshot())
    edge = twin.task.cloth.points()[0, SHAPE[1] // 2]
    put_tool(twin, edge + [0, 0, LOW])
    run(twin, 1.0)
    assert twin.task.cloth.held_vertex() is not None
    assert twin.outcome().state == "running"
    skip_to_horizon(twin)
    assert outcome(twin) == "failure: the towel is folded but not released and at rest at the end"


def test_the_towel_starts_flat_around_its_mark(twin):
    places = []
    for seed in range(12):
        twin.reset(seed)
        points = twin.task.cloth.points()
        long = points[-1].mean(0) - points[0].mean(0)
        assert np.linalg.norm(long) == pytest.approx(SPACING * (SHAPE[0] - 1), abs=2e-3)
        assert np.ptp(points[..., 2]) < 1e-3
        yaw = np.arctan2(long[1], long[0]) - START.yaw
        places.append([*(points.mean((0, 1))[:2] - (START.x, START.y)), yaw])
    reach = np.abs(places).max(axis=0)
    assert (reach[:2] < START.spread + 1e-3).all() and reach[:2].min() > 0.6 * START.spread
    assert 0.6 * START.yaw_spread < reach[2] < START.yaw_spread + 0.01
