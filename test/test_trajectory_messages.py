"""Trajectory messages are exact to the nanosecond: a controller's splines stay in the limits."""

import numpy as np
import pytest
from robots import random_robot
from test_motion_limits import EPOCH_NS, Sequence

from nac_ros.control.trajectory_generator import SEGMENT_S

pytest.importorskip("rclpy")

from nac_ros.ros import messages


def seconds(duration):
    return duration.sec + 1e-9 * duration.nanosec


def states(points):
    parts = ([getattr(p, name) for p in points] for name in PARTS)
    return [np.array(part) for part in parts]


PARTS = ("positions", "velocities", "accelerations")


def quintics(times, positions, velocities, accelerations):
    """Accelerations and jerks `[S, 9, D]` at nine times of each quintic between two points."""
    h = np.diff(times)[:, None]
    a, change = accelerations, np.diff(positions, axis=0)
    lacking = (change - velocities[:-1] * h - a[:-1] * h * h / 2) / h**3
    turning = (np.diff(velocities, axis=0) - a[:-1] * h) / h**2
    bending = np.diff(a, axis=0) / h
    third = 10 * lacking - 4 * turning + bending / 2
    fourth = (-15 * lacking + 7 * turning - bending) / h
    fifth = (6 * lacking - 3 * turning + bending / 2) / h**2
    u = np.linspace(0, 1, 9)[None, :, None] * h[:, None]
    c, d, e = third[:, None], fourth[:, None], fifth[:, None]
    steep = a[:-1, None] + 6 * c * u + 12 * d * u**2 + 20 * e * u**3
    return steep, 6 * c + 24 * d * u + 60 * e * u**2


@pytest.mark.parametrize("seed", range(12))
def test_a_controller_spline_through_a_message_with_a_present_stamp_stays_inside_the_limits(seed):
    spec = random_robot(np.random.default_rng([seed, 1]))
    sent = [motion for motion in Sequence(spec, seed).run().sent if len(motion.times) > 1]
    columns = range(spec.action_dim)
    for motion in sent:
        message = messages.to_trajectory_message(motion, spec.joint_names, columns, None, EPOCH_NS)
        times = np.array([seconds(point.time_from_start) for point in message.points])
        assert np.diff(times).min() >= SEGMENT_S - 2e-9
        steep, sharp = quintics(times, *states(message.points))
        assert (np.abs(steep) <= 1.001 * spec.acceleration_limit).all()
        assert (np.abs(sharp) <= 1.001 * spec.jerk_limit).all()


def test_points_are_due_at_the_nearest_nanosecond():
    spec = random_robot(np.random.default_rng([3, 1]))
    motion = max(Sequence(spec, 3).run().sent, key=lambda motion: len(motion.times))
    names, columns = spec.joint_names, range(spec.action_dim)
    for sent in (None, motion.stamp - 0.03):
        message = messages.to_trajectory_message(motion, names, columns, sent, EPOCH_NS)
        begin = message.header.stamp.sec * messages.NANO + message.header.stamp.nanosec
        begin = begin - EPOCH_NS if sent is None else round(sent * messages.NANO)
        for point, t in zip(message.points, motion.stamp + motion.times):
            due = point.time_from_start.sec * messages.NANO + point.time_from_start.nanosec
            assert abs(begin + due - t * messages.NANO) <= 1.0
