"""The trajectory controller: which trajectories it rejects, how it interpolates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nac_ros.core.types import Trajectory, TrajectoryPoint
from nac_ros.simulation.joint_trajectory_controller import (
    JointTrajectoryController,
    TrajectoryRejected,
)

NAMES = ("a", "b", "c")


def point(positions, at, velocities=None):
    given_velocities = None if velocities is None else np.array(velocities, float)
    return TrajectoryPoint(np.array(positions, float), at, given_velocities)


def controller(start=(0.0, 0.0, 0.0), now=0.0):
    made = JointTrajectoryController(NAMES)
    made.reset(np.array(start), now)
    return made


REJECTED = {
    "empty trajectory": Trajectory(NAMES, []),
    "joint mismatch": Trajectory(("a", "b"), [point([0, 0], 1)]),
    "joint mismatch: .*d": Trajectory(("a", "b", "d"), [point([0, 0, 0], 1)]),
    "must increase": Trajectory(NAMES, [point([0, 0, 0], 1), point([0, 0, 0], 1)]),
    "must increase, got": Trajectory(NAMES, [point([0, 0, 0], -1)]),
    "velocities must be zero": Trajectory(NAMES, [point([0, 0, 0], 1, [0, 0.1, 0])]),
    "ended 2.000 s ago": Trajectory(NAMES, [point([0, 0, 0], 1)], stamp=7.0),
    "positions are not finite": Trajectory(NAMES, [point([0, np.nan, 0], 1)]),
    "velocities are not finite": Trajectory(NAMES, [point([0, 0, 0], 1, [0, np.inf, 0])]),
    "times are not finite": Trajectory(NAMES, [point([0, 0, 0], np.nan)]),
    "wanted 3 positions": Trajectory(NAMES, [point([0, 0], 1)]),
}


@pytest.mark.parametrize("reason", REJECTED)
def test_a_bad_trajectory_is_rejected_with_its_reason(reason):
    arm = controller(now=10.0)
    with pytest.raises(TrajectoryRejected, match=reason):
        arm.accept(REJECTED[reason], now=10.0)


def test_a_rejected_trajectory_leaves_the_current_one_in_place():
    arm = controller()
    arm.accept(Trajectory(NAMES, [point([1, 1, 1], 1)]), now=0.0)
    with pytest.raises(TrajectoryRejected):
        arm.accept(Trajectory(NAMES, []), now=0.5)
    np.testing.assert_allclose(arm.sample(1.0).positions[0], [1, 1, 1])


def test_joints_may_come_in_any_order():
    arm = controller()
    arm.accept(Trajectory(("c", "a", "b"), [point([3, 1, 2], 1)]), now=0.0)
    np.testing.assert_allclose(arm.sample(1.0).positions[0], [1, 2, 3])


def test_positions_alone_are_joined_by_straight_lines():
    arm = controller()
    arm.accept(Trajectory(NAMES, [point([1, 2, 3], 1), point([0, 0, 0], 3)]), now=0.0)
    desired = arm.sample(np.array([0.5, 2.0]))
    np.testing.assert_allclose(desired.positions, [[0.5, 1, 1.5], [0.5, 1, 1.5]])
    np.testing.assert_allclose(desired.velocities, [[1, 2, 3], [-0.5, -1, -1.5]])


def test_the_last_point_is_held():
    arm = controller()
    arm.accept(Trajectory(NAMES, [point([1, 2, 3], 1)]), now=0.0)
    desired = arm.sample(np.array([1.0, 100.0]))
    np.testing.assert_allclose(desired.positions, [[1, 2, 3]] * 2)
    np.testing.assert_allclose(desired.velocities, 0)


def test_a_new_trajectory_starts_at_the_present_set_point():
    arm = controller()
    arm.accept(Trajectory(NAMES, [point([1, 1, 1], 1)]), now=0.0)
    arm.accept(Trajectory(NAMES, [point([0, 0, 0], 0.5)]), now=0.5)
    desired = arm.sample(np.array([0.5, 0.75, 1.0]))
    np.testing.assert_allclose(desired.positions[:, 0], [0.5, 0.25, 0.0])


def test_hold_stops_at_the_present_set_point():
    arm = controller()
    arm.accept(Trajectory(NAMES, [point([1, 1, 1], 1)]), now=0.0)
    arm.hold(0.25)
    np.testing.assert_allclose(arm.sample(9.0).positions[0], 0.25)


def test_a_stamp_in_the_future_delays_the_points_and_a_past_one_means_now():
    late, early = controller(now=10.0), controller(now=10.0)
    late.accept(Trajectory(NAMES, [point([1, 1, 1], 1)], stamp=11.0), now=10.0)
    early.accept(Trajectory(NAMES, [point([1, 1, 1], 1)], stamp=9.5), now=10.0)
    assert late.sample(11.0).positions[0, 0] == pytest.approx(0.5)
    assert early.sample(10.5).positions[0, 0] == pytest.approx(0.5)


numbers = st.floats(-3, 3)
rows = st.lists(numbers, min_size=3, max_size=3)


@st.composite
def smooth_trajectories(draw):
    gaps = draw(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6))
    times = np.cumsum(gaps)
    velocities = [draw(rows) for _ in times[:-1]] + [[0, 0, 0]]
    return [point(draw(rows), t, v) for t, v in zip(times, velocities, strict=True)]


@settings(max_examples=60, deadline=None)
@given(smooth_trajectories(), rows)
def test_a_cubic_passes_every_point_with_its_velocity(points, start):
    arm = controller(start)
    arm.accept(Trajectory(NAMES, points), now=0.0)
    np.testing.assert_allclose(arm.sample(0.0).positions[0], start, atol=1e-9)
    np.testing.assert_allclose(arm.sample(0.0).velocities[0], 0, atol=1e-9)
    for knot in points:
        desired = arm.sample(knot.time_from_start)
        np.testing.assert_allclose(desired.positions[0], knot.positions, atol=1e-9)
        np.testing.assert_allclose(desired.velocities[0], knot.velocities, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(smooth_trajectories())
def test_velocity_is_the_derivative_of_position(points):
    arm = controller()
    arm.accept(Trajectory(NAMES, points), now=0.0)
    knots = np.array([0.0] + [p.time_from_start for p in points])
    middles, step = (knots[:-1] + knots[1:]) / 2, 1e-6
    rise = arm.sample(middles + step).positions - arm.sample(middles - step).positions
    np.testing.assert_allclose(arm.sample(middles).velocities, rise / (2 * step), atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(smooth_trajectories(), st.floats(0, 1))
def test_replacing_a_trajectory_never_jumps(points, share):
    arm = controller()
    arm.accept(Trajectory(NAMES, points), now=0.0)
    now = share * points[-1].time_from_start
    before = arm.sample(now)
    arm.accept(Trajectory(NAMES, [point([0, 0, 0], 0.5, [0, 0, 0])]), now)
    after = arm.sample(now)
    np.testing.assert_allclose(after.positions, before.positions, atol=1e-9)
    np.testing.assert_allclose(after.velocities, before.velocities, atol=1e-9)
