"""Node `teleop` over DDS with the real guard and the twin: takeover, motion, release."""

import dataclasses
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from lifecycle_msgs.msg import Transition
from motion_assertions import assert_inside
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from test_nodes_graph import PATIENCE, Bench
from test_nodes_graph import robot as patient_robot  # noqa: F401

from nac_ros.core.config import config_dir
from nac_ros.robot.differential_ik import DifferentialIk
from nac_ros.robot.spec import load_robot
from nac_ros.ros import messages, qos
from nac_ros.ros.node_graph import NodeProcess, teleop_graph, twin_graph
from nac_ros.ros.security_policy import RECORDING, node_access
from nac_ros.teleop.input_mapping import ACTIONS, load_input_mapping

ROOT = config_dir().parent
DOCUMENT = (ROOT / "docs/teleoperation.md").read_text()
JOY_S = 0.02
SLOW = {"max_input_age_s": 0.6}  # a test machine may be busy
CLUTCH, FORWARD = 10, 1


class TeleopNodeBench(Bench):
    """Twin, guard and a teleop node; this process acts as gamepad, leader arm or policy."""

    def __init__(self, folder, robot, domain, mapping):
        guard = NodeProcess(name="guard", parameters={"robot": str(robot), **PATIENCE})
        self.robot, teleop = robot, teleop_graph(str(robot), mapping, **SLOW)
        nodes = (*twin_graph(str(robot), task="weighing"), guard, *teleop)
        super().__init__(folder, robot, domain, nodes)
        node = self.operator.node
        self.joy_out = node.create_publisher(Joy, "joy", qos.SENSOR_PUBLISHER)
        self.lead_out = node.create_publisher(
            JointState, "leader/joint_states", qos.SENSOR_PUBLISHER
        )
        self.tool, self.called = DifferentialIk(self.spec), []
        for name in ("guard", "teleop"):
            self.activate(name)

    def offer(self, name):
        """Offers one service of the recorder."""

        def answer(request, response):
            self.called.append(name)
            response.success, response.message = True, "noted"
            return response

        return self.operator.node.create_service(Trigger, f"recorder/{name}", answer)

    def reported(self, key="message"):
        return self.operator.latest_diagnostics("teleop").get(key, "")

    def press(self, seconds, *buttons, axes=None, until=lambda: False, beats=False, lead=None):
        """Publishes gamepad messages for `seconds`, and heartbeats or a leader if requested."""
        message = Joy(axes=[0.0] * 6, buttons=[0] * 15)
        for axis, value in (axes or {}).items():
            message.axes[axis] = value
        for button in buttons:
            message.buttons[button] = 1
        for i in range(round(seconds / JOY_S)):
            self.joy_out.publish(message)
            if lead is not None:
                self.lead_out.publish(lead)
            if beats and i % 2 == 0:
                self.beat_out.publish(Header())
            time.sleep(JOY_S)
            self.processes.check()
            if until():
                return True
        return False

    def free(self):
        """A new scene, the clutch released, the guard in mode hold."""
        self.press(0.3)
        self.ready()
        self.operator.set_mode("hold")
        self.press(0.3)
        self.commands.clear()

    def drive(self, axes, distance):
        """Engages the clutch and moves the tool by `distance` [m]; returns whether it arrived."""
        assert self.press(20, CLUTCH, until=lambda: self.reported("driving")), self.reported()
        start = self.place
        there = {"until": lambda: np.linalg.norm(self.place - start) > distance}
        return self.press(20, CLUTCH, axes=axes, **there)

    @property
    def place(self):
        return self.tool.pose(self.measured())[:3, 3]

    def assert_arm_rests(self):
        time.sleep(1.0)  # the servos catch up with the last set-point
        here = self.measured()
        time.sleep(0.3)
        np.testing.assert_allclose(self.measured(), here, atol=3e-3)

    def assert_limits_kept(self):
        rows = np.array([message.position for message in self.commands])
        stamps = np.array([messages.to_seconds(m.header.stamp) for m in self.commands])
        period = 1 / self.spec.guard_rate_hz
        uneven = np.flatnonzero(np.abs(np.diff(stamps) - period) > 1e-5) + 1
        for piece in np.split(rows, uneven):
            assert_inside(self.spec, piece, period)


