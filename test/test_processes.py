"""Processes leave no shared memory behind, also if they are killed."""

import os
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from nac_ros.ros.node_graph import NodeProcess
from nac_ros.ros.processes import ProcessGroup, remove_stale_shared_memory

SHARED = Path("/dev/shm")


def segments():
    """Names of the middleware's shared memory, without ports, which several processes share."""
    names = {path.name for path in SHARED.glob("fastdds_*")}
    return {name for name in names if not name.startswith("fastdds_port")}


def started(folder, domain):
    """A guard on its own domain, and its shared memory."""
    before = segments()
    variables = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    processes = ProcessGroup(folder, variables)
    processes.start(NodeProcess(name="guard", parameters={"call_log": "none"}))
    deadline = time.monotonic() + 30
    while len(segments() - before) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    return processes, segments() - before


def test_shared_memory_of_a_killed_node_is_removed_and_that_of_a_running_one_stays(tmp_path):
    domain = 10 + os.getpid() % 80
    running, kept = started(tmp_path / "running", domain)
    killed, left = started(tmp_path / "killed", domain + 1)
    try:
        assert len(kept) >= 2 and len(left) >= 2, "the middleware uses shared memory here"
        remove_stale_shared_memory()
        assert kept | left <= segments(), "both run"
        ports = set(SHARED.glob("fastdds_port*"))
        assert ports
        killed.kill("guard")
        assert not left & segments() and kept <= segments()
        assert running.is_running("guard") and not killed.is_running("guard")
        assert ports <= set(SHARED.glob("fastdds_port*")), "others may still send to them"
    finally:
        running.end()
        killed.end()
