"""The Go stone: the trained intersection, the other ones, every outcome of a trial."""

import numpy as np
import pytest
from twin_setup import SPEC, outcome, put, put_tool, run, skip_to_horizon

from nac_ros.simulation.tasks.place_stone import (
    BLACK,
    BOARD,
    LENS,
    NEAR,
    SPACING,
    STONE,
    TARGET,
    THICK,
    WHITE,
    intersection,
)
from nac_ros.simulation.twin import Twin


@pytest.fixture(scope="module")
def twin():
    return Twin(SPEC, "place_stone", render=False)


def put_stone(twin, point, height=0.0):
    """Puts the stone at a point of the board's frame, `height` above its surface [m]."""
    board = twin.data.body("board")
    local = [*point, THICK + LENS[2] + height]
    put(twin, "stone", board.xpos + board.xmat.reshape(3, 3) @ local)


@pytest.mark.parametrize("offset", [0.0, 0.8 * NEAR])
def test_a_stone_on_its_intersection_is_success_after_half_a_second(twin, offset):
    twin.reset(0)
    put_stone(twin, intersection(*TARGET) + [offset, 0])
    run(twin, 0.4)
    assert twin.outcome().state == "running"
    run(twin, 0.4)
    assert outcome(twin) == "success: the stone lies on its intersection"


@pytest.mark.parametrize("crossing", [(4, 5), (3, 4), (0, 0), (8, 3)])
def test_a_stone_on_any_other_intersection_is_failure(twin, crossing):
    twin.reset(0)
    put_stone(twin, intersection(*crossing))
    run(twin, 0.9)
    assert outcome(twin) == "failure: the stone lies on another intersection"


def test_a_stone_released_at_1_cm_has_an_outcome_when_it_is_at_rest(twin):
    twin.reset(0)
    put_stone(twin, intersection(*TARGET), height=0.01)
    run(twin, 0.3)
    assert twin.outcome().state == "running"
    run(twin, 2.0)
    assert twin.outcome().state != "running"


def test_a_stone_between_intersections_runs_until_the_horizon(twin):
    twin.reset(0)
    put_stone(twin, intersection(*TARGET) + [0, 0.42 * SPACING])
    run(twin, 0.9)
    assert twin.outcome().state == "running"
    skip_to_horizon(twin)
    assert outcome(twin) == "failure: the stone is not on its intersection at the end"


def test_a_stone_on_another_stone_is_not_on_the_board(twin):
    twin.reset(0)
    put_stone(twin, intersection(*BLACK[0]), height=2 * LENS[2])
    twin.restore(twin.snapshot())
    assert not twin.task.is_on_board()


def test_a_stone_that_is_not_placed_is_failure_at_the_horizon(twin):
    twin.reset(0)
    run(twin, 1.0)
    assert twin.outcome().state == "running"
    skip_to_horizon(twin)
    assert outcome(twin) == "failure: the stone does not lie on the board at the end"


def test_a_stone_that_is_still_held_is_not_success(twin):
    twin.reset(0)
    put_stone(twin, intersection(*TARGET))
    put_tool(twin, twin.data.body("board").xpos + [0, 0, THICK + LENS[2] + 0.0065], opening=0.021)
    run(twin, 1.0)
    assert twin.outcome().state == "running"
    skip_to_horizon(twin)
    held = "failure: the stone is on its intersection but not released and at rest at the end"
    assert outcome(twin) == held


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ([0.3, -0.8, -0.1], "the stone fell off the table"),
        ([0.6, 0.0, LENS[2]], "the stone left the workspace"),
    ],
)
def test_a_stone_that_is_lost_is_failure_at_once(twin, place, reason):
    twin.reset(0)
    put(twin, "stone", place)
    run(twin, 0.04)
    assert outcome(twin) == f"failure: {reason}"


def test_two_lines_around_the_target_are_free_for_the_fingers():
    lines = np.abs(np.array(BLACK + WHITE) - TARGET).max(axis=1)
    assert lines.min() >= 2


def test_board_and_stone_start_around_their_marks(twin):
    places = []
    for seed in range(30):
        twin.reset(seed)
        stone = twin.data.body("stone").xpos[:2] - (STONE.x, STONE.y)
        places.append([*stone, *(twin.data.body("board").xpos[:2] - (BOARD.x, BOARD.y))])
        assert not twin.task.is_on_board()
    reach = np.abs(places).max(axis=0)
    assert (reach[:2] < STONE.spread + 1e-3).all() and (reach[2:] <= BOARD.spread).all()
    assert (reach[:2] > 0.8 * STONE.spread).all() and (reach[2:] > 0.8 * BOARD.spread).all()
