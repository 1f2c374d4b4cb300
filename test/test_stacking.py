"""Stacking two and three cubes: every outcome of a trial."""

import numpy as np
import pytest
from twin_setup import SPEC, outcome, put, put_tool, run, skip_to_horizon

from nac_ros.simulation.tasks.stacking import APART, HALF
from nac_ros.simulation.twin import Twin

EDGE = 2 * HALF
POSITION = np.array([0.32, 0.1])


@pytest.fixture(scope="module")
def two():
    return Twin(SPEC, "two_blocks", render=False)


@pytest.fixture(scope="module")
def three():
    return Twin(SPEC, "three_blocks", render=False)


def pile(twin, names, shift=0.0):
    """Piles the cubes in this order, each `shift` [m] further to the left than the last."""
    for level, name in enumerate(names):
        put(twin, name, [POSITION[0], POSITION[1] + level * shift, HALF + level * EDGE])


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
    skip_to_horizon(three)
    assert outcome(three) == "failure: the stack is incomplete at the end"


def test_cubes_side_by_side_are_not_a_stack(two):
    two.reset(0)
    put(two, "blue", [*POSITION, HALF])
    put(two, "red", [POSITION[0], POSITION[1] + EDGE, HALF])
    run(two, 0.8)
    skip_to_horizon(two)
    assert outcome(two) == "failure: the stack is incomplete at the end"


def test_a_cube_still_held_on_the_other_is_not_success(two):
    two.reset(0)
    pile(two, ("blue", "red"))
    put_tool(two, [*POSITION, 3 * HALF], opening=0.04)
    run(two, 0.8)
    assert two.outcome().state == "running"
    skip_to_horizon(two)
    assert outcome(two) == "failure: the stack is not released and stable at the end"


def test_a_cube_that_topples_from_the_stack_is_failure_at_once(two):
    two.reset(0)
    pile(two, ("blue", "red"), shift=1.3 * HALF)
    run(two, 0.5)
    assert outcome(two) == "failure: the red cube fell"


def test_a_cube_released_at_5_mm_has_not_fallen(two):
    two.reset(0)
    put(two, "blue", [*POSITION, HALF])
    put(two, "red", [*POSITION, 3 * HALF + 0.005])
    run(two, 0.9)
    assert two.outcome().state == "success"


def test_a_cube_off_the_table_is_failure(two):
    two.reset(0)
    put(two, "red", [0.3, -0.7, -0.1])
    run(two, 0.03)
    assert outcome(two) == "failure: the red cube fell off the table"


def test_a_cube_outside_the_workspace_is_failure(two):
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
