"""The graph over DDS, each node in a process of its own, with the real twin and a real bundle."""

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
TRIES = 5  # a motion that a busy machine interrupted is begun again
PATIENCE = {"max_heartbeat_age_s": 0.5, "max_gap_s": 0.5}  # as for `robot`


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    """The robot's YAML with more patience for sensors: a test machine may be busy."""
    facts = yaml.safe_load((config_dir() / "robots" / "vx300s.yaml").read_text())
    facts["joint_states_max_age_s"] = 0.8
    for camera in facts["cameras"]:
        camera["max_age_s"] = 0.8
    path = tmp_path_factory.mktemp("robot") / "vx300s.yaml"
    path.write_text(yaml.safe_dump(facts))
    return path


class Bench:
    """Nodes as processes, and this process as whoever else is on the graph."""

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

    def measured(self):
        return messages.from_joint_state(self.joints[-1], self.spec.joint_names)

    def ready(self):
        """A fresh scene, the guard in mode policy, nothing moving."""
        self.operator.set_mode("hold")
        self.wait(lambda: self.guard("state") in ("idle", "armed", "fault", 0), "rest", 5)
        self.operator.trigger("twin/reset")
        time.sleep(0.3)
        self.operator.trigger("guard/reset")  # the arm is elsewhere now
        self.operator.set_mode("policy")
        time.sleep(0.1)
        self.wait(lambda: self.guard("hold") != "settling", "the controller's set-point")
        self.joints.clear(), self.commands.clear()
        self.wait(lambda: len(self.joints) > 3 and len(self.commands) > 3, "the arm")

    def swing(self, amplitude=0.5, **changes):
        """A chunk that moves the shoulder from where it is and is fastest at its end."""
        actions = np.tile(self.measured(), (32, 1))
        actions[:, 1] += amplitude * (1 - np.cos(np.arange(1, 33) / 32 * np.pi / 2))
        facts = {"stamp": time.time() - 0.01, "rate_hz": 30.0, "names": self.spec.joint_names}
        facts |= {"actions": actions.astype(np.float32), "tokens": np.empty(0, np.int64)}
        return ActionChunk(**{**facts, **changes})

    def send(self, chunk):
        self.chunk_out.publish(messages.to_chunk_message(chunk))

    def beat(self, seconds, until=lambda: False):
        """Is a living policy for so long."""
        for _ in range(round(seconds / BEAT_S)):
            self.beat_out.publish(Header())
            time.sleep(BEAT_S)
            if until():
                return

    def move(self):
        """Until the arm moves fast, with most of the chunk still to come."""
        for _ in range(TRIES):
            self.ready()
            start = self.measured()[1]
            self.send(self.swing(0.8))
            self.beat(0.8, until=lambda at=start: self.measured()[1] - at > 0.08)
            if self.guard("state") == "running" and self.measured()[1] - start > 0.08:
                return
        pytest.fail(f"the arm did not move: {self.operator.latest_diagnostics('guard')}")

    def sense(self, seconds, positions=None, cameras=None, **size):
        """Is an arm with cameras for so long."""
        positions = self.spec.home if positions is None else positions
        shape = (size.get("height", 96), size.get("width", 96), 3)
        for _ in range(round(seconds * 30)):
            now = time.time()
            self.joints_out.publish(messages.to_joint_state(now, self.spec.joint_names, positions))
            for name in self.images_out if cameras is None else cameras:
                self.images_out[name].publish(messages.to_image(now, name, np.zeros(shape, "u1")))
            time.sleep(1 / 30)

    def speeds(self):
        """Times and joint speeds `[N, D]` of the commands seen since `ready`."""
        rows = [(messages.to_seconds(m.header.stamp), np.array(m.position)) for m in self.commands]
        gaps = [(b[0], (b[1] - a[1]) / max(b[0] - a[0], 1e-9)) for a, b in pairwise(rows)]
        return np.array([t for t, _ in gaps]), np.array([v for _, v in gaps])

    def assert_arm_rests(self):
        time.sleep(0.4)  # the servos catch up with the last set-point
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
        arm.beat(2.0)
        if arm.guard("hold") in ("chunk_ended", "chunk_stale"):
            break
    assert arm.guard("hold") in ("chunk_ended", "chunk_stale")
    moved = arm.measured() - start
    assert moved[1] == pytest.approx(0.2, abs=0.06)
    assert np.abs(np.delete(moved, 1)).max() < 5e-3
    arm.assert_arm_rests()


