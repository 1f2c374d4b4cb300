"""Log and output of a node: a blocked terminal does not stop it, foreign text is shortened."""

import fcntl
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from lifecycle_msgs.msg import Transition
from trajectory_msgs.msg import JointTrajectory

from nac_ros.core.errors import show_text
from nac_ros.core.types import ActionChunk
from nac_ros.robot.spec import load_robot
from nac_ros.ros import messages, qos
from nac_ros.ros.graph_client import GraphClient

SPEC = load_robot("vx300s")
WRITES = """
import ctypes, os, sys
from nac_ros.ros.output import is_writable, unblock_output
before = is_writable()
unblock_output()
print("a line of Python's", file=sys.stderr)
ctypes.CDLL(None).write(2, b"a line of C's", 13)
os.write(1, f"{before} {is_writable()} {sys.stderr.buffer.dropped}".encode())
"""
LINES = """
import rclpy
from rclpy.node import Node
from nac_ros.ros.node_log import MAX_WAITING, NodeLog, flush_logs
rclpy.init()
log = NodeLog(Node("talker"))
log.warning("first\\x1b[2J\\n[FATAL] [guard]: all is well", "names")
log.warning("second", "names")
log.warning("another reason", "shape")
log.info("x" * 2000)
log.fatal("Traceback:\\n  line 1\\nError: \\x07")
flush_logs()
for n in range(3 * MAX_WAITING):
    log.info(f"line {n}")
flush_logs()
print(log.dropped)
"""


@pytest.fixture
def full_pipe():
    """The write end of a full pipe without a reader, like a paused terminal."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write, False)
    while True:
        try:
            os.write(write, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(write, True)
    yield write
    os.close(read)
    os.close(write)


def test_writes_to_a_full_pipe_are_dropped_and_counted(full_pipe):
    done = subprocess.run(
        [sys.executable, "-c", WRITES], stdout=subprocess.PIPE, stderr=full_pipe, timeout=60
    )
    assert done.returncode == 0
    before, after, dropped = done.stdout.decode().split()
    assert (before, after) == ("False", "False") and int(dropped) >= 1
    assert os.get_blocking(full_pipe), "other users of the pipe still write to it blocking"


def test_lines_are_escaped_and_truncated_and_limited_to_one_a_second_per_reason():
    done = subprocess.run(
        [sys.executable, "-c", LINES], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert r"first\x1b[2J\n[FATAL] [guard]: all is well" in lines[0]
    assert "another reason" in lines[1] and "second" not in done.stderr
    assert "x...x" in lines[2] and len(lines[2]) < 600
    assert [line.strip() for line in lines[4:6]] == ["line 1", r"Error: \x07"]
    shown = sum("]: line " in line for line in lines)
    dropped = int(done.stdout)
    assert shown + dropped == 600 and dropped > 0


def test_text_of_other_nodes_is_printable_and_short():
    assert show_text("a\nb\x1b\u2028é", 100) == "a\\nb\\x1b\\u2028é"
    assert len(show_text("a" * 50, 10)) == 10
    assert show_text("\ud800", 10) == "\\ud800"
    status = messages.to_status("guard", b"\0", "bad\nline", {"k\n": "v\x07" * 5000, "n": 1.5})
    assert status.message == r"bad\nline" and status.values[0].key == r"k\n"
    assert len(status.values[0].value) < 1100 and "\x07" not in status.values[0].value
    assert messages.values_from_status(status)["n"] == 1.5


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000])
def test_a_status_value_that_is_no_valid_json_stays_text(text):
    status = messages.to_status("guard", b"\0", "", {})
    status.values = [messages.KeyValue(key="mode", value=text)]
    assert messages.values_from_status(status)["mode"] == text


@pytest.fixture
def start(full_pipe, tmp_path):
    """An operator, and a function that starts a node with a blocked terminal."""
    domain = 110 + os.getpid() % 30
    variables = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    os.environ.update(variables)
    started = []

    def run(name, *given):
        arguments = [part for one in given for part in ("-p", one)]
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", f"nac_ros.nodes.{name}", "--ros-args", *arguments],
                stdout=full_pipe,
                stderr=full_pipe,
                stdin=subprocess.DEVNULL,
            )
        )
        return started[-1]

    with GraphClient(domain) as operator:
        yield operator, run
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.parametrize("name", ["guard", "recorder", "teleop", "policy"])
def test_a_node_with_a_blocked_terminal_starts_and_ends(start, name):
    operator, run = start
    process = run(name)
    operator.wait_until(lambda: operator.latest_diagnostics(name), f"diagnostics of {name}", 60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_a_guard_with_a_blocked_terminal_rejects_stops_and_ends(start):
    operator, run = start
    process = run("guard", "call_log:=none", "priority:=0")
    operator.activate("guard")
    chunks = operator.node.create_publisher(JointTrajectory, "policy/chunk", qos.COMMAND)
    operator.wait_until(lambda: chunks.get_subscription_count() > 0, "the guard", 10)
    for k in range(300):
        names = tuple(f"joint {k} {n}" for n in range(7))
        actions = np.zeros((3, 7), np.float32)
        chunk = ActionChunk(time.time(), 30.0, names, actions, np.empty(0, np.int64))
        operator._modes.publish("policy")  # without a hold, which is rejected
        chunks.publish(messages.to_chunk_message(chunk))
        time.sleep(0.005)
    assert operator.trigger("guard/stop", 10).startswith("stopping")
    operator.wait_until(
        lambda: operator.latest_diagnostics("guard").get("fault") == "stopped", "the stop", 10
    )
    operator.wait_until(
        lambda: operator.latest_diagnostics("guard").get("log_dropped", 0) > 0, "the count", 10
    )
    operator.change_state("guard", Transition.TRANSITION_DEACTIVATE)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