@pytest.fixture(scope="module")
def bench(tmp_path_factory, patient_robot):  # noqa: F811
    domain = 150 + os.getpid() % 50
    made = TeleopNodeBench(tmp_path_factory.mktemp("bench"), patient_robot, domain, "gamepad")
    try:
        yield made
    finally:
        made.close()


def test_the_node_stays_within_the_access_policy(bench):
    node, may = bench.operator.node, node_access(bench.spec)["teleop"]
    publishes = {
        t.lstrip("/") for t, _ in node.get_publisher_names_and_types_by_node("teleop", "/")
    }
    hears = {t.lstrip("/") for t, _ in node.get_subscriber_names_and_types_by_node("teleop", "/")}
    calls = {t.lstrip("/") for t, _ in node.get_client_names_and_types_by_node("teleop", "/")}
    common = {"rosout", "parameter_events", "teleop/transition_event"}
    assert publishes and publishes <= {*may.publishes, *common}
    assert hears and hears <= {*may.subscribes, *common}
    assert calls and calls <= set(may.calls)


def test_the_arm_follows_the_stick_while_the_clutch_is_held(bench):
    bench.free()
    before = bench.place
    assert bench.drive({FORWARD: 1.0}, 0.05), bench.reported()
    assert bench.guard("mode") == "teleop"
    bench.press(0.8)
    assert bench.guard("mode") == "hold" and bench.reported() == "ready"
    bench.assert_arm_rests()
    moved = bench.place - before
    assert moved[0] > 0.02 and np.abs(moved[1:]).max() < 0.1 * moved[0]
    bench.assert_limits_kept()
    here = bench.measured()
    bench.press(0.5, axes={FORWARD: 1.0})
    np.testing.assert_allclose(bench.measured(), here, atol=5e-3)


def test_the_clutch_takes_over_from_a_policy_and_returns_control(bench):
    bench.free()
    called = [bench.offer("mark")]
    try:
        bench.move()
        before = bench.reported("takeovers") or 0
        began = bench.measured()
        assert bench.press(20, CLUTCH, until=lambda: bench.reported("driving"), beats=True)
        assert bench.guard("mode") == "teleop" and not bench.guard("fault")
        assert bench.reported("takeovers") == before + 1
        turned = {"until": lambda: bench.measured()[0] - began[0] > 0.02, "beats": True}
        assert bench.press(10, CLUTCH, axes={0: 1.0}, **turned), "the arm follows the stick"
        bench.press(0.5, beats=True)
        bench.wait(lambda: bench.guard("mode") == "policy", "the policy's turn", 5)
        bench.wait(lambda: bench.called == ["mark"], "the mark", 5)
        bench.assert_limits_kept()
    finally:
        bench.operator.node.destroy_service(called.pop())


def test_a_silent_gamepad_stops_the_arm_and_needs_a_new_press(bench):
    bench.free()
    assert bench.drive({FORWARD: 1.0}, 0.05), bench.reported()
    bench.wait(lambda: bench.guard("hold") == "teleop_silent", "silence", 5)
    bench.wait(lambda: "no valid message on joy for" in bench.reported(), "the report", 5)
    bench.assert_arm_rests()
    bench.assert_limits_kept()
    here = bench.measured()
    bench.press(0.5, CLUTCH, axes={FORWARD: 1.0})
    assert "release the clutch" in bench.reported() and not bench.reported("driving")
    np.testing.assert_allclose(bench.measured(), here, atol=5e-3)
    bench.press(0.4)
    assert bench.guard("mode") == "hold", "the policy does not resume"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Joy(axes=[float("nan")] * 6, buttons=[0] * 15), "axis 0 is not finite"),
        (Joy(axes=[0.0], buttons=[0] * 15), "has 1 axes, the mapping reads 4"),
    ],
)
def test_a_message_of_another_device_is_rejected_in_one_sentence(bench, message, text):
    bench.press(0.3)
    for _ in range(30):
        bench.joy_out.publish(message)
        time.sleep(JOY_S)
    bench.wait(lambda: text in bench.reported(), text, 5)
    assert bench.reported("rejections.joy") > 10


