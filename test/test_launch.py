"""Parameter files, launch files and the demo agree with the one description of the graph."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy")

from nac_ros.core import config
from nac_ros.core.config import config_dir
from nac_ros.ros.node_graph import (
    NodeProcess,
    camera_graph,
    evaluate_graph,
    policy_graph,
    policy_stack,
    record_graph,
    twin_graph,
)

ROOT = Path(__file__).resolve().parent.parent
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))

NODES = ["camera", "guard", "policy", "recorder", "relay", "teleop", "trials", "twin", "view"]


def parameters_of(name):
    """Dataclass with the parameters of a node."""
    folder = "ros.policy_loading" if name == "policy" else f"nodes.{name}"
    module = importlib.import_module(f"nac_ros.{folder}")
    (found,) = [
        c
        for c in vars(module).values()
        if dataclasses.is_dataclass(c)
        and c.__module__ == module.__name__
        and "robot" in {f.name for f in dataclasses.fields(c)}
    ]
    return found


@pytest.mark.parametrize("name", NODES)
def test_every_parameter_file_holds_only_parameters_of_its_node(name):
    pytest.importorskip("torch" if name == "policy" else "mujoco" if name == "twin" else "numpy")
    values = yaml.safe_load((config_dir() / "nodes" / f"{name}.yaml").read_text())
    config.build(parameters_of(name), values[f"/**/{name}"]["ros__parameters"], name)


@pytest.mark.parametrize("name", NODES)
def test_every_parameter_is_described(name):
    pytest.importorskip("torch" if name == "policy" else "mujoco" if name == "twin" else "numpy")
    from nac_ros.ros.parameters import _descriptions

    cls = parameters_of(name)
    texts = _descriptions(cls)
    assert {field.name for field in dataclasses.fields(cls)} <= set(texts)


def test_the_policy_graph_is_guard_and_policy_and_a_twin():
    nodes = {node.name: node for node in (*policy_graph("B", "R", seed=3), *twin_graph("R"))}
    assert list(nodes) == ["guard", "policy", "twin"]
    assert nodes["policy"].parameters == {"bundle": "B", "robot": "R", "seed": 3}
    assert nodes["guard"].lifecycle and nodes["policy"].lifecycle and not nodes["twin"].lifecycle


def test_arguments_that_are_not_given_come_from_the_parameter_files():
    assert all(not node.parameters for node in (*policy_graph(), *twin_graph()))


def test_the_robot_twin_starts_the_simulated_arm():
    nodes = {node.name: node for node in policy_stack("twin", task="marker", bundle="B")}
    assert list(nodes) == ["twin", "guard", "policy"]
    assert nodes["twin"].parameters == {"task": "marker"}
    assert nodes["policy"].parameters == {"bundle": "B", "task": "marker"}
    assert [node.name for node in policy_stack("vx300s")] == ["guard", "policy"]


def test_the_record_graph_has_cameras_or_the_twin():
    nodes = {node.name: node for node in record_graph("twin", "leader", task="marker", out="D")}
    assert list(nodes) == ["twin", "guard", "teleop", "recorder"]
    assert nodes["twin"].parameters == {"task": "marker"}
    assert nodes["recorder"].parameters == {"task": "marker", "out": "D"}
    assert nodes["teleop"].parameters == {"mapping": "leader"}
    nodes = {node.name: node for node in record_graph("vx300s", source="v4l2")}
    assert list(nodes) == ["camera_scene", "camera_wrist", "guard", "teleop", "recorder"]
    wanted = {"camera": "wrist", "robot": "vx300s", "source": "v4l2"}
    assert nodes["camera_wrist"].parameters == wanted


def test_the_evaluate_graph_has_cameras_or_the_twin_and_an_unconfigured_policy(tmp_path):
    given = {"protocol": "p.yaml", "out": str(tmp_path), "operator": "Ada"}
    nodes = {node.name: node for node in evaluate_graph("twin", **given)}
    assert list(nodes) == ["twin", "guard", "policy", "recorder", "trials"]
    assert not nodes["policy"].lifecycle and nodes["guard"].lifecycle
    assert nodes["recorder"].parameters["out"] == str(tmp_path / "recordings")
    expected = {
        "out": str(tmp_path),
        "operator": "Ada",
        "protocol": str(Path("p.yaml").absolute()),
    }
    assert nodes["trials"].parameters == expected
    nodes = {node.name: node for node in evaluate_graph("vx300s", source="v4l2", **given)}
    assert list(nodes)[:2] == ["camera_scene", "camera_wrist"]
    assert nodes["trials"].parameters == {**expected, "robot": "vx300s"}
    assert "max_frozen_s" not in nodes["recorder"].parameters


def test_a_process_gets_the_parameter_file_of_the_package_and_then_its_own(tmp_path):
    node = NodeProcess(name="guard", parameters={"robot": "vx300s"})
    own = tmp_path / "guard.yaml"
    arguments = node.arguments(own)
    assert arguments[:2] == ["-m", "nac_ros.nodes.guard"]
    assert arguments[-3:] == [str(node.defaults), "--params-file", str(own)]
    assert yaml.safe_load(own.read_text()) == {"/**/guard": {"ros__parameters": node.parameters}}


def test_several_cameras_are_separate_nodes_with_the_same_parameter_file(tmp_path):
    nodes = [*camera_graph("scene"), *camera_graph("wrist", robot="R", source="v4l2")]
    assert [node.name for node in nodes] == ["camera_scene", "camera_wrist"]
    assert {node.module for node in nodes} == {"nac_ros.nodes.camera"}
    assert nodes[0].all_parameters == {"robot": "vx300s", "camera": "scene"}
    assert nodes[1].all_parameters == {"robot": "R", "camera": "wrist", "source": "v4l2"}
    arguments = nodes[1].arguments(tmp_path / "wrist.yaml")
    assert "__node:=camera_wrist" in arguments
    written = yaml.safe_load((tmp_path / "wrist.yaml").read_text())
    assert written == {"/**/camera_wrist": {"ros__parameters": nodes[1].all_parameters}}


def load_launch_file(path):
    if importlib.util.find_spec("launch_ros") is None:
        pytest.skip("ROS 2's launch is not installed; the PyPI wheels do not have it")
    spec = importlib.util.spec_from_file_location(path.name.replace(".", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_a_launch_file_describes_its_arguments(path):
    description = load_launch_file(path).generate_launch_description()
    arguments = description.get_launch_arguments()
    assert arguments and all(argument.description for argument in arguments)


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_a_launch_file_starts_the_graph_s_nodes(path):
    module = load_launch_file(path)
    from launch import LaunchContext

    context = LaunchContext()
    description = module.generate_launch_description()
    for argument in description.get_launch_arguments():
        argument.execute(context)
    (starter,) = [e for e in description.entities if type(e).__name__ == "OpaqueFunction"]
    actions = starter.execute(context)
    started = [a for a in actions if type(a).__name__ in ("Node", "LifecycleNode")]
    assert started, f"{path.name} starts nothing"


def test_a_node_in_a_namespace_reads_its_parameters_and_publishes_there(tmp_path):
    import os
    import subprocess
    import sys

    import rclpy
    from rcl_interfaces.srv import GetParameters
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor

    domain = 60 + os.getpid() % 35
    node = NodeProcess(name="guard", parameters={"speed_scale": 0.25})
    command = [sys.executable, *node.arguments(tmp_path / "guard.yaml"), "-r", "__ns:=/left"]
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    process = subprocess.Popen(command, env=environment)
    try:
        asker = rclpy.create_node("asker", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(asker)
        client = asker.create_client(GetParameters, "/left/guard/get_parameters")
        assert client.wait_for_service(timeout_sec=30)
        answer = client.call_async(GetParameters.Request(names=["speed_scale", "robot"]))
        executor.spin_until_future_complete(answer, timeout_sec=10)
        scale, robot = answer.result().values
        assert scale.double_value == 0.25 and robot.string_value == "vx300s"
        topics = {name for name, _ in asker.get_topic_names_and_types()}
        assert "/left/diagnostics" in topics and "/diagnostics" not in topics
        executor.shutdown()
        asker.destroy_node()
    finally:
        process.terminate()
        process.wait(20)
        context.try_shutdown()
