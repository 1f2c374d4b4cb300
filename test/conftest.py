"""Fixtures of several test files: an untrained bundle that is made in seconds, real data."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("MUJOCO_GL", "egl")  # before any test imports mujoco


def pytest_collection_modifyitems(items):
    """Tests that start nodes run `alone`: other load would delay the nodes."""
    nodes = {path for path in {item.path for item in items} if "rclpy" in path.read_text()}
    for item in items:
        if item.path in nodes:
            item.add_marker("alone")


@pytest.fixture(scope="session", autouse=True)
def ros_home(tmp_path_factory):
    """Nodes that tests start write their call logs into a temporary folder."""
    before = os.environ.get("ROS_HOME")
    os.environ["ROS_HOME"] = str(tmp_path_factory.mktemp("ros"))
    yield
    os.environ.pop("ROS_HOME")
    if before is not None:
        os.environ["ROS_HOME"] = before


@pytest.fixture(scope="session")
def nac_data():
    """Folder of real demonstrations; tests that need it are skipped if NAC_DATA is not set."""
    if "NAC_DATA" not in os.environ:
        pytest.skip("NAC_DATA names no folder with real demonstrations")
    return Path(os.environ["NAC_DATA"])


@pytest.fixture(scope="session")
def sampling_bundle(tmp_path_factory):
    """Folder of models/default that acts by the tokens that it samples."""
    from shutil import copytree

    from nac_ros.core.config import config_dir
    from nac_ros.core.device import CPU
    from nac_ros.export import bundle, golden_vectors
    from nac_ros.export.manifest import read_manifest, write_manifest

    folder = copytree(
        config_dir().parent / "models" / "default", tmp_path_factory.mktemp("sampling") / "bundle"
    )
    path = folder / "policy" / "config.json"
    saved = json.loads(path.read_text())
    saved["config"]["acts_by"] = "tokens"
    path.write_text(json.dumps(saved))
    manifest = json.loads((folder / "manifest.json").read_text())
    facts = {key: value for key, value in manifest.items() if key not in ("files", "format")}
    write_manifest(folder, **facts)
    parts = bundle._load_parts(folder, read_manifest(folder), CPU)
    golden = folder / bundle.GOLDEN
    golden_vectors.write(parts.policy, parts.to_actions, parts.robot, golden)
    write_manifest(folder, **facts)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory):
    """Folder of a bundle for vx300s with random weights; made once per session."""
    import torch

    from nac_ros.export.bundle import write_bundle
    from nac_ros.policies.base import make_policy
    from nac_ros.robot.spec import load_robot
    from nac_ros.simulation.tasks import make_task
    from nac_ros.tokenizers import make_tokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    robot = load_robot("vx300s")
    # rotated_rvq reconstructs chunks before any training, so the untrained policy moves plausibly
    small = {"encoder_hidden": 32, "decoder_hidden": 32, "codebook_size": 64}
    tokenizer = make_tokenizer(
        "rotated_rvq",
        relative=robot.relative_mask.tolist(),
        names=robot.joint_names,
        units=robot.units,
        rate_hz=robot.action_rate_hz,
        **small,
    )
    steps = np.random.default_rng(0).standard_normal((300, 32, robot.action_dim))
    start = np.array(robot.home)
    start[~robot.relative_mask] /= 2  # home is the limit of the gripper, which is not relative
    actions = (start + 0.002 * steps.cumsum(1)).astype(np.float32)
    tokenizer.fit(actions, actions[:, 0])
    tasks = {task: make_task(task).prompt for task in ("marker", "weighing")}
    cameras = [camera.name for camera in robot.cameras]
    facts = {"cameras": cameras, "tasks": tasks, "state_dim": robot.action_dim}
    policy = make_policy(
        "ar_guided", "small", tokenizer, dim=32, n_layers=1, n_heads=2, vision_width=32, **facts
    )
    policy.fit_state(actions[:, 0])
    with torch.no_grad():
        offsets = policy.target_offsets.clip(max=31)
        policy.fit_targets(
            policy.prepare_targets(torch.from_numpy(actions[:, offsets]), actions[:, 0])
        )
    folder = tmp_path_factory.mktemp("bundle")
    return write_bundle(folder, policy.eval(), robot, {"made by": "tests"}, "a card")
