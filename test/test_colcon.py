"""A colcon workspace: `colcon build` installs files where `ros2 run|launch` look, and they run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nac_ros.cli.ros import NODES

pytest.importorskip("colcon_ros", reason="colcon-ros is not installed")

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "package.xml",
    "setup.py",
    "setup.cfg",
    "resource",
    "nac_ros",
    "launch",
    "config",
    "scripts",
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A built workspace with this package and, in place of the models, one manifest."""
    folder = tmp_path_factory.mktemp("ws")
    source = folder / "src/nac_ros"
    source.mkdir(parents=True)
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    (source / "models/default").mkdir(parents=True)
    shutil.copy(ROOT / "models/default/manifest.json", source / "models/default")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["colcon", "--log-base", "log", "build", "--base-paths", "src"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "install/nac_ros"


def test_everything_is_where_ros2_looks(workspace):
    share = workspace / "share/nac_ros"
    assert (workspace / "share/ament_index/resource_index/packages/nac_ros").is_file()
    assert (share / "package.xml").is_file() and (share / "models/default").is_dir()
    for folder in ("launch", "config"):
        wanted = {p.relative_to(ROOT) for p in (ROOT / folder).rglob("*") if p.is_file()}
        missing = {p for p in wanted if not (share / p).is_file() and p.suffix != ".pyc"}
        assert not missing
    for node in (*NODES, "nac"):
        assert os.access(workspace / "lib/nac_ros" / node, os.X_OK)


def test_an_installed_node_runs_and_finds_its_configuration(workspace):
    command = '. install/setup.sh && exec "$0"/lib/nac_ros/guard --ros-args -p robot:=nope'
    done = subprocess.run(
        ["sh", "-c", command, str(workspace)],
        cwd=workspace.parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "No module named 'rclpy'" in done.stderr:
        pytest.skip("ROS 2 is not installed")
    assert done.returncode == 2, done.stderr
    assert "unknown robot 'nope'; known are: vx300s" in done.stdout + done.stderr