def test_the_guard_tells_how_far_a_chunk_lay_off_as_it_took_over(arm):
    for _ in range(TRIES):
        arm.move()
        aside = arm.swing(0.0)
        aside.actions[:, 0] += 0.05
        arm.send(aside)
        arm.beat(1.05, until=lambda at=aside.stamp: abs(arm.guard("chunk_stamp") - at) < 1e-3)
        if abs(arm.guard("chunk_stamp") - aside.stamp) < 1e-3:
            break
    assert arm.guard("chunk_stamp") == pytest.approx(aside.stamp, abs=1e-3)
    assert arm.guard("transition_jump") > 0.045
    arm.operator.set_mode("hold")
    arm.wait(lambda: "transition_jump" not in arm.operator.latest_diagnostics("guard"), "nothing followed")


def test_a_policy_that_falls_silent_leaves_the_arm_stopped_with_the_reason(arm):
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


def test_teleoperation_takes_over_by_its_clutch_and_its_silence_stops_the_arm(arm):
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
    arm.beat(0.2)
    assert arm.guard("mode") == "hold"
    arm.assert_arm_rests()


def test_a_mode_that_nobody_knows_holds_the_arm(arm):
    arm.ready()
    arm.operator._modes.publish("autopilot")
    arm.wait(lambda: arm.guard("mode") == "hold", "mode hold", 5)
    assert "'autopilot' is unknown" in arm.guard("last_rejection")


@contextmanager
def console(*modes):
    """Another participant that has just latched modes."""
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        modes_out = ModePublisher(rclpy.node.Node("console", context=context))
        for mode in modes:
            modes_out.publish(mode)
        yield modes_out
    finally:
        context.try_shutdown()


def test_nothing_that_was_sent_before_the_activation_sets_the_arm_in_motion(arm):
    """Latched modes of consoles, chunks, commands of a hand, and calls of each service."""
    arm.ready()
    arm.operator.set_mode("hold")
    operator = arm.operator
    for attempt in range(3):
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
            with console("hold", "policy"):  # found when the guard is active already
                operator.change_state("guard", Transition.TRANSITION_ACTIVATE)
                for _ in range(10):
                    arm.send(arm.swing())
                    arm.teleop_out.publish(messages.to_chunk_message(arm.swing()))
                    arm.beat(0.1)
                counts = operator.latest_diagnostics("guard")
                assert (counts["mode"], counts["state"]) == ("hold", "idle"), attempt
        np.testing.assert_allclose(arm.measured(), start, atol=2e-3)
    assert "was sent before the guard was activated; send hold first" in arm.guard("last_rejection")


def test_a_mode_alone_is_refused_in_one_sentence_and_hold_and_the_mode_start_the_arm(arm):
    arm.ready()
    operator = arm.operator
    operator.change_state("guard", Transition.TRANSITION_DEACTIVATE)
    operator.change_state("guard", Transition.TRANSITION_ACTIVATE)
    before = arm.guard("rejections.hold_first")
    for _ in range(20):
        operator._modes.publish("policy")
        arm.send(arm.swing())
        arm.beat(0.1)
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


def test_bad_chunks_are_refused_with_their_reasons_and_the_arm_holds(arm):
    arm.ready()
    here = arm.measured()
    for reason, change in BAD.items():
        before, good = arm.guard(f"rejections.{reason}"), arm.swing(0.2)
        arm.send(arm.swing(0.2, **change(good)))
        arm.wait(lambda r=reason, n=before: arm.guard(f"rejections.{r}") > n, reason, 5)
    arm.beat(0.3)
    assert arm.guard("state") == "armed"
    np.testing.assert_allclose(arm.measured(), here, atol=2e-3)


def test_a_chunk_with_ragged_points_is_refused(arm):
    arm.ready()
    message = messages.to_chunk_message(arm.swing())
    message.points[3].positions = [0.0]
    arm.chunk_out.publish(message)
    arm.wait(lambda: "point 3 has 1 positions" in arm.guard("last_rejection"), "the rejection", 5)


def test_bytes_that_are_no_chunk_are_refused(arm):
    arm.ready()
    before = arm.guard("rejections.shape")
    arm.chunk_out.publish(b"\0\1\0\0" + b"\xff" * 40)
    arm.wait(lambda: arm.guard("rejections.shape") > before, "the rejection", 5)
    assert "44 bytes are no JointTrajectory" in arm.guard("last_rejection")


