"""The doctor: each finding has a measurement and a remedy; a broken part gives no traceback."""

import os
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from nac_ros.cli import main
from nac_ros.core.errors import ConfigError
from nac_ros.evaluation import system_checks
from nac_ros.evaluation.system_checks import run_check
from nac_ros.robot.spec import load_robot

SPEC = load_robot("vx300s")


def levels(findings):
    return [finding.level for finding in findings]


def slower(**changes):
    return replace(SPEC, joints=tuple(replace(joint, **changes) for joint in SPEC.joints))


def test_an_exception_in_a_check_is_a_finding():
    def broken():
        raise ImportError("libGL.so.1: cannot open shared object file")
        yield

    (finding,) = run_check("gl", broken)
    assert finding.level == "fail" and "libGL" in finding.detail and "make setup" in finding.remedy


def test_sensible_limits_are_ok_and_others_come_with_a_remedy():
    (fine,) = system_checks.check_limits(SPEC)
    assert fine.level == "ok" and "stops in 0.29 s" in fine.detail
    lazy = list(system_checks.check_limits(slower(acceleration=0.5)))
    assert levels(lazy)[:2] == ["warn", "warn"] and "raise its acceleration" in lazy[0].remedy
    stiff = list(system_checks.check_limits(slower(jerk=1e6)))
    assert any("limits nothing" in finding.detail for finding in stiff)


def test_a_full_disk_is_a_failure_and_a_small_one_a_warning(tmp_path, monkeypatch):
    free = {"bytes": 1e9}
    usage = type("Usage", (), {"free": property(lambda self: free["bytes"])})
    monkeypatch.setattr(system_checks.shutil, "disk_usage", lambda place: usage())
    assert levels(system_checks.check_disk(tmp_path / "not/yet/there")) == ["fail"]
    free["bytes"] = 10e9
    assert levels(system_checks.check_disk(tmp_path)) == ["warn"]
    free["bytes"] = 100e9
    assert levels(system_checks.check_disk(tmp_path)) == ["ok"]


def test_a_machine_with_a_gpu_and_the_cpu_wheel_gets_a_remedy(monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(system_checks.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    finding = next(iter(system_checks.check_providers(None)))
    assert finding.level == "warn" and "ONNX=gpu" in finding.remedy
    monkeypatch.setattr(system_checks.shutil, "which", lambda name: None)
    assert next(iter(system_checks.check_providers(None))).level == "ok"


def test_a_bundle_is_verified_and_compared_with_the_robot(tiny_bundle):
    assert levels(system_checks.check_bundle(tiny_bundle, SPEC)) == ["ok", "ok"]
    other = replace(SPEC, action_rate_hz=50.0)
    found = run_check("bundle", lambda: system_checks.check_bundle(tiny_bundle, other))
    assert found[-1].level == "fail" and "action_rate_hz" in found[-1].detail


def measurement(ages, rate=30.0, nominal=30.0, max_age=0.2):
    pytest.importorskip("rclpy")
    from nac_ros.apps.doctor import TopicMeasurement

    arrivals = 100 + np.arange(len(ages)) / rate
    stamps = list(arrivals - ages)
    return TopicMeasurement("scene/image_raw", nominal, max_age, arrivals.tolist(), stamps)


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        ({"ages": np.empty(0)}, "fail", "is its driver running"),
        ({"ages": np.full(30, 0.01)}, "ok", ""),
        ({"ages": np.full(30, 0.01), "rate": 15.0}, "warn", "says 30 Hz"),
        ({"ages": np.full(30, 0.5)}, "fail", "clock is behind"),
        ({"ages": np.full(30, -0.02)}, "warn", "ahead"),
        ({"ages": np.full(30, -1.0)}, "fail", "ahead"),
        ({"ages": np.append(np.full(29, 0.01), 0.3)}, "warn", "the guard would stop"),
    ],
)
def test_a_topic_is_checked_for_rate_age_and_clock(facts, level, words):
    pytest.importorskip("rclpy")
    from nac_ros.apps.doctor import check_topic

    (finding,) = check_topic(measurement(**facts), 1.0)
    assert finding.level == level and words in finding.remedy


def test_invalid_seconds_are_rejected():
    pytest.importorskip("rclpy")
    from nac_ros.apps.doctor import DoctorConfig

    with pytest.raises(ConfigError, match="seconds must be in"):
        DoctorConfig(robot="vx300s", bundle="b", seconds=-1)


