"""`nac doctor`: checks everything that a run depends on, before anything moves."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nac_ros.control.checks import CLOCK_SKEW_S
from nac_ros.core.errors import ConfigError, NacError
from nac_ros.evaluation import system_checks
from nac_ros.evaluation.system_checks import CheckResult, Level, run_check
from nac_ros.robot.spec import RobotSpec, load_robot

SHARED_MEMORY = Path("/dev/shm")
MIN_SHARED_MEMORY = 64e6  # [bytes] for the images of two cameras
MIN_RATE_SHARE = 0.8  # of the rate in the robot's YAML
MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """robot: name or YAML file; bundle: folder; runs: folder for recordings and runs
    seconds: how long topics are measured, 0 = not at all
    """

    robot: str
    bundle: str
    seconds: float = 3.0
    runs: str = "runs"

    def __post_init__(self) -> None:
        if not 0 <= self.seconds <= 600:
            raise ConfigError(f"seconds must be in 0 .. 600, got {self.seconds}")


def run_doctor(config: DoctorConfig) -> dict[str, Any]:
    """Prints a line for each finding; returns the findings and `failed`, how many forbid a run."""
    spec = load_robot(config.robot)
    folder = Path(config.bundle)
    graph = folder / "detokenizer.onnx"
    checks: dict[str, Callable[[], Iterator[CheckResult]]] = {
        "python": system_checks.check_python,
        "ros": check_middleware,
        "gl": system_checks.check_rendering,
        "providers": partial(system_checks.check_providers, graph if graph.is_file() else None),
        "priority": system_checks.check_realtime_priority,
        "disk": partial(system_checks.check_disk, Path(config.runs)),
        "limits": partial(system_checks.check_limits, spec),
        "bundle": partial(system_checks.check_bundle, folder, spec),
    }
    if config.seconds:
        checks["topics"] = partial(check_topics, spec, config.seconds)
    findings: list[CheckResult] = []
    for name, check in checks.items():
        for finding in run_check(name, check):
            findings.append(finding)
            print(f"{MARKS[finding.level]}  {finding.name:10s} {finding.detail}", flush=True)
            if finding.remedy:
                print(f"      {'':10s} -> {finding.remedy}", flush=True)
    failed = sum(finding.level == "fail" for finding in findings)
    return {"findings": [finding._asdict() for finding in findings], "failed": failed}


def check_middleware() -> Iterator[CheckResult]:
    """ROS 2 and its middleware, range of discovery, shared memory."""
    import rclpy
    from rclpy.utilities import get_rmw_implementation_identifier

    folder, distro = Path(rclpy.__file__).parent, os.environ.get("ROS_DISTRO", "PyPI wheels")
    detail = f"{distro}, {get_rmw_implementation_identifier()}, rclpy at {folder}"
    yield CheckResult("ros", "ok", detail)
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    discovery = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    remedy = ""
    if discovery == "SUBNET":
        remedy = (
            "other machines of the network may command the arm; if all nodes are on this machine, "
            "set ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST"
        )
    level: Level = "warn" if remedy else "ok"
    yield CheckResult("discovery", level, f"domain {domain}, {discovery}", remedy)
    if sys.platform == "linux" and SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(SHARED_MEMORY).free
        level = "ok" if free > MIN_SHARED_MEMORY else "warn"
        remedy = f"give {SHARED_MEMORY} 64 MB or more (docker: --shm-size)"
        detail = f"{free / 1e6:.0f} MB of shared memory free"
        yield CheckResult("memory", level, detail, "" if level == "ok" else remedy)


def check_topics(spec: RobotSpec, seconds: float) -> Iterator[CheckResult]:
    """Rate, age and content of joint states and images; publishers and subscribers of commands."""
    import rclpy
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("doctor", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        topics = _subscribe(node, spec)
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < seconds:
            executor.spin_once(timeout_sec=min(0.1, seconds - elapsed))
        for topic in topics:
            yield from check_topic(topic, seconds)
        for group in spec.groups:
            yield _check_controller(node, group.name, group.topic)
    finally:
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()


@dataclass
class TopicMeasurement:
    """Messages of one topic: header stamps and arrival times [s], and the newest content error.

    rate_hz: nominal rate, 0 = unknown; max_age_s: allowed age [s]
    """

    topic: str
    rate_hz: float
    max_age_s: float
    arrivals: list[float] = field(default_factory=list)
    stamps: list[float] = field(default_factory=list)
    error: str = ""


def check_topic(topic: TopicMeasurement, seconds: float) -> Iterator[CheckResult]:
    """Findings about a topic that was measured for `seconds`."""
    if not topic.arrivals:
        remedy = "is its driver running, in this ROS_DOMAIN_ID, under this name (ros2 topic list)?"
        yield CheckResult(topic.topic, "fail", f"no message in {seconds:g} s", remedy)
        return
    if topic.error:
        yield CheckResult(topic.topic, "fail", topic.error, "compare with the robot's YAML")
    ages = np.array(topic.arrivals) - np.array(topic.stamps)
    span = topic.arrivals[-1] - topic.arrivals[0]
    rate = (len(ages) - 1) / span if span > 0 else 0.0
    detail = f"{rate:.1f} Hz, {1e3 * np.median(ages):.1f} ms old (at most {1e3 * ages.max():.1f})"
    level: Level = "ok"
    remedy = ""
    if ages.min() < -CLOCK_SKEW_S / 10:
        level = "fail" if ages.min() < -CLOCK_SKEW_S else "warn"
        detail = f"stamped {-1e3 * ages.min():.1f} ms in the future"
        remedy = "its clock is ahead of this machine's: synchronise them (chrony, PTP)"
    elif ages.min() > topic.max_age_s:
        level, detail = "fail", f"{detail}; {topic.max_age_s} s is allowed"
        remedy = "its clock is behind, or its driver does not set the stamp"
    elif rate < MIN_RATE_SHARE * topic.rate_hz:
        level = "warn"
        remedy = f"the robot's YAML says {topic.rate_hz:g} Hz; check CPU load, USB and network"
    elif ages.max() > topic.max_age_s:
        level = "warn"
        remedy = f"some are older than the allowed {topic.max_age_s} s: the guard would stop"
    yield CheckResult(topic.topic, level, detail, remedy)


def _subscribe(node: Any, spec: RobotSpec) -> list[TopicMeasurement]:
    from sensor_msgs.msg import JointState

    from nac_ros.robot.joint_states import JointStateMerger
    from nac_ros.ros import image_transport, messages, qos

    def check_image(camera: Any, message: Any) -> None:
        _, image = messages.read_image(message)
        height, width, _ = image.shape
        if (width, height) != (camera.width, camera.height):
            expected = f"{camera.width}x{camera.height}"
            raise ConfigError(f"images of {width}x{height}; the robot's YAML says {expected}")

    def store(topic: TopicMeasurement, check: Callable[[Any], Any], message: Any) -> None:
        topic.arrivals.append(1e-9 * node.get_clock().now().nanoseconds)
        topic.stamps.append(messages.to_seconds(message.header.stamp))
        try:
            check(message)
        except NacError as error:
            topic.error = str(error)

    max_age_s = spec.joint_states_max_age_s
    joints = TopicMeasurement(spec.joint_states_topic, 1 / max_age_s, max_age_s)
    merger = JointStateMerger(spec.joint_names, max_age_s)
    measured: list[tuple[TopicMeasurement, type, Any]] = [(joints, JointState, merger.add_message)]
    for camera in spec.cameras:
        message_type, name = image_transport.image_topic(camera)
        topic = TopicMeasurement(name, camera.rate_hz, camera.max_age_s)
        measured.append((topic, message_type, partial(check_image, camera)))
    for topic, message_type, check in measured:
        callback = partial(store, topic, check)
        node.create_subscription(message_type, topic.topic, callback, qos.SENSOR)
    return [topic for topic, _, _ in measured]


def _check_controller(node: Any, name: str, topic: str) -> CheckResult:
    """Whether one controller receives the commands of a group, and one node at most sends them."""
    subscribers, publishers = node.count_subscribers(topic), node.count_publishers(topic)
    if not subscribers:
        remedy = "is its controller spawned and active (ros2 control list_controllers)?"
        return CheckResult(name, "fail", f"nobody subscribes to {topic}", remedy)
    if publishers > 1:
        remedy = "only the guard may command the arm: end the other nodes"
        return CheckResult(name, "fail", f"{publishers} nodes publish {topic}", remedy)
    return CheckResult(name, "ok", f"{subscribers} controller subscribes to {topic}")