def test_a_guard_fault_prevents_a_takeover_and_is_reported(bench):
    bench.free()
    bench.press(0.3, 1)  # B
    bench.wait(lambda: bench.guard("fault") == "stopped", "the stop", 5)
    bench.press(0.3)
    bench.press(0.4, CLUTCH, axes={FORWARD: 1.0})
    assert "call guard/reset first" in bench.reported() and not bench.reported("driving")
    bench.operator.trigger("guard/reset")


def test_episode_buttons_call_the_recorder_once_or_report_that_it_is_missing(bench):
    bench.press(0.2)
    bench.press(0.2, 6)
    bench.wait(
        lambda: "no service recorder/start" in bench.reported("called.start"), "the report", 5
    )
    bench.called.clear()
    services = [bench.offer(name.rpartition("/")[2]) for name in RECORDING]
    try:
        for _ in range(10):  # until the node knows of them
            if not bench.called:
                bench.press(0.2, 6)
                bench.press(0.3)
        for button in (3, 4, 5):
            bench.press(0.2, button)
            bench.press(0.3)
        wanted = ["start", "stop", "discard", "mark"]
        bench.wait(lambda: bench.called == wanted, f"{wanted}, not {bench.called}", 5)
        bench.wait(lambda: bench.reported("called.mark") == "noted", "the answer", 5)
    finally:
        for service in services:
            bench.operator.node.destroy_service(service)


def test_deactivating_the_node_releases_the_arm(bench):
    bench.free()
    assert bench.drive({FORWARD: 1.0}, 0.02), bench.reported()
    bench.operator.change_state("teleop", Transition.TRANSITION_DEACTIVATE)
    bench.wait(lambda: bench.guard("mode") == "hold", "hold", 5)
    bench.assert_arm_rests()
    bench.operator.change_state("teleop", Transition.TRANSITION_ACTIVATE)


def restarted(bench, mapping, **parameters):
    """The bench with a teleop node of another mapping."""
    if bench.processes.is_running("teleop"):
        bench.processes.end(["teleop"])
    bench.operator.diagnostics.pop("teleop", None)
    name = str(bench.robot)
    (node,) = teleop_graph(name, mapping, **SLOW, **parameters)
    bench.processes.start(node)
    bench.wait(lambda: bench.reported(), "diagnostics of teleop")
    time.sleep(0.5)
    bench.activate("teleop")
    bench.wait(lambda: isinstance(bench.reported("age_s.arm"), float), "set-points", 10)