@pytest.fixture
def twin(tmp_path, monkeypatch):
    """A running twin in its own ROS domain, which this process uses too."""
    pytest.importorskip("rclpy")
    pytest.importorskip("mujoco")
    from nac_ros.ros.node_graph import twin_graph
    from nac_ros.ros.processes import ProcessGroup

    variables = {
        "ROS_DOMAIN_ID": str(55 + os.getpid() % 40),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    processes = ProcessGroup(tmp_path / "logs", variables)
    try:
        for node in twin_graph(task="weighing"):
            processes.start(node)
        yield processes
    finally:
        processes.end()


def doctor(capsys, *options):
    """Exit code of `nac doctor` and its lines by check."""
    code = main.main(["doctor", *options])
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("  ")]
    return code, {line[6:].split()[0]: line for line in lines}


def test_the_doctor_finds_no_fault_in_a_running_arm(twin, capsys, tiny_bundle, tmp_path):
    report = tmp_path / "doctor.json"
    options = ["--bundle", str(tiny_bundle), "--seconds", "2", "--json", str(report)]
    deadline = time.monotonic() + 60
    while True:
        code, lines = doctor(capsys, *options)
        found = [lines.get(name, "") for name in ("joint_states", "scene/image_raw")]
        if all(line and "no message" not in line for line in found):
            break
        assert time.monotonic() < deadline, lines
    assert " Hz" in lines["joint_states"] and "ms old" in lines["joint_states"]
    assert lines["arm_and_gripper"].startswith("ok") and lines["bundle"].startswith("ok")
    assert lines["python"].startswith("ok") and "rmw_" in lines["ros"]
    assert report.is_file() and sys.version.split()[0] in lines["python"]
    assert code == 0 or any(line.startswith("FAIL") for line in lines.values())


def test_the_doctor_names_what_is_missing_without_an_arm(capsys, monkeypatch, tmp_path):
    pytest.importorskip("rclpy")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(97))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    code, lines = doctor(capsys, "--bundle", str(tmp_path), "--seconds", "0.5")
    assert code == 1
    assert "no message" in lines["joint_states"] and lines["joint_states"].startswith("FAIL")
    assert "nobody subscribes" in lines["arm_and_gripper"]
    assert lines["bundle"].startswith("FAIL") and "nac export" in lines["bundle"]


def test_an_unknown_robot_gives_one_sentence(capsys):
    pytest.importorskip("rclpy")
    assert main.main(["doctor", "--robot", "nope"]) == 2
    assert "unknown robot 'nope'; known are: vx300s" in capsys.readouterr().err


def test_the_doctor_merges_partial_joint_states_and_names_unreadable_images(monkeypatch):
    rclpy = pytest.importorskip("rclpy")
    from rclpy.context import Context
    from rclpy.node import Node
    from sensor_msgs.msg import Image, JointState

    from nac_ros.apps import doctor
    from nac_ros.ros import messages, qos

    domain = 10 + (os.getpid() + 63) % 80
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    spec, context = load_robot("vx300s"), Context()
    rclpy.init(context=context, domain_id=domain)
    node = Node("arm", context=context)
    joints = node.create_publisher(JointState, spec.joint_states_topic, qos.SENSOR_PUBLISHER)
    images = {
        c.name: node.create_publisher(Image, c.topic, qos.SENSOR_PUBLISHER) for c in spec.cameras
    }
    image, ending, parts = np.zeros((96, 96, 3), np.uint8), threading.Event(), [slice(6)]

    def publish():
        while not ending.wait(0.02):
            for part in parts:
                names, places = spec.joint_names[part], spec.home[part]
                joints.publish(messages.to_joint_state(time.time(), names, places))
            for name, out in images.items():
                message = messages.to_image(time.time(), name, image)
                message.encoding = "rgb8" if name == "scene" else "16UC1"
                out.publish(message)

    def failures():
        found = doctor.check_topics(spec, 2.0)
        return {f.name: f.detail for f in found if f.level == "fail"}

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    try:
        found = failures()
        assert "gripper missing; the newest message holds waist" in found["joint_states"]
        assert "'16UC1'; known are: rgb8, bgr8, rgba8" in found["wrist/image_raw"]
        parts.append(slice(6, 7))
        found = failures()
        assert "joint_states" not in found and "scene/image_raw" not in found
    finally:
        ending.set()
        thread.join()
        node.destroy_node()
        context.try_shutdown()
