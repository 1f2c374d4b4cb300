"""The graph over DDS: each node is a process, with the real twin and a real bundle."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

import rclpy
import rclpy.node
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from motion_assertions import assert_inside
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory

from nac_ros.core.config import config_dir
from nac_ros.core.errors import NacError
from nac_ros.core.types import ActionChunk
from nac_ros.robot.spec import load_robot
from nac_ros.ros import messages, qos
from nac_ros.ros.graph_client import GraphClient
from nac_ros.ros.guard_mode import ModePublisher
from nac_ros.ros.node_graph import NodeProcess, policy_graph, twin_graph
from nac_ros.ros.processes import ProcessGroup

WAIT_S = 60.0
BEAT_S = 0.05
TRIES = 5  # a motion interrupted by a busy machine is repeated
PATIENCE = {"max_heartbeat_age_s": 0.5, "max_gap_s": 0.5}  # as for `robot`


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    """The robot's YAML with longer sensor timeouts, for a busy test machine."""
    facts = yaml.safe_load((config_dir() / "robots" / "vx300s.yaml").read_text())
    facts["joint_states_max_age_s"] = 0.8
    for camera in facts["cameras"]:
        camera["max_age_s"] = 0.8
    path = tmp_path_factory.mktemp("robot") / "vx300s.yaml"
    path.write_text(yaml.safe_dump(facts))
    return path


