"""The access-control policy matches the graph; only the guard may command the arm."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from security_audit import allowed, forbidden

from nac_ros.core.config import config_dir
from nac_ros.robot.spec import list_robots, load_robot
from nac_ros.ros.node_graph import policy_graph, twin_graph
from nac_ros.ros.security_policy import ENCLAVE, main, node_access, policy_xml

ROOT = config_dir().parent
SPEC = load_robot("vx300s")


@pytest.mark.parametrize("robot", list_robots())
def test_only_the_guard_may_command_the_arm_and_only_its_source_each_input(robot):
    spec = load_robot(robot)
    publish = allowed(policy_xml(spec), "publish")

    def publishers_of(topic):
        return {node for node, topics in publish.items() if topic in topics}

    for group in spec.groups:
        assert publishers_of(group.topic) == {"guard"}
    assert publishers_of("guard/command") == {"guard"}
    assert publishers_of("policy/chunk") == publishers_of("policy/heartbeat") == {"policy"}
    assert publishers_of("teleop/command") == {"teleop"}
    assert publishers_of("guard/mode") == {"operator", "teleop", "trials"}
    assert publishers_of(spec.joint_states_topic) == {"twin", "driver"}
    request = allowed(policy_xml(spec), "request")
    resets = {node for node, names in request.items() if "guard/reset" in names}
    assert resets == {"operator", "trials"}


def test_a_robot_with_other_topics_gets_its_own_policy():
    moved = replace(SPEC.groups[0], topic="scaled_controller/joint_trajectory")
    text = policy_xml(replace(SPEC, groups=(moved,), joint_states_topic="arm/joint_states"))
    assert "scaled_controller/joint_trajectory" in allowed(text, "publish")["guard"]
    assert "arm/joint_states" in allowed(text, "subscribe")["policy"]
    assert "arm_controller/joint_trajectory" not in text


def test_the_shipped_policy_is_generated_from_the_robot_yaml():
    made = policy_xml(SPEC)
    assert (ROOT / "config" / "security" / "vx300s.xml").read_text() == made


def test_the_command_prints_the_policy_or_one_sentence(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["access", "vx300s"])
    assert main() == 0 and capsys.readouterr().out == policy_xml(SPEC)
    monkeypatch.setattr("sys.argv", ["access", "vx301"])
    assert main() == 2 and "unknown robot 'vx301'" in capsys.readouterr().err


def test_every_process_is_started_in_its_enclave(tmp_path):
    known = {ENCLAVE.format(node) for node in node_access(SPEC)}
    for process in (*twin_graph(), *policy_graph()):
        arguments = process.arguments(tmp_path / "parameters.yaml")
        assert arguments[arguments.index("--enclave") + 1] == f"/nac_ros/{process.name}" in known


def test_the_script_names_what_is_missing_and_is_valid_shell(tmp_path):
    script = ROOT / "config" / "security" / "generate.sh"
    subprocess.run(["sh", "-n", script], check=True)
    run = {"capture_output": True, "text": True}
    no_ros = subprocess.run(["sh", script, tmp_path], env={"PATH": "/usr/bin:/bin"}, **run)
    assert no_ros.returncode == 2 and "source your ROS 2" in no_ros.stderr
    assert "usage: generate.sh KEYSTORE" in subprocess.run(["sh", script], **run).stderr


def test_the_running_graph_does_nothing_that_its_policy_forbids(running):
    assert forbidden(running.node, ("guard", "policy", "twin"), SPEC) == set()


@pytest.fixture
def running(tmp_path):
    """Twin, guard and policy, the latter two configured, and a graph client."""
    pytest.importorskip("rclpy")
    from lifecycle_msgs.msg import Transition

    from nac_ros.ros.graph_client import GraphClient
    from nac_ros.ros.processes import ProcessGroup

    domain = 10 + os.getpid() % 80
    variables = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    os.environ.update(variables)
    graph = (*twin_graph(), *policy_graph(call_log=str(tmp_path)))
    with ProcessGroup(Path(tmp_path), variables) as processes, GraphClient(domain) as operator:
        for process in graph:
            processes.start(process)
        for name in ("guard", "policy"):
            operator.change_state(name, Transition.TRANSITION_CONFIGURE)
        operator.wait_until(lambda: operator.outcome, "the twin")
        yield operator