def test_the_arm_follows_a_leader_with_other_joint_names(bench, tmp_path):
    text = (config_dir() / "teleop/leader.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(f"{text}  waist: {{name: left/j1, scale: -1.0}}\n")
    restarted(bench, str(path))
    bench.free()
    names = ["left/j1", *bench.spec.joint_names[1:6], "gripper"]
    lead = JointState(name=names, position=[*bench.measured()[:6].tolist(), 1.0])
    start = bench.measured()[0]
    bench.press(0.3, CLUTCH)
    assert "no valid message on leader yet" in bench.reported()
    bench.press(0.3, CLUTCH, lead=lead)
    assert "pressed before all inputs arrived; release the clutch" in bench.reported()
    bench.press(0.3, lead=lead)
    driving = {"until": lambda: bench.reported("driving"), "lead": lead}
    assert bench.press(20, CLUTCH, **driving), bench.reported()
    bench.press(0.2, CLUTCH, lead=lead)
    lead.position[0] -= 0.3
    bench.press(1.5, CLUTCH, lead=lead)
    assert bench.measured()[0] - start == pytest.approx(0.3, abs=0.02)
    lead.name[0] = "waist"
    bench.press(1.2, CLUTCH, lead=lead)
    assert "the leader's message lacks left/j1; it holds waist" in bench.reported()
    assert bench.guard("hold") == "teleop_silent"
    bench.assert_limits_kept()


def test_keys_of_a_terminal_move_the_arm_and_the_terminal_is_restored(bench, tmp_path):
    if bench.processes.is_running("teleop"):
        bench.processes.end(["teleop"])
    bench.operator.diagnostics.pop("teleop", None)
    typed, read = pty.openpty()
    before = termios.tcgetattr(read)
    (node,) = teleop_graph(str(bench.robot), "keyboard")
    with (tmp_path / "log").open("wb") as log:
        arguments = [sys.executable, *node.arguments(tmp_path / "parameters.yaml")]
        process = subprocess.Popen(arguments, stdin=read, stdout=log, stderr=log)
    try:
        bench.wait(lambda: bench.reported(), "diagnostics of teleop")
        time.sleep(0.5)
        bench.activate("teleop")
        bench.ready()
        bench.operator.set_mode("hold")
        start = bench.place
        os.write(typed, b" ")
        bench.wait(lambda: bench.reported("driving"), "the clutch", 5)
        for _ in range(30):
            os.write(typed, b"w")
            time.sleep(0.03)
        os.write(typed, b"q")
        bench.wait(lambda: bench.guard("mode") == "hold", "hold", 5)
        assert bench.place[0] - start[0] > 0.01
        assert termios.tcgetattr(read) != before
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0, (tmp_path / "log").read_text()
        assert termios.tcgetattr(read) == before
    finally:
        process.kill()
        process.wait()
        os.close(typed), os.close(read)


def test_killing_the_node_releases_the_arm(bench):
    restarted(bench, "gamepad")
    bench.free()
    assert bench.drive({FORWARD: 1.0}, 0.02), bench.reported()
    bench.processes.kill("teleop")
    bench.wait(lambda: bench.guard("hold") == "teleop_silent", "silence", 5)
    bench.assert_arm_rests()
    bench.assert_limits_kept()


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        ("mapping:=wheel", "unknown mapping 'wheel'; known are: gamepad, keyboard"),
        ("mapping:=keyboard", "the keyboard needs a terminal"),
        ("leader_mode:=loose", "'loose' is not one of relative, absolute"),
    ],
)
def test_an_invalid_parameter_is_reported_in_one_sentence(parameter, text):
    arguments = [sys.executable, "-m", "nac_ros.nodes.teleop", "--ros-args", "-p", parameter]
    variables = {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    done = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=variables,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2 and text in done.stderr and "Traceback" not in done.stderr


def test_the_table_of_parameters_has_their_names_and_defaults():
    from nac_ros.nodes.teleop import TeleopParameters

    rows = dict(re.findall(r"^\| `(\w+)` \| `?([\w.]+)`? \| ", DOCUMENT, re.MULTILINE))
    fields = dataclasses.fields(TeleopParameters)
    assert rows == {field.name: str(field.default) for field in fields}


def test_the_table_of_buttons_is_that_of_the_shipped_mapping():
    documented = dict(
        re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| [^|]+ \| (\d+|none) \|", DOCUMENT, re.M)
    )
    buttons = load_input_mapping("gamepad").buttons
    assert {name for row in documented for name in re.findall(r"`(\w+)`", row)} == set(ACTIONS)
    for row, number in documented.items():
        assert str(buttons.get(row.strip("`"), "none")) == number, row


def test_every_key_of_the_keyboard_is_in_the_table():
    keys = set(load_input_mapping("keyboard").keys)
    line = DOCUMENT.split("## Keyboard")[1].split("\n## ")[0]
    assert keys == set(re.findall(r"<kbd>(\w+)</kbd>", line))
    assert load_robot("vx300s").action_dim == 7