def test_large_messages_are_refused_unread_and_what_strangers_write_is_cut_and_escaped(arm):
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


def test_a_guard_on_a_cpu_that_is_not_there_says_which_there_are():
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


def test_of_a_crowd_of_senders_some_are_heard_and_the_others_are_named(arm):
    arm.ready()
    node = arm.operator.node
    crowd = [node.create_publisher(JointTrajectory, "policy/chunk", qos.COMMAND) for _ in range(6)]
    for one in crowd:
        arm.wait(lambda out=one: out.get_subscription_count() > 0, "a guard that listens", 10)
    time.sleep(0.5)
    before = arm.guard("rejections.crowd")
    for _ in range(20):
        for one in crowd:
            one.publish(messages.to_chunk_message(arm.swing(names=arm.spec.joint_names[::-1])))
        time.sleep(0.1)
    arm.wait(lambda: arm.guard("rejections.crowd") > before, "the rejection", 5)
    for one in crowd:
        node.destroy_publisher(one)


def test_joint_states_with_nan_are_refused_with_the_joint_s_name(arm):
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


def test_a_guard_that_is_killed_leaves_an_arm_that_comes_to_rest(arm):
    arm.move()
    start = arm.measured()
    arm.processes.kill("guard")
    time.sleep(0.8)
    assert arm.measured()[1] - start[1] > 0.005, "it was moving"
    arm.assert_arm_rests()


@pytest.fixture(scope="module")
def brain(tmp_path_factory, robot, tiny_bundle):
    """Policy and guard, both active; this process is the arm."""
    domain = 55 + os.getpid() % 40
    _, policy = policy_graph(bundle=str(tiny_bundle), robot=str(robot), task="marker")
    guard = NodeProcess(name="guard", parameters={"robot": str(robot), **PATIENCE})
    made = Bench(tmp_path_factory.mktemp("brain"), robot, domain, (guard, policy))
    try:
        made.activate("guard")
        made.activate("policy")
        yield made
    finally:
        made.close()


def planning(brain):
    """Starts the policy on fresh sensors; True when a chunk came."""
    brain.operator.trigger("policy/start")
    first = len(brain.chunks)
    deadline = time.monotonic() + WAIT_S
    while len(brain.chunks) == first and time.monotonic() < deadline:
        brain.sense(0.2)
    return len(brain.chunks) > first


def policy_says(brain, text):
    brain.wait(lambda: text in brain.operator.latest_diagnostics("policy").get("message", ""), text, 10)
    time.sleep(0.3)
    n_chunks = len(brain.chunks)
    time.sleep(0.8)
    assert len(brain.chunks) == n_chunks, "a chunk was planned without eyes"


def test_a_policy_plans_from_what_the_sensors_send(brain):
    assert planning(brain)
    chunk = messages.from_chunk_message(brain.chunks[-1])
    assert chunk.names == brain.spec.joint_names and chunk.actions.shape == (32, 7)
    assert 0 < time.time() - chunk.stamp < WAIT_S
    brain.wait(lambda: "decode_ms" in brain.operator.latest_diagnostics("policy"), "the report", 5)
    report = brain.operator.latest_diagnostics("policy")
    assert report["decode_ms"] <= report["predict_ms"] <= report["latency_ms"]
    assert report["tokens"] and all(type(token) is int for token in report["tokens"])


def test_a_task_and_a_start_from_before_the_activation_start_no_planning(brain):
    operator = brain.operator
    operator.change_state("policy", Transition.TRANSITION_DEACTIVATE)
    operator.publish_task("marker")
    with pytest.raises(NacError, match="the node is not active"):
        operator.trigger("policy/start")
    n_chunks = len(brain.chunks)
    operator.change_state("policy", Transition.TRANSITION_ACTIVATE)
    brain.sense(1.5)
    assert len(brain.chunks) == n_chunks
    assert operator.latest_diagnostics("policy")["message"] == "not started"