class Bench:
    """Nodes as processes; this process plays all other nodes."""

    def __init__(self, folder, robot, domain, nodes):
        self.spec = load_robot(robot)
        variables = {
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        }
        os.environ.update(variables)
        self.processes = ProcessGroup(folder, variables)
        self.pids = {node.name: self.processes.start(node) for node in nodes}
        self.operator = GraphClient(domain)
        self.joints, self.commands, self.chunks = [], [], []
        node = self.operator.node
        for kind, topic, seen in (
            (JointState, "joint_states", self.joints),
            (JointState, "guard/command", self.commands),
            (JointTrajectory, "policy/chunk", self.chunks),
        ):
            node.create_subscription(kind, topic, seen.append, qos.MONITOR)
        self.chunk_out = node.create_publisher(JointTrajectory, "policy/chunk", qos.COMMAND)
        self.teleop_out = node.create_publisher(JointTrajectory, "teleop/command", qos.COMMAND)
        self.beat_out = node.create_publisher(Header, "policy/heartbeat", qos.COMMAND)
        self.joints_out = node.create_publisher(JointState, "joint_states", qos.SENSOR_PUBLISHER)
        self.images_out = {
            camera.name: node.create_publisher(Image, camera.topic, qos.SENSOR_PUBLISHER)
            for camera in self.spec.cameras
        }

    def activate(self, name):
        self.operator.change_state(name, Transition.TRANSITION_CONFIGURE)
        self.operator.change_state(name, Transition.TRANSITION_ACTIVATE)

    def wait(self, ready, what, seconds=WAIT_S):
        self.operator.wait_until(ready, what, seconds)

    def guard(self, key):
        return self.operator.latest_diagnostics("guard").get(key, 0)

    def rejections_increased(self, reason, first):
        """Whether the guard counted a rejection between two reports from `first` on."""
        reports = self.operator.diagnostics["guard"][first:]
        counts = [report.get(f"rejections.{reason}", 0) for report in reports]
        return any(after > before for before, after in pairwise(counts))

    def measured(self):
        return messages.from_joint_state(self.joints[-1], self.spec.joint_names)

    def ready(self):
        """Resets the scene; then the guard is in mode policy and nothing moves."""
        self.operator.set_mode("hold")
        self.wait(lambda: self.guard("state") in ("idle", "armed", "fault", 0), "rest", 5)
        self.operator.trigger("twin/reset")
        time.sleep(0.3)
        self.operator.trigger("guard/reset")  # because the arm was moved
        self.operator.set_mode("policy")
        time.sleep(0.1)
        self.wait(lambda: self.guard("hold") != "settling", "the controller's set-point")
        self.joints.clear(), self.commands.clear()
        self.wait(lambda: len(self.joints) > 3 and len(self.commands) > 3, "the arm")

    def swing(self, amplitude=0.5, **changes):
        """A chunk that moves the shoulder from its position, fastest at the end."""
        actions = np.tile(self.measured(), (32, 1))
        actions[:, 1] += amplitude * (1 - np.cos(np.arange(1, 33) / 32 * np.pi / 2))
        facts = {"stamp": time.time() - 0.01, "rate_hz": 30.0, "names": self.spec.joint_names}
        facts |= {"actions": actions.astype(np.float32), "tokens": np.empty(0, np.int64)}
        return ActionChunk(**{**facts, **changes})

    def send(self, chunk):
        self.chunk_out.publish(messages.to_chunk_message(chunk))

    def send_heartbeats(self, seconds, until=lambda: False):
        """Publishes the policy's heartbeat for so long."""
        for _ in range(round(seconds / BEAT_S)):
            self.beat_out.publish(Header())
            time.sleep(BEAT_S)
            if until():
                return

    def move(self):
        """Moves the arm until it is fast, with most of the chunk still to play."""
        for _ in range(TRIES):
            self.ready()
            start = self.measured()[1]
            self.send(self.swing(0.8))
            self.send_heartbeats(0.8, until=lambda at=start: self.measured()[1] - at > 0.08)
            if self.guard("state") == "running" and self.measured()[1] - start > 0.08:
                return
        pytest.fail(f"the arm did not move: {self.operator.latest_diagnostics('guard')}")

    def publish_sensors(self, seconds, positions=None, cameras=None, **size):
        """Publishes joint states and images for so long."""
        positions = self.spec.home if positions is None else positions
        shape = (size.get("height", 96), size.get("width", 96), 3)
        for _ in range(round(seconds * 30)):
            now = time.time()
            self.joints_out.publish(messages.to_joint_state(now, self.spec.joint_names, positions))
            for name in self.images_out if cameras is None else cameras:
                self.images_out[name].publish(messages.to_image(now, name, np.zeros(shape, "u1")))
            time.sleep(1 / 30)

    def speeds(self):
        """Times and joint speeds `[N, D]` of the commands since `ready`."""
        rows = [(messages.to_seconds(m.header.stamp), np.array(m.position)) for m in self.commands]
        gaps = [(b[0], (b[1] - a[1]) / max(b[0] - a[0], 1e-9)) for a, b in pairwise(rows)]
        return np.array([t for t, _ in gaps]), np.array([v for _, v in gaps])

    def assert_arm_rests(self):
        time.sleep(0.4)  # until the servos reach the last set-point
        here = self.measured()
        time.sleep(0.3)
        np.testing.assert_allclose(self.measured(), here, atol=2e-3)

    def close(self):
        self.processes.end()
        self.operator.__exit__()


@pytest.fixture(scope="module")
def arm(tmp_path_factory, robot):
    """Twin and guard, the guard active."""
    domain = 10 + os.getpid() % 40
    guard = NodeProcess(name="guard", parameters={"robot": str(robot), **PATIENCE})
    nodes = (*twin_graph(str(robot), task="weighing"), guard)
    made = Bench(tmp_path_factory.mktemp("arm"), robot, domain, nodes)
    try:
        made.activate("guard")
        yield made
    finally:
        made.close()


def test_the_arm_follows_a_chunk_and_stops_at_its_end(arm):
    for _ in range(TRIES):
        arm.ready()
        start = arm.measured()
        arm.send(arm.swing(0.2))
        arm.send_heartbeats(2.0)
        if arm.guard("hold") in ("chunk_ended", "chunk_stale"):
            break
    assert arm.guard("hold") in ("chunk_ended", "chunk_stale")
    moved = arm.measured() - start
    assert moved[1] == pytest.approx(0.2, abs=0.06)
    assert np.abs(np.delete(moved, 1)).max() < 5e-3
    arm.assert_arm_rests()


