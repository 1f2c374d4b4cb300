"""Stacking two and three cubes: every way in which a trial can end."""

import numpy as np
import pytest
from twin_setup import SPEC, outcome, put, put_tool, run, to_the_horizon

from nac_ros.simulation.tasks.stacking import APART, HALF
from nac_ros.simulation.twin import Twin

EDGE = 2 * HALF
PLACE = np.array([0.32, 0.1])


@pytest.fixture(scope="module")
def two():
    return Twin(SPEC, "two_blocks", render=False)


@pytest.fixture(scope="module")
def three():
    return Twin(SPEC, "three_blocks", render=False)


def pile(twin, names, beside=0.0):
    """Piles the cubes in this order, each `beside` [m] further to the right."""
    for level, name in enumerate(names):
        put(twin, name, [PLACE[0], PLACE[1] + level * beside, HALF + level * EDGE])


@pytest.mark.parametrize("names", [("blue", "red"), ("red", "blue")])
def test_one_cube_at_rest_on_the_other_is_success_after_half_a_second(two, names):
    two.reset(0)
    pile(two, names)
    run(two, 0.45)
    assert two.outcome().state == "running"
    run(two, 0.3)
    assert outcome(two) == "success: the cubes are stacked and stable"


def test_three_cubes_in_any_order_are_success(three):
    three.reset(0)
    pile(three, ("yellow", "blue", "red"))
    run(three, 0.8)
    assert outcome(three) == "success: the cubes are stacked and stable"


def test_two_of_three_cubes_are_an_incomplete_stack(three):
    three.reset(0)
    put(three, "yellow", [0.2, -0.1, HALF])
    pile(three, ("blue", "red"))
    run(three, 0.8)
    assert three.outcome().state == "running"
    to_the_horizon(three)
    assert outcome(three) == "failure: the stack is incomplete at the end"


def test_cubes_side_by_side_are_no_stack(two):
    two.reset(0)
    put(two, "blue", [*PLACE, HALF])
    put(two, "red", [PLACE[0], PLACE[1] + EDGE, HALF])
    run(two, 0.8)
    to_the_horizon(two)
    assert outcome(two) == "failure: the stack is incomplete at the end"


def test_a_cube_still_held_on_the_other_is_not_success(two):
    two.reset(0)
    pile(two, ("blue", "red"))
    put_tool(two, [*PLACE, 3 * HALF], opening=0.04)
    run(two, 0.8)
    assert two.outcome().state == "running"
    to_the_horizon(two)
    assert outcome(two) == "failure: the stack is not released and stable at the end"


def test_a_cube_that_topples_from_the_stack_is_failure_at_once(two):
    two.reset(0)
    pile(two, ("blue", "red"), beside=1.3 * HALF)
    run(two, 0.5)
    assert outcome(two) == "failure: the red cube fell"


def test_a_cube_let_go_from_5_mm_has_not_fallen(two):
    two.reset(0)
    put(two, "blue", [*PLACE, HALF])
    put(two, "red", [*PLACE, 3 * HALF + 0.005])
    run(two, 0.9)
    assert two.outcome().state == "success"


def test_a_cube_off_the_table_is_failure(two):
    two.reset(0)
    put(two, "red", [0.3, -0.7, -0.1])
    run(two, 0.03)
    assert outcome(two) == "failure: the red cube fell off the table"


def test_a_cube_out_of_the_arms_reach_is_failure(two):
    two.reset(0)
    put(two, "blue", [0.6, 0.0, HALF])
    run(two, 0.03)
    assert outcome(two) == "failure: the blue cube left the workspace"


@pytest.mark.parametrize("task", ["two", "three"])
def test_cubes_start_around_their_marks_with_room_for_fingers_between(task, request):
    twin = request.getfixturevalue(task)
    starts = {start.name: start for start in twin.task.start_poses}
    offsets = []
    for seed in range(40):
        twin.reset(seed)
        places = [twin.data.body(name).xpos[:2].copy() for name in starts]
        apart = [np.linalg.norm(a - b) for i, a in enumerate(places) for b in places[:i]]
        assert min(apart) > APART - 1e-3
        offsets.append([p - (s.x, s.y) for p, s in zip(places, starts.values())])
    spreads = np.array([start.spread for start in starts.values()])
    assert (np.abs(offsets).max(axis=(0, 2)) < spreads + 1e-3).all()
    assert (np.abs(offsets).max(axis=(0, 2)) > 0.7 * spreads).all()
