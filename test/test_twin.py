"""The twin: robot interface, seeded scenes, controller, cameras and snapshots."""

import numpy as np
import pytest

from nac_ros.core.errors import UnknownName
from nac_ros.core.types import JointTrajectory, Trajectory, TrajectoryPoint
from nac_ros.robot.spec import load_robot
from nac_ros.simulation.seeds import scene_seed
from nac_ros.simulation.servo_droop import ServoDroop
from nac_ros.simulation.twin import Twin

SPEC = load_robot("vx300s")


@pytest.fixture(scope="module")
def twin():
    made = Twin(SPEC, "marker")
    yield made
    made.close()


def test_scene_seeds_are_fixed_and_differ_by_task_seed_and_trial():
    assert scene_seed("marker", 0, 0) == 2818824981832384032
    seeds = {scene_seed(t, s, i) for t in ("a", "b") for s in range(5) for i in range(50)}
    assert len(seeds) == 500
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_gives_the_same_scene_after_any_other_trial(twin):
    twin.reset(7)
    first, image = twin.snapshot(), twin.render("scene", 96, 96)
    twin.reset(8)
    twin.step_until(0.5)
    twin.reset(7)
    np.testing.assert_array_equal(twin.snapshot().physics, first.physics)
    np.testing.assert_array_equal(twin.render("scene", 96, 96), image)
    assert twin.now() == 0.0


def test_start_poses_vary_within_a_tenth_of_a_radian_and_touch_nothing(twin):
    starts = []
    for seed in range(25):
        twin.reset(seed)
        assert not twin.arm.collides()
        starts.append(twin.setpoint())
    offsets = np.array(starts)[:, :-1] - SPEC.home[:-1]
    assert np.abs(offsets).max() <= 0.1 + 1e-9
    assert offsets.std(axis=0).min() > 0.03


def test_a_robot_state_has_the_sizes_of_the_robot_file(twin):
    twin.reset(1)
    twin.step_until(0.1)
    reading = twin.read()
    assert reading.stamp == pytest.approx(0.1)
    assert reading.proprio.shape == (SPEC.action_dim,)
    assert reading.proprio.dtype == np.float32
    for camera in SPEC.cameras:
        stamp, image = reading.images[camera.name]
        assert stamp == reading.stamp
        assert image.shape == (camera.height, camera.width, 3)
        assert image.dtype == np.uint8
        assert image.std() > 10


def test_the_arm_ends_a_trajectory_within_2_mm_of_its_target(twin):
    twin.reset(2)
    target = SPEC.home.copy()
    target[:2] += (0.2, 0.1)
    target[-1] = 0.02
    twin.send_trajectory(Trajectory(SPEC.joint_names, [TrajectoryPoint(target, 1.0)]))
    twin.step_until(1.5)
    np.testing.assert_allclose(twin.setpoint(), target, atol=1e-9)
    reached = twin.arm.tool_position().copy()
    twin.arm.set_positions(target)
    twin.restore(twin.snapshot())
    assert np.linalg.norm(twin.arm.tool_position() - reached) < 2e-3


def test_a_trajectory_is_executed_at_its_stamps(twin):
    twin.reset(2)
    start, rest = twin.setpoint(), np.zeros((2, SPEC.action_dim))
    row = np.stack([start, start + 0.01])
    twin.write(JointTrajectory(0.1, np.array([0.0, 0.2]), row, rest, rest))
    twin.step_until(0.1)
    np.testing.assert_allclose(twin.setpoint(), start, atol=1e-9)
    twin.step_until(0.2)
    np.testing.assert_allclose(twin.setpoint(), start + 0.005, atol=1e-9)
    twin.step_until(0.4)
    np.testing.assert_allclose(twin.setpoint(), start + 0.01, atol=1e-9)


def test_hold_stops_at_the_present_set_point(twin):
    twin.reset(2)
    start = twin.setpoint()
    twin.send_trajectory(Trajectory(SPEC.joint_names, [TrajectoryPoint(start + 0.1, 1.0)]))
    twin.step_until(0.5)
    twin.hold()
    twin.step_until(1.0)
    np.testing.assert_allclose(twin.setpoint(), start + 0.05, atol=1e-9)


def test_time_never_moves_backward(twin):
    twin.reset(2)
    twin.step_until(0.2)
    twin.step_until(0.1)
    assert twin.now() == pytest.approx(0.2)


def test_a_restored_snapshot_renders_the_same_image(twin):
    twin.reset(3)
    snapshot, image = twin.snapshot(), twin.render("spectator", 160, 120)
    target = SPEC.home
    twin.send_trajectory(Trajectory(SPEC.joint_names, [TrajectoryPoint(target + 0.05, 0.3)]))
    twin.step_until(0.5)
    assert (twin.render("spectator", 160, 120) != image).any()
    twin.restore(snapshot)
    np.testing.assert_array_equal(twin.render("spectator", 160, 120), image)


def test_a_twin_without_rendering_reads_no_images():
    assert Twin(SPEC, "weighing", render=False).read().images == {}


def test_an_unknown_task_is_rejected_with_the_known_ones():
    with pytest.raises(UnknownName, match="grapes, marker, place_stone"):
        Twin(SPEC, "juggling")


def test_a_drooping_arm_rests_at_a_distance_from_its_set_points():
    droop = ServoDroop(offset_rad=0.01, compliance_rad_per_nm=0.008)
    twin = Twin(SPEC, "marker", render=False, droop=droop)
    droop_rad = (twin.proprio() - twin.setpoint())[:-1]
    twin.step_until(1.0)
    np.testing.assert_allclose((twin.proprio() - twin.setpoint())[:-1], droop_rad, atol=1e-3)
    np.testing.assert_allclose(droop_rad[[0, 3, 5]], 0.01, atol=1.5e-3)  # not loaded by gravity
    assert droop_rad[2] == pytest.approx(0.01 + 0.008 * 2.5, abs=0.003), "the elbow is loaded"
    assert twin.proprio()[-1] == pytest.approx(twin.setpoint()[-1], abs=1e-3)