def test_the_guard_reports_the_jump_at_a_chunk_transition(arm):
    for _ in range(TRIES):
        arm.move()
        aside = arm.swing(0.0)
        aside.actions[:, 0] += 0.05
        arm.send(aside)
        arm.send_heartbeats(
            1.05, until=lambda at=aside.stamp: abs(arm.guard("chunk_stamp") - at) < 1e-3
        )
        if abs(arm.guard("chunk_stamp") - aside.stamp) < 1e-3:
            break
    assert arm.guard("chunk_stamp") == pytest.approx(aside.stamp, abs=1e-3)
    assert arm.guard("transition_jump") > 0.045
    arm.operator.set_mode("hold")
    arm.wait(
        lambda: "transition_jump" not in arm.operator.latest_diagnostics("guard"),
        "nothing followed",
    )


def test_a_silent_policy_stops_the_arm_with_the_reason(arm):
    arm.move()
    arm.wait(lambda: arm.guard("state") == "fault", "the stop", 5)
    assert arm.guard("hold") == "heartbeat_lost"
    arm.assert_arm_rests()
    _, speeds = arm.speeds()
    assert np.abs(speeds[:, 1]).max() > 0.3, "it was moving"
    commands = np.array([message.position for message in arm.commands])
    stamps = np.array([messages.to_seconds(message.header.stamp) for message in arm.commands])
    period = 1 / arm.spec.guard_rate_hz
    uneven = np.flatnonzero(np.abs(np.diff(stamps) - period) > 1e-5) + 1
    for piece in np.split(commands, uneven):
        assert_inside(arm.spec, piece, period)


def test_teleoperation_takes_control_and_its_silence_stops_the_arm(arm):
    arm.move()
    arm.operator.set_mode("teleop")
    away = arm.measured() + 0.1 * arm.spec.relative_mask
    facts = {"rate_hz": 30.0, "names": arm.spec.joint_names, "tokens": np.empty(0, np.int64)}
    for _ in range(90):
        actions = away[None].astype(np.float32)
        command = ActionChunk(stamp=time.time(), actions=actions, **facts)
        arm.teleop_out.publish(messages.to_chunk_message(command))
        time.sleep(1 / 30)
    arm.wait(lambda: arm.guard("hold") == "teleop_silent", "silence", 5)
    arm.assert_arm_rests()
    np.testing.assert_allclose(arm.measured()[:6], away[:6], atol=0.02)
    assert arm.guard("fault") == "" and arm.guard("state") == "armed"
    rows = [np.array(message.position) for message in arm.commands]
    assert_inside(arm.spec, np.array(rows), 1 / arm.spec.guard_rate_hz)


def test_guard_stop_stops_at_once_and_is_latched(arm):
    arm.move()
    arm.operator.trigger("guard/stop")
    arm.wait(lambda: arm.guard("hold") == "stopped" and arm.guard("state") == "fault", "stop", 5)
    arm.operator._modes.request("policy")
    arm.send(arm.swing(0.2))
    arm.send_heartbeats(0.2)
    assert arm.guard("mode") == "hold"
    arm.assert_arm_rests()


def test_an_unknown_mode_holds_the_arm(arm):
    arm.ready()
    arm.operator._modes.publish("autopilot")
    arm.wait(lambda: arm.guard("mode") == "hold", "mode hold", 5)
    assert "'autopilot' is unknown" in arm.guard("last_rejection")


@contextmanager
def console(*modes):
    """Another participant that has latched modes."""
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        modes_out = ModePublisher(rclpy.node.Node("console", context=context))
        for mode in modes:
            modes_out.publish(mode)
        yield modes_out
    finally:
        context.try_shutdown()


