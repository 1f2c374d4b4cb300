"""The scripted experts: success from any state, bounded motion, aligned recordings."""

import numpy as np
import pytest
from twin_setup import SPEC, put

from nac_ros.simulation.expert import (
    demonstrate,
    expert_setpoints,
    make_expert_motion,
    step_to_setpoint,
)
from nac_ros.simulation.seeds import scene_seed
from nac_ros.simulation.tasks import list_tasks
from nac_ros.simulation.twin import Twin

BUNDLED = ("marker", "weighing")  # of models/default


@pytest.fixture(scope="module")
def twins():
    return {task: Twin(SPEC, task, render=False) for task in list_tasks()}


def run_expert(twin, rng, limit=700):
    for setpoint, _ in zip(expert_setpoints(twin, rng), range(limit), strict=False):
        step_to_setpoint(twin, setpoint)
    return twin.outcome().state


def move_to(twin, target, seconds=1.5):
    """Moves the arm's set-point to `target` without asking the expert."""
    start = twin.setpoint()
    steps = round(seconds * SPEC.action_rate_hz)
    for k in range(steps):
        step_to_setpoint(twin, start + (k + 1) / steps * (target - start))


@pytest.mark.parametrize("disturbed_share", [0.0, 1.0])
@pytest.mark.parametrize("task", list_tasks())
def test_experts_succeed_with_bounded_velocity_and_acceleration(twins, task, disturbed_share):
    for trial in range(8 if task in BUNDLED else 2):
        scene = scene_seed(task, 5, trial)
        demo = demonstrate(twins[task], scene, np.random.default_rng([scene, 1]), disturbed_share)
        assert demo.success, f"trial {trial}: {demo.reason}"
        velocity = np.diff(demo.actions[:, :-1], axis=0) * SPEC.action_rate_hz
        acceleration = np.diff(velocity, axis=0) * SPEC.action_rate_hz
        assert np.abs(velocity).max() < 1.5
        assert np.abs(acceleration).max() < 10
        assert (demo.actions >= SPEC.position_low - 1e-6).all()
        assert (demo.actions <= SPEC.position_high + 1e-6).all()


@pytest.mark.parametrize("task", list_tasks())
def test_demonstrations_end_at_rest(twins, task):
    scene = scene_seed(task, 6, 0)
    demo = demonstrate(twins[task], scene, np.random.default_rng(0))
    assert 80 <= len(demo.actions) <= (300 if task in BUNDLED else 700)
    np.testing.assert_allclose(
        demo.actions[-10:], demo.actions[-10:-9].repeat(10, axis=0), atol=1e-6
    )


def test_an_action_is_due_one_period_after_its_frame():
    twin = Twin(SPEC, "weighing")
    demo = demonstrate(twin, 3, np.random.default_rng(3))
    frames = len(demo.actions)
    np.testing.assert_allclose(demo.stamps, np.arange(frames) / SPEC.action_rate_hz, atol=2e-3)
    assert {len(images) for images in demo.images.values()} == {frames}
    assert demo.actions.dtype == demo.proprio.dtype == np.float32
    late = np.abs(demo.proprio[2:, :6] - demo.actions[:-2, :6]).mean()
    due = np.abs(demo.proprio[1:, :6] - demo.actions[:-1, :6]).mean()
    early = np.abs(demo.proprio[:, :6] - demo.actions[:, :6]).mean()
    assert due < early
    assert due < 0.02 and late < 0.02
    twin.close()


def test_a_demonstration_is_decided_by_its_scene_and_generator(twins):
    first = demonstrate(twins["marker"], 11, np.random.default_rng(2), disturbed_share=1.0)
    second = demonstrate(twins["marker"], 11, np.random.default_rng(2), disturbed_share=1.0)
    other = demonstrate(twins["marker"], 11, np.random.default_rng(3), disturbed_share=1.0)
    np.testing.assert_array_equal(first.actions, second.actions)
    assert first.actions.shape != other.actions.shape or (first.actions != other.actions).any()


def test_a_disturbed_demonstration_begins_after_the_disturbance(twins):
    demo = demonstrate(twins["weighing"], 4, np.random.default_rng(1), disturbed_share=1.0)
    assert demo.stamps[0] > 0.25


@pytest.mark.parametrize("task", list_tasks())
def test_experts_succeed_from_unusual_poses_with_a_closed_gripper(twins, task):
    twin, rng = twins[task], np.random.default_rng(7)
    for trial in range(3 if task in BUNDLED else 1):
        twin.reset(trial)
        pose = SPEC.home.copy()
        pose[:6] += rng.uniform(-0.35, 0.35, 6) * (1, 0.3, 0.3, 1, 0.6, 1)
        pose[-1] = rng.uniform(0, 0.02)
        move_to(twin, pose)
        assert run_expert(twin, rng) == "success"


def test_the_expert_recovers_when_hovering_next_to_the_marker(twins):
    twin, rng = twins["marker"], np.random.default_rng(8)
    for trial in range(3):
        twin.reset(trial)
        position = twin.data.body("marker").xpos + [0.02, 0.03, 0.05]
        joints = make_expert_motion(twin, rng).kinematics.solve(position, 0.3)
        move_to(twin, np.append(joints, 0.03))
        assert run_expert(twin, rng) == "success"


def test_the_expert_repeats_a_missed_grasp(twins):
    twin, rng = twins["marker"], np.random.default_rng(9)
    twin.reset(1)
    moved = False
    for setpoint in expert_setpoints(twin, rng):
        step_to_setpoint(twin, setpoint)
        if not moved and twin.arm.tool_position()[2] < 0.014:
            put(twin, "marker", [0.36, -0.1, 0.01], 0.4)
            moved = True
    assert moved
    assert twin.outcome().state == "success"


def test_the_expert_picks_a_dropped_marker_again(twins):
    twin, rng = twins["marker"], np.random.default_rng(10)
    twin.reset(1)
    dropped = False
    for setpoint in expert_setpoints(twin, rng):
        step_to_setpoint(twin, setpoint)
        if not dropped and twin.data.body("marker").xpos[2] > 0.08:
            put(twin, "marker", [0.3, -0.05, 0.01], 0.4)
            dropped = True
    assert dropped
    assert twin.outcome().state == "success"


def test_near_positions_have_near_joint_angles(twins):
    kinematics = make_expert_motion(twins["marker"], np.random.default_rng(0)).kinematics
    for x in np.linspace(0.24, 0.42, 5):
        for y in np.linspace(-0.14, 0.18, 5):
            here = kinematics.solve(np.array([x, y, 0.05]), 0.2)
            near = kinematics.solve(np.array([x + 0.001, y, 0.05]), 0.2)
            assert np.abs(here - near).max() < 0.02
            assert abs(here[-1]) <= np.pi / 2
            assert np.linalg.norm(kinematics.tool_position(here) - [x, y, 0.05]) < 1e-3
            assert kinematics.tool_yaw(here) == pytest.approx(0.2, abs=0.01)
