"""`nac doctor`: every part that a run depends on, looked at before anything moves."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nac_ros.control.checks import CLOCK_SKEW_S
from nac_ros.core.errors import ConfigError, NacError
from nac_ros.evaluation import system_checks
from nac_ros.evaluation.system_checks import CheckResult, Level, examine
from nac_ros.robot.spec import RobotSpec, load_robot

SHM = Path("/dev/shm")
LEAST_SHM = 64e6  # [bytes] images of two cameras pass through shared memory
RATE_SHARE = 0.8  # of the rate that the robot's YAML promises
MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """robot: name or YAML file; bundle: folder; seconds: how long topics are listened to, 0 =
    not at all; runs: where recordings and runs go."""

    robot: str
    bundle: str
    seconds: float = 3.0
    runs: str = "runs"

    def __post_init__(self) -> None:
        if not 0 <= self.seconds <= 600:
            raise ConfigError(f"seconds must lie in 0 .. 600, got {self.seconds}")


def run_doctor(config: DoctorConfig) -> dict[str, Any]:
    """Prints a line for each finding and returns them; `failed`: how many forbid a run."""
    spec = load_robot(config.robot)
    folder = Path(config.bundle)
    graph = folder / "detokenizer.onnx"
    looks = {
        "python": system_checks.python,
        "ros": middleware,
        "gl": system_checks.rendering,
        "providers": partial(system_checks.providers, graph if graph.is_file() else None),
        "priority": system_checks.scheduling,
        "disk": partial(system_checks.disk, Path(config.runs)),
        "limits": partial(system_checks.limits, spec),
        "bundle": partial(system_checks.bundle, folder, spec),
        "topics": partial(topics, spec, config.seconds),
    }
    findings: list[CheckResult] = []
    for check, look in looks.items():
        if check == "topics" and not config.seconds:
            continue
        for finding in examine(check, look):
            findings.append(finding)
            print(f"{MARKS[finding.level]}  {finding.check:10s} {finding.seen}", flush=True)
            if finding.todo:
                print(f"      {'':10s} -> {finding.todo}", flush=True)
    failed = sum(finding.level == "fail" for finding in findings)
    return {"findings": [finding._asdict() for finding in findings], "failed": failed}


def middleware() -> Iterator[CheckResult]:
    """Which ROS 2 and middleware, and who can be heard."""
    import rclpy
    from rclpy.utilities import get_rmw_implementation_identifier

    place, distro = Path(rclpy.__file__).parent, os.environ.get("ROS_DISTRO", "PyPI wheels")
    seen = f"{distro}, {get_rmw_implementation_identifier()}, rclpy at {place}"
    yield CheckResult("ros", "ok", seen)
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    heard = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    todo = ""
    if heard == "SUBNET":
        todo = "on one machine set ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST: others may command"
    yield CheckResult("discovery", "warn" if todo else "ok", f"domain {domain}, {heard}", todo)
    if sys.platform == "linux" and SHM.is_dir():
        free = shutil.disk_usage(SHM).free
        todo = "" if free > LEAST_SHM else f"give {SHM} 64 MB or more (docker: --shm-size)"
        level: Level = "warn" if todo else "ok"
        yield CheckResult("memory", level, f"{free / 1e6:.0f} MB of shared memory free", todo)


def topics(spec: RobotSpec, seconds: float) -> Iterator[CheckResult]:
    """Rates and ages of all that the robot's YAML names, and whether its controllers listen."""
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
        heard = _listen(node, spec)
        began = time.monotonic()
        while (spent := time.monotonic() - began) < seconds:
            executor.spin_once(timeout_sec=min(0.1, seconds - spent))
        yield from (finding for topic in heard for finding in judge(topic, seconds))
        for group in spec.groups:
            yield _listened(node, group.name, group.topic)
    finally:
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()


@dataclass
class Heard:
    """One topic: rate_hz promised (0 = unknown), the largest age [s] that is allowed, and what
    came: stamps [s], arrivals [s], and the newest complaint about content."""

    topic: str
    rate_hz: float
    max_age_s: float
    arrivals: list[float] = field(default_factory=list)
    stamps: list[float] = field(default_factory=list)
    complaint: str = ""