def test_nothing_sent_before_the_activation_moves_the_arm(arm):
    """Latched modes of consoles, chunks, teleoperation commands, and service calls."""
    arm.ready()
    arm.operator.set_mode("hold")
    operator = arm.operator
    for attempt in range(3):
        before = len(operator.diagnostics["guard"]) - 1
        operator.change_state("guard", Transition.TRANSITION_DEACTIVATE)
        operator.change_state("guard", Transition.TRANSITION_CLEANUP)
        start = arm.measured()
        with console("hold", "policy"), console("teleop"), console("hold"):
            arm.send(arm.swing())
            operator.change_state("guard", Transition.TRANSITION_CONFIGURE)
            with pytest.raises(NacError, match="the guard is not active"):
                operator.trigger("guard/ramp")
            operator.trigger("guard/reset")
            arm.teleop_out.publish(messages.to_chunk_message(arm.swing()))
            arm.send(arm.swing())
            with console("hold", "policy"):  # discovered after the activation
                operator.change_state("guard", Transition.TRANSITION_ACTIVATE)
                for _ in range(10):
                    arm.send(arm.swing())
                    arm.teleop_out.publish(messages.to_chunk_message(arm.swing()))
                    arm.send_heartbeats(0.1)
                arm.wait(lambda n=before: arm.rejections_increased("hold_first", n), "rejection")
                counts = operator.latest_diagnostics("guard")
                assert (counts["mode"], counts["state"]) == ("hold", "idle"), attempt
        np.testing.assert_allclose(arm.measured(), start, atol=2e-3)


def test_a_mode_without_hold_is_rejected_and_hold_then_the_mode_start_the_arm(arm):
    arm.ready()
    operator = arm.operator
    operator.change_state("guard", Transition.TRANSITION_DEACTIVATE)
    operator.change_state("guard", Transition.TRANSITION_ACTIVATE)
    before = arm.guard("rejections.hold_first")
    for _ in range(20):
        operator._modes.publish("policy")
        arm.send(arm.swing())
        arm.send_heartbeats(0.1)
    arm.wait(lambda: arm.guard("rejections.hold_first") > before, "the rejection", 5)
    assert arm.guard("mode") == "hold"
    assert "send hold first, then the mode" in arm.guard("last_rejection")
    arm.move()


SHOULDER = np.eye(7)[1]
BAD = {
    "names": lambda c: {"names": ("knee", *c.names[1:])},
    "order": lambda c: {"names": c.names[::-1]},
    "not_finite": lambda c: {"actions": np.where(c.actions > 1, np.nan, c.actions)},
    "position": lambda c: {"actions": c.actions + 9},
    "velocity": lambda c: {"actions": c.actions - 0.3 * (np.arange(32) > 9)[:, None] * SHOULDER},
    "jump": lambda c: {"actions": c.actions - [0.5, 0, 0, 0, 0, 0, 0]},
    "stale": lambda c: {"stamp": c.stamp - 2},
    "future": lambda c: {"stamp": c.stamp + 2},
}


def test_bad_chunks_are_rejected_with_their_reasons_and_the_arm_holds(arm):
    arm.ready()
    here = arm.measured()
    for reason, change in BAD.items():
        before, good = arm.guard(f"rejections.{reason}"), arm.swing(0.2)
        arm.send(arm.swing(0.2, **change(good)))
        arm.wait(lambda r=reason, n=before: arm.guard(f"rejections.{r}") > n, reason, 5)
    arm.send_heartbeats(0.3)
    assert arm.guard("state") == "armed"
    np.testing.assert_allclose(arm.measured(), here, atol=2e-3)


def test_a_chunk_with_ragged_points_is_rejected(arm):
    arm.ready()
    message = messages.to_chunk_message(arm.swing())
    message.points[3].positions = [0.0]
    arm.chunk_out.publish(message)
    arm.wait(lambda: "point 3 has 1 positions" in arm.guard("last_rejection"), "the rejection", 5)


def test_bytes_that_are_no_chunk_are_rejected(arm):
    arm.ready()
    before = arm.guard("rejections.shape")
    arm.chunk_out.publish(b"\0\1\0\0" + b"\xff" * 40)
    arm.wait(lambda: arm.guard("rejections.shape") > before, "the rejection", 5)
    assert "44 bytes are no JointTrajectory" in arm.guard("last_rejection")


