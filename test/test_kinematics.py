"""Forward kinematics against MuJoCo, and collision distances against sampled points."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nac_ros.core.config import build
from nac_ros.core.errors import ConfigError
from nac_ros.robot.geometry import BodySpec, BoxSpec, LinkSpec, PointSpec
from nac_ros.robot.kinematics import CollisionModel, _segment_distances
from nac_ros.robot.spec import load_robot
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.twin import Twin

SPEC = load_robot("vx300s")
COLLISION = CollisionModel(SPEC, SPEC.body)
SLIDE = {"joint": "gripper", "parent": "waist", "xyz": (0.1, 0.0, 0.0), "axis": (1.0, 0.0, 0.0)}
SLIDE |= {"kind": "prismatic"}
ROD = {"name": "rod", "link": "base", "start": (0.0, 0.0, 0.0), "end": (0.0, 0.0, 0.1)}
LINK = {"joint": "waist", "parent": "base", "xyz": (0.0, 0.0, 0.1), "axis": (0.0, 0.0, 1.0)}


@pytest.fixture(scope="module")
def twin():
    return Twin(SPEC, "weighing", render=False)


def poses(n, seed=0):
    share = np.random.default_rng(seed).uniform(0, 1, (n, SPEC.action_dim))
    return SPEC.position_low + share * (SPEC.position_high - SPEC.position_low)


def test_the_tool_position_equals_that_of_mujoco(twin):
    for pose, places in zip(poses(100), COLLISION.points(poses(100))):
        twin.arm.set_positions(pose)
        mujoco.mj_forward(twin.model, twin.data)
        np.testing.assert_allclose(places[0], twin.data.site("tool").xpos, atol=2e-5)


def test_every_checked_mesh_is_inside_its_capsules(twin):
    """Vertices of forearm, gripper and fingers, open, are in a capsule or within 3 cm of one."""
    pose = poses(1, seed=4)
    pose[0, 6] = SPEC.position_high[6]
    twin.arm.set_positions(pose[0])
    mujoco.mj_forward(twin.model, twin.data)
    frames, body, model = COLLISION.frames(pose)[0], SPEC.body, twin.model
    order = {"base": 0} | {link.joint: i + 1 for i, link in enumerate(body.links)}
    rods = []
    for capsule in body.capsules:
        frame = frames[order[capsule.link]]
        ends = np.array([capsule.start, capsule.end]) @ frame[:3, :3].T + frame[:3, 3]
        rods.append((ends, capsule.radius))
    for name in (
        "4_upper_forearm",
        "5_lower_forearm",
        "7_gripper",
        "9_gripper_bar",
        "10_left_gripper_finger",
        "10_right_gripper_finger",
    ):
        geom = model.geom(f"vx300s_left/{name}").id
        mesh = model.geom_dataid[geom]
        first = model.mesh_vertadr[mesh]
        vertices = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
        vertices = vertices @ twin.data.geom_xmat[geom].reshape(3, 3).T + twin.data.geom_xpos[geom]
        outside = np.full(len(vertices), np.inf)
        for ends, radius in rods:
            points = np.repeat(vertices[:, None], 2, 1)
            rod = np.repeat(ends[None], len(vertices), 0)
            outside = np.minimum(outside, _segment_distances(points, rod) - radius)
        assert outside.max() < 0.03, f"{name} sticks out by {outside.max():.3f} m"


def test_a_pose_with_the_gripper_in_the_base_is_a_deep_collision_and_home_is_none():
    depth, (breach,) = COLLISION.worst_violation(SPEC.home[None])
    assert depth[0] < -0.05 and breach.depth == depth[0]
    folded = SPEC.home.copy()
    folded[1:5] = [-1.8, 1.45, 0.0, 2.03]
    depth, (breach,) = COLLISION.worst_violation(folded[None])
    assert breach.reason == "self_collision" and depth[0] > 0.02
    assert "fingers" in breach.text and "base" in breach.text
    low = SPEC.home.copy()
    low[1] = 0.9
    depth, (breach,) = COLLISION.worst_violation(np.stack([SPEC.home, low]))
    assert breach.reason == "workspace" and depth[1] > 0.04 > depth[0]
    assert "the tool" in breach.text and "below the workspace in z" in breach.text


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_segment_distances_are_the_smallest_over_sampled_points(seed):
    first, second = np.random.default_rng(seed).uniform(-1, 1, (2, 2, 3))
    shares = np.linspace(0, 1, 201)[:, None]
    rows = [ends[0] + shares * (ends[1] - ends[0]) for ends in (first, second)]
    sampled = np.linalg.norm(rows[0][:, None] - rows[1], axis=-1).min()
    exact = float(_segment_distances(first[None], second[None])[0])
    assert exact <= sampled + 1e-12 and sampled - exact < 0.02


def test_segments_that_are_points_or_parallel_have_correct_distances():
    point = np.zeros((2, 3))
    rod = np.array([[1.0, -1, 0], [1, 1, 0]])
    beside = rod + [0.5, 0.25, 0]
    pairs = np.stack([np.stack(pair) for pair in ((point, rod), (point, point), (rod, beside))])
    np.testing.assert_allclose(_segment_distances(pairs[:, 0], pairs[:, 1]), [1.0, 0.0, 0.5])


def test_rotated_frames_and_prismatic_joints_follow_the_urdf_convention():
    links = (
        LinkSpec(**LINK | {"rpy": (0.0, 0.0, np.pi / 2)}),
        LinkSpec(**SLIDE),
    )
    points = (PointSpec(name="tip", link="gripper", xyz=(0.0, 0.0, 0.0)),)
    box = BoxSpec(low=(-1.0,) * 3, high=(1.0,) * 3)
    shape = CollisionModel(SPEC, BodySpec(links=links, points=points, workspace=box))
    pose = np.zeros((1, 7))
    pose[0, 6] = 0.05
    np.testing.assert_allclose(shape.points(pose)[0, 0], [0, 0.15, 0.1], atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"links": [LINK | {"parent": "elbow"}]}, "'elbow', which is not one of: base"),
        ({"links": [LINK | {"axis": (0.0, 0.0, 2.0)}]}, "not of length 1"),
        ({"pairs": [("hand", "base")]}, "'hand', which is not one of: rod"),
        (
            {"workspace": {"low": (0.0,) * 3, "high": (1.0,) * 3}},
            "points and workspace are needed together",
        ),
        ({"capsules": [ROD | {"radius": 0.0}]}, r"capsules\[0\].radius must be in 0.001 .. 2 m"),
    ],
)
def test_an_invalid_body_is_rejected(change, message):
    body = {"links": [LINK], "capsules": [ROD | {"radius": 0.1}], **change}
    with pytest.raises(ConfigError, match=message):
        build(BodySpec, body)


def test_a_body_of_another_robot_is_rejected():
    other = BodySpec(links=(LinkSpec(**LINK | {"joint": "hip"}),))
    with pytest.raises(ConfigError, match="no joint 'hip' for a link; it has: waist"):
        replace(SPEC, body=other)