def test_what_strangers_report_neither_ends_nor_floods_who_looks_on(brain):
    node, seen = brain.operator.node, brain.operator.diagnostics
    outcomes = node.create_publisher(String, "twin/outcome", qos.LATCHED)
    reports = node.create_publisher(DiagnosticArray, "diagnostics", qos.MONITOR)
    for text in ("not JSON", "[1]", "1" * 5000, "[" * 50_000, "x" * 1_000_000):
        outcomes.publish(String(data=text))
    large = DiagnosticStatus(name="stranger", message="x" * 1_000_000)
    small = DiagnosticStatus(name="stranger", message="small")
    brain.wait(lambda: reports.get_subscription_count() > 0, "who looks on", 10)
    for status in (large, small):
        reports.publish(DiagnosticArray(status=[status]))
    brain.wait(lambda: "stranger" in seen, "the small report", 10)
    assert [report["message"] for report in seen["stranger"]] == ["small"]
    outcomes.publish(String(data='{"state": "running"}'))
    brain.wait(lambda: brain.operator.outcome == {"state": "running"}, "an outcome", 10)
    for publisher in (outcomes, reports):
        node.destroy_publisher(publisher)


def test_a_policy_that_is_not_sure_sends_nothing_and_says_so(brain, tiny_bundle, robot):
    assert planning(brain)
    brain.processes.kill("policy")
    low_confidence = {"bundle": str(tiny_bundle), "robot": str(robot), "task": "marker"}
    low_confidence |= {"on_low_confidence": "replan", "min_margin": 1.0}
    brain.operator.diagnostics.pop("policy")
    try:
        brain.processes.start(NodeProcess(name="policy", parameters=low_confidence))
        brain.wait(lambda: brain.operator.latest_diagnostics("policy"), "a word of the policy")
        time.sleep(0.5)
        brain.activate("policy")
        brain.operator.trigger("policy/start")
        n_chunks = len(brain.chunks)
        brain.sense(1.0)
        report = brain.operator.latest_diagnostics("policy")
        assert report["message"].startswith("low confidence: margin") and report["unusable.low_confidence"] > 1
        assert len(brain.chunks) == n_chunks
    finally:
        brain.processes.kill("policy")
        brain.operator.diagnostics.pop("policy")
        brain.processes.start(policy_graph(str(tiny_bundle), str(robot), task="marker")[1])
        brain.wait(lambda: brain.operator.latest_diagnostics("policy"), "a word of the policy")
        time.sleep(0.5)
        brain.activate("policy")


def test_a_stale_camera_ends_planning_and_the_policy_says_which(brain):
    assert planning(brain)
    brain.sense(2.0, cameras=["scene"])
    assert "camera wrist: stale" in brain.operator.latest_diagnostics("policy")["message"]
    brain.sense(0.3, cameras=["scene"])
    policy_says(brain, "stale")


def test_joint_states_that_are_not_finite_end_planning(brain):
    assert planning(brain)
    brain.sense(2.0, positions=brain.spec.home * np.nan)
    report = brain.operator.latest_diagnostics("policy")
    assert "joint_states: stale" in report["message"] and "not finite" in report["last_rejection"]
    policy_says(brain, "stale")


def test_images_of_another_size_are_refused(brain):
    assert planning(brain)
    brain.sense(2.0, height=48)
    report = brain.operator.latest_diagnostics("policy")
    assert "camera" in report["message"] and "stale" in report["message"]
    assert "wanted a uint8 image of (96, 96, 3)" in report["last_rejection"]
    policy_says(brain, "stale")


def test_an_unknown_task_is_refused_with_those_that_were_learned(brain):
    brain.operator.publish_task("make coffee")
    policy_says(brain, "unknown task 'make coffee'")
    brain.operator.set_task("marker")


def test_a_policy_that_is_killed_is_noticed_by_the_guard(brain):
    assert planning(brain)
    brain.operator.set_mode("policy")
    deadline = time.monotonic() + 10
    while brain.guard("state") != "running" and time.monotonic() < deadline:
        brain.sense(0.2)
    if brain.guard("state") != "running":
        pytest.fail(f"the guard played no chunk: {brain.operator.latest_diagnostics('guard')}")
    brain.processes.kill("policy")
    brain.sense(1.5)
    assert brain.guard("hold") == "heartbeat_lost"
    assert brain.guard("state") == "fault"


def test_the_guard_node_imports_neither_torch_nor_a_simulator():
    code = (
        "import sys, nac_ros.nodes.guard;"
        "bad = {'torch', 'mujoco', 'cv2'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["guard", "twin"])
def test_a_node_says_in_one_sentence_what_is_wrong_with_its_parameters(name):
    arguments = [sys.executable, "-m", f"nac_ros.nodes.{name}", "--ros-args", "-p", "robot:=r2d2"]
    variables = {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=60, check=False, env=variables
    )
    assert done.returncode == 2, done.stderr
    assert "unknown robot 'r2d2'; known are: vx300s" in done.stderr
    assert "Traceback" not in done.stderr