def test_large_messages_are_rejected_unread_and_foreign_text_is_truncated_and_escaped(arm):
    arm.ready()
    names = arm.spec.joint_names
    long = ActionChunk(time.time(), 30.0, names, np.zeros((10_000, 7), "f4"), np.empty(0))
    before = arm.guard("rejections.shape")
    arm.send(long)
    arm.wait(lambda: arm.guard("rejections.shape") > before, "the rejection", 5)
    assert "a JointTrajectory of" in arm.guard("last_rejection")
    assert "on policy/chunk; at most" in arm.guard("last_rejection")
    time.sleep(1.1)
    many = [*names, *(f"j{n}" for n in range(20_000))]
    arm.joints_out.publish(messages.to_joint_state(time.time(), many, np.zeros(len(many))))
    arm.wait(lambda: "a JointState of" in arm.guard("last_rejection"), "the rejection", 5)
    time.sleep(1.1)
    arm.send(arm.swing(names=("waist\n[FATAL] [guard]: well \x1b[2J" + "A" * 3000,) * 7))
    arm.wait(lambda: "[FATAL]" in arm.guard("last_rejection"), "the rejection", 5)
    said = arm.guard("last_rejection")
    assert said.isprintable() and len(said) < 600
    log = arm.processes.log_path("guard").read_text()
    assert not any(line.startswith("[FATAL]") for line in log.splitlines())
    assert max(map(len, log.splitlines())) < 700