def judge(topic: Heard, seconds: float) -> Iterator[CheckResult]:
    """What a topic that was listened to for `seconds` shows."""
    if not topic.arrivals:
        todo = "is its driver running, in this ROS_DOMAIN_ID, under this name (ros2 topic list)?"
        yield CheckResult(topic.topic, "fail", f"nothing came in {seconds:g} s", todo)
        return
    if topic.complaint:
        yield CheckResult(topic.topic, "fail", topic.complaint, "compare with the robot's YAML")
    ages = np.array(topic.arrivals) - np.array(topic.stamps)
    span = topic.arrivals[-1] - topic.arrivals[0]
    rate = (len(ages) - 1) / span if span > 0 else 0.0
    seen = f"{rate:.1f} Hz, {1e3 * np.median(ages):.1f} ms old (at most {1e3 * ages.max():.1f})"
    if ages.min() < -CLOCK_SKEW_S / 10:
        todo = "its clock is ahead of this machine's: synchronise them (chrony, PTP)"
        ahead = f"stamped {-1e3 * ages.min():.1f} ms in the future"
        yield CheckResult(
            topic.topic, "fail" if ages.min() < -CLOCK_SKEW_S else "warn", ahead, todo
        )
    elif ages.min() > topic.max_age_s:
        todo = "a clock that is behind, or a stamp that the driver never sets"
        yield CheckResult(topic.topic, "fail", f"{seen}; {topic.max_age_s} s is allowed", todo)
    elif rate < RATE_SHARE * topic.rate_hz:
        todo = f"the YAML promises {topic.rate_hz:g} Hz; look at CPU load, USB and network"
        yield CheckResult(topic.topic, "warn", seen, todo)
    elif ages.max() > topic.max_age_s:
        todo = f"some are older than the {topic.max_age_s} s allowed: the guard would stop"
        yield CheckResult(topic.topic, "warn", seen, todo)
    else:
        yield CheckResult(topic.topic, "ok", seen)


def _listen(node: Any, spec: RobotSpec) -> list[Heard]:
    from sensor_msgs.msg import JointState

    from nac_ros.robot.joint_states import JointStateMerger
    from nac_ros.ros import image_transport, messages, qos

    merger = JointStateMerger(spec.joint_names, spec.joint_states_max_age_s)

    def check_joints(message: JointState) -> None:
        merger.add_message(message)

    def check_image(camera: Any, message: Any) -> None:
        _, image = messages.read_image(message)
        height, width, _ = image.shape
        if (width, height) != (camera.width, camera.height):
            wanted = f"{camera.width}x{camera.height}"
            raise ConfigError(f"images of {width}x{height}; the robot's YAML says {wanted}")

    joints = Heard(spec.joint_states_topic, 1 / spec.joint_states_max_age_s,
                   spec.joint_states_max_age_s)  # fmt: skip
    listened: list[tuple[Heard, type, Any]] = [(joints, JointState, check_joints)]
    for camera in spec.cameras:
        kind, topic = image_transport.image_topic(camera)
        heard = Heard(topic, camera.rate_hz, camera.max_age_s)
        listened.append((heard, kind, partial(check_image, camera)))
    for heard, kind, check in listened:
        node.create_subscription(kind, heard.topic, partial(_note, node, heard, check), qos.SENSOR)
    return [heard for heard, _, _ in listened]


def _note(node: Any, heard: Heard, check: Any, message: Any) -> None:
    from nac_ros.ros import messages

    heard.arrivals.append(1e-9 * node.get_clock().now().nanoseconds)
    heard.stamps.append(messages.to_seconds(message.header.stamp))
    try:
        check(message)
    except NacError as error:
        heard.complaint = str(error)


def _listened(node: Any, name: str, topic: str) -> CheckResult:
    listeners, talkers = node.count_subscribers(topic), node.count_publishers(topic)
    if not listeners:
        todo = "no controller listens: is it spawned and active (ros2 control list_controllers)?"
        return CheckResult(name, "fail", f"nobody subscribes to {topic}", todo)
    if talkers > 1:
        todo = "only the guard may command the arm: end the others"
        return CheckResult(name, "fail", f"{talkers} nodes publish {topic}", todo)
    return CheckResult(name, "ok", f"{listeners} controller listens to {topic}")