def test_a_missing_cpu_is_rejected_with_the_available_ones():
    arguments = [sys.executable, "-m", "nac_ros.nodes.guard", "--ros-args"]
    done = subprocess.run(
        [*arguments, "-p", "cpus:=[0, 4095]"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"},
    )
    assert done.returncode == 2, done.stderr
    assert "cpus: this machine has no CPU 4095; it has 0" in done.stderr


def test_of_too_many_publishers_some_are_read_and_the_rest_is_reported(arm):
    arm.ready()
    node = arm.operator.node
    crowd = [node.create_publisher(JointTrajectory, "policy/chunk", qos.COMMAND) for _ in range(6)]
    for one in crowd:
        arm.wait(lambda out=one: out.get_subscription_count() > 0, "the guard's subscription", 10)
    time.sleep(0.5)
    before = arm.guard("rejections.crowd")
    for _ in range(20):
        for one in crowd:
            one.publish(messages.to_chunk_message(arm.swing(names=arm.spec.joint_names[::-1])))
        time.sleep(0.1)
    arm.wait(lambda: arm.guard("rejections.crowd") > before, "the rejection", 5)


def test_joint_states_with_nan_are_rejected_with_the_joint_name(arm):
    arm.ready()
    broken = arm.spec.home * [1, 1, np.nan, 1, 1, 1, 1]
    arm.joints_out.publish(messages.to_joint_state(time.time(), arm.spec.joint_names, broken))
    arm.wait(lambda: "not finite at elbow" in arm.guard("last_rejection"), "the rejection", 5)


def test_deactivating_the_guard_is_a_planned_stop(arm):
    arm.move()
    arm.operator.change_state("guard", Transition.TRANSITION_DEACTIVATE)
    time.sleep(0.4)
    arm.assert_arm_rests()
    arm.operator.change_state("guard", Transition.TRANSITION_ACTIVATE)
    arm.wait(lambda: arm.guard("state") == "idle" and arm.guard("mode") == "hold", "hold", 5)


def test_the_arm_comes_to_rest_when_the_guard_is_killed(arm):
    arm.move()
    start = arm.measured()
    arm.processes.kill("guard")
    time.sleep(0.8)
    assert arm.measured()[1] - start[1] > 0.005, "it was moving"
    arm.assert_arm_rests()


@pytest.fixture(scope="module")
def policy_bench(tmp_path_factory, robot, tiny_bundle):
    """Policy and guard, both active; this process plays the arm."""
    domain = 55 + os.getpid() % 40
    _, policy = policy_graph(bundle=str(tiny_bundle), robot=str(robot), task="marker")
    guard = NodeProcess(name="guard", parameters={"robot": str(robot), **PATIENCE})
    made = Bench(tmp_path_factory.mktemp("policy_bench"), robot, domain, (guard, policy))
    try:
        made.activate("guard")
        made.activate("policy")
        yield made
    finally:
        made.close()


def planning(policy_bench):
    """Starts the policy and publishes sensor data; returns whether a chunk was received."""
    policy_bench.operator.trigger("policy/start")
    first = len(policy_bench.chunks)
    deadline = time.monotonic() + WAIT_S
    while len(policy_bench.chunks) == first and time.monotonic() < deadline:
        policy_bench.publish_sensors(0.2)
    return len(policy_bench.chunks) > first


def wait_for_policy_message(policy_bench, text):
    policy_bench.wait(
        lambda: text in policy_bench.operator.latest_diagnostics("policy").get("message", ""),
        text,
        10,
    )
    time.sleep(0.3)
    n_chunks = len(policy_bench.chunks)
    time.sleep(0.8)
    assert len(policy_bench.chunks) == n_chunks, "a chunk was predicted without usable images"


def test_a_policy_predicts_chunks_from_the_sensor_topics(policy_bench):
    assert planning(policy_bench)
    chunk = messages.from_chunk_message(policy_bench.chunks[-1])
    assert chunk.names == policy_bench.spec.joint_names and chunk.actions.shape == (32, 7)
    assert 0 < time.time() - chunk.stamp < WAIT_S
    policy_bench.wait(
        lambda: "decode_ms" in policy_bench.operator.latest_diagnostics("policy"), "the report", 5
    )
    report = policy_bench.operator.latest_diagnostics("policy")
    assert report["decode_ms"] <= report["predict_ms"] <= report["latency_ms"]
    assert report["tokens"] and all(type(token) is int for token in report["tokens"])


def test_a_task_and_a_start_before_the_activation_start_no_planning(policy_bench):
    operator = policy_bench.operator
    operator.change_state("policy", Transition.TRANSITION_DEACTIVATE)
    operator.publish_task("marker")
    with pytest.raises(NacError, match="the node is not active"):
        operator.trigger("policy/start")
    n_chunks = len(policy_bench.chunks)
    operator.change_state("policy", Transition.TRANSITION_ACTIVATE)
    policy_bench.publish_sensors(1.5)
    assert len(policy_bench.chunks) == n_chunks
    assert operator.latest_diagnostics("policy")["message"] == "not started"


def test_foreign_diagnostics_neither_end_nor_flood_a_monitoring_node(policy_bench):
    node, seen = policy_bench.operator.node, policy_bench.operator.diagnostics
    outcomes = node.create_publisher(String, "twin/outcome", qos.LATCHED)
    reports = node.create_publisher(DiagnosticArray, "diagnostics", qos.MONITOR)
    for text in ("not JSON", "[1]", "1" * 5000, "[" * 50_000, "x" * 1_000_000):
        outcomes.publish(String(data=text))
    large = DiagnosticStatus(name="stranger", message="x" * 1_000_000)
    small = DiagnosticStatus(name="stranger", message="small")
    policy_bench.wait(lambda: reports.get_subscription_count() > 0, "the subscription", 10)
    for status in (large, small):
        reports.publish(DiagnosticArray(status=[status]))
    policy_bench.wait(lambda: "stranger" in seen, "the small report", 10)
    assert [report["message"] for report in seen["stranger"]] == ["small"]
    outcomes.publish(String(data='{"state": "running"}'))
    policy_bench.wait(
        lambda: policy_bench.operator.outcome == {"state": "running"}, "an outcome", 10
    )
    for publisher in (outcomes, reports):
        node.destroy_publisher(publisher)


def test_a_policy_with_low_confidence_sends_nothing_and_reports_it(
    policy_bench, tiny_bundle, robot
):
    assert planning(policy_bench)
    policy_bench.processes.kill("policy")
    low_confidence = {"bundle": str(tiny_bundle), "robot": str(robot), "task": "marker"}
    low_confidence |= {"on_low_confidence": "replan", "min_margin": 1.0}
    policy_bench.operator.diagnostics.pop("policy")
    try:
        policy_bench.processes.start(NodeProcess(name="policy", parameters=low_confidence))
        policy_bench.wait(
            lambda: policy_bench.operator.latest_diagnostics("policy"), "diagnostics of the policy"
        )
        time.sleep(0.5)
        policy_bench.activate("policy")
        policy_bench.operator.trigger("policy/start")
        n_chunks = len(policy_bench.chunks)
        policy_bench.publish_sensors(1.0)
        diagnostics = policy_bench.operator.latest_diagnostics
        policy_bench.wait(
            lambda: diagnostics("policy").get("unusable.low_confidence", 0) > 1, "the count", 5
        )
        texts = [report["message"] for report in policy_bench.operator.diagnostics["policy"]]
        assert any(text.startswith("low confidence: margin") for text in texts)
        assert len(policy_bench.chunks) == n_chunks
    finally:
        policy_bench.processes.kill("policy")
        policy_bench.operator.diagnostics.pop("policy")
        policy_bench.processes.start(policy_graph(str(tiny_bundle), str(robot), task="marker")[1])
        policy_bench.wait(
            lambda: policy_bench.operator.latest_diagnostics("policy"), "diagnostics of the policy"
        )
        time.sleep(0.5)
        policy_bench.activate("policy")


def test_a_stale_camera_stops_planning_and_is_named(policy_bench):
    assert planning(policy_bench)
    policy_bench.publish_sensors(2.0, cameras=["scene"])
    assert "camera wrist: stale" in policy_bench.operator.latest_diagnostics("policy")["message"]
    policy_bench.publish_sensors(0.3, cameras=["scene"])
    wait_for_policy_message(policy_bench, "stale")


def test_joint_states_that_are_not_finite_stop_planning(policy_bench):
    assert planning(policy_bench)
    policy_bench.publish_sensors(2.0, positions=policy_bench.spec.home * np.nan)
    report = policy_bench.operator.latest_diagnostics("policy")
    assert "joint_states: stale" in report["message"] and "not finite" in report["last_rejection"]
    wait_for_policy_message(policy_bench, "stale")


def test_images_of_a_wrong_size_are_rejected(policy_bench):
    assert planning(policy_bench)
    policy_bench.publish_sensors(2.0, height=48)
    report = policy_bench.operator.latest_diagnostics("policy")
    assert "camera" in report["message"] and "stale" in report["message"]
    assert "wanted a uint8 image of (96, 96, 3)" in report["last_rejection"]
    wait_for_policy_message(policy_bench, "stale")


def test_an_unknown_task_is_rejected_with_the_known_ones(policy_bench):
    policy_bench.operator.publish_task("make coffee")
    wait_for_policy_message(policy_bench, "unknown task 'make coffee'")
    policy_bench.operator.set_task("marker")


def test_the_guard_detects_a_killed_policy(policy_bench):
    assert planning(policy_bench)
    policy_bench.operator.set_mode("policy")
    deadline = time.monotonic() + 10
    while policy_bench.guard("state") != "running" and time.monotonic() < deadline:
        policy_bench.publish_sensors(0.2)
    if policy_bench.guard("state") != "running":
        pytest.fail(
            f"the guard played no chunk: {policy_bench.operator.latest_diagnostics('guard')}"
        )
    policy_bench.processes.kill("policy")
    policy_bench.publish_sensors(1.5)
    assert policy_bench.guard("hold") == "heartbeat_lost"
    assert policy_bench.guard("state") == "fault"


def test_the_guard_node_imports_neither_torch_nor_a_simulator():
    code = (
        "import sys, nac_ros.nodes.guard;"
        "bad = {'torch', 'mujoco', 'cv2'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "program", ["nac_ros.nodes.guard", "nac_ros.nodes.twin", "nac_ros.cli.main node guard"]
)
def test_a_node_rejects_bad_parameters_in_one_sentence(program):
    arguments = [sys.executable, "-m", *program.split(), "--ros-args", "-p", "robot:=r2d2"]
    variables = {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=60, check=False, env=variables
    )
    assert done.returncode == 2, done.stderr
    assert "unknown robot 'r2d2'; known are: vx300s" in done.stderr
    assert "Traceback" not in done.stderr
