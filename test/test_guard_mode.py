"""Mode requests over DDS: those sent before the activation do not count."""

import os
import shutil
import subprocess
import sys
import time

import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from std_msgs.msg import String

from nac_ros.ros import qos
from nac_ros.ros.guard_mode import TAKES_UNTIL_LATE, ModePublisher, ModeRequest, ModeRequests

DEEP = QoSProfile(depth=10, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
# Shifts the system clock that a process reads by SHIFT_S.
SHIFTED_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(id, now);
    if (id == CLOCK_REALTIME && getenv("SHIFT_S")) now->tv_sec += atoi(getenv("SHIFT_S"));
    return done;
}
"""
PATIENCE_S = 40.0  # the middleware sleeps until a time on the shifted clock
CONSOLE = """
import sys, time
import rclpy
from rclpy.node import Node
from std_msgs.msg import String
from nac_ros.ros import qos
rclpy.init()
publisher = Node("console").create_publisher(String, "guard/mode", qos.LATCHED)
publisher.publish(String(data="policy"))
print(time.time(), flush=True)
for line in sys.stdin:
    publisher.publish(String(data=line.strip()))
"""


class Graph:
    """Publishers, each of another participant, and the guard's subscriptions."""

    def __init__(self):
        self._contexts, self._nodes = [], []
        self.guard = self.node("guard")
        self.requests = None

    def node(self, name):
        context = rclpy.Context()
        rclpy.init(context=context)
        self._contexts.append(context)
        self._nodes.append(Node(name, context=context))
        return self._nodes[-1]

    def console(self, profile=qos.LATCHED):
        return self.node("console").create_publisher(String, "guard/mode", profile)

    def activate(self):
        self.requests = ModeRequests(self.guard)

    def matched(self, *publishers):
        deadline = time.monotonic() + 10
        while any(p.get_subscription_count() < 2 for p in publishers):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def take(self, wanted, seconds=10.0):
        """Requests until `wanted(request)`, and until old latched ones are rejected."""
        found, deadline = [], time.monotonic() + seconds
        while not any(map(wanted, found)) and time.monotonic() < deadline:
            found += self.requests.take()
            time.sleep(0.005)
        for _ in range(TAKES_UNTIL_LATE + 2):
            found += self.requests.take()
            time.sleep(0.005)
        return found

    def counted(self, wanted, seconds=10.0):
        """Modes that counted, until `wanted` or a rejection."""
        found = self.take(lambda request: request.rejection or request.mode == wanted, seconds)
        return [request.mode for request in found if not request.rejection]

    def close(self):
        for context in self._contexts:
            context.try_shutdown()


@pytest.fixture
def graph():
    made = Graph()
    yield made
    made.close()


def publish(publisher, *modes):
    for mode in modes:
        publisher.publish(String(data=mode))


def test_a_mode_that_was_latched_before_the_activation_does_not_count(graph):
    console = graph.console()
    publish(console, "policy")
    graph.activate()
    (request,) = graph.take(lambda request: request.rejection)
    assert request.mode == "policy"
    assert request.rejection == (
        "guard/mode policy was sent before the guard was activated; send hold first, then the mode"
    )


def test_a_hold_and_a_mode_that_one_publisher_latched_before_do_not_count(graph):
    publish(graph.console(DEEP), "hold", "policy")
    graph.activate()
    assert graph.counted("policy") == ["hold"]


def test_a_latched_hold_of_one_console_makes_no_latched_mode_of_another_count(graph):
    publish(graph.console(), "hold")
    publish(graph.console(), "teleop")
    graph.activate()
    assert graph.counted("teleop") == ["hold"]


def test_hold_and_then_the_mode_count_and_each_is_returned_once(graph):
    console = graph.node("console")
    modes = ModePublisher(console)
    graph.activate()
    graph.matched(modes.publisher)
    modes.request("policy")
    found = graph.take(lambda request: request.mode == "policy")
    assert found[-1] == ModeRequest("policy")
    assert [request.mode for request in found if request.mode != "hold"] == ["policy"]


def test_a_latched_hold_and_then_a_new_mode_of_its_publisher_count(graph):
    console = graph.console()
    publish(console, "hold")
    graph.activate()
    assert graph.counted("hold") == ["hold"]
    graph.matched(console)
    publish(console, "policy")
    assert graph.counted("policy") == ["policy"]


def test_two_terminal_commands_count_because_each_is_a_first_message(graph):
    graph.activate()
    for mode in ("hold", "policy"):
        once = graph.console()
        graph.matched(once)
        publish(once, mode)
        assert graph.counted(mode) == [mode]


def test_a_mode_without_a_hold_is_rejected_with_the_remedy(graph):
    graph.activate()
    console = graph.console()
    graph.matched(console)
    publish(console, "policy")
    (request,) = graph.take(lambda request: request.rejection)
    assert "came before any hold since the guard was activated or reset" in request.rejection
    assert "send hold first" in request.rejection


def test_a_console_that_repeats_a_mode_does_not_end_the_hold_of_another(graph):
    graph.activate()
    first, second = graph.console(), graph.console()
    graph.matched(first, second)
    publish(first, "hold", "policy")
    assert graph.counted("policy")[-1] == "policy"
    publish(second, "hold")
    assert graph.counted("hold") == ["hold"]
    publish(first, "policy")
    (request,) = graph.take(lambda request: request.rejection)
    assert "another publisher than the newest hold" in request.rejection


def test_after_a_reset_a_new_hold_is_needed_and_waiting_requests_are_discarded(graph):
    graph.activate()
    console = graph.console()
    graph.matched(console)
    publish(console, "hold", "policy")
    time.sleep(0.3)
    graph.requests.discard()
    assert "policy" not in graph.counted("policy")
    publish(console, "policy")
    assert "policy" not in graph.counted("policy")
    publish(console, "hold", "policy")
    assert graph.counted("policy")[-1] == "policy"


def test_an_unknown_mode_is_returned_and_is_no_hold(graph):
    graph.activate()
    console = graph.console()
    graph.matched(console)
    publish(console, "autopilot", "policy")
    assert graph.counted("policy")[-1] == "autopilot"


@pytest.fixture(scope="module")
def shifted_clock(tmp_path_factory):
    """A library that shifts the clock of the process that loads it."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and Linux")
    folder = tmp_path_factory.mktemp("clock")
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(SHIFTED_CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.mark.parametrize("shift_s", [-10, 10])
def test_a_publisher_s_clock_makes_no_difference(graph, shifted_clock, shift_s):
    shifted = {"LD_PRELOAD": str(shifted_clock), "SHIFT_S": str(shift_s)}
    process = subprocess.Popen(
        [sys.executable, "-c", CONSOLE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **shifted},
    )
    try:
        said = float(process.stdout.readline())
        assert said - time.time() == pytest.approx(shift_s, abs=1.5)
        graph.activate()
        (request,) = graph.take(lambda request: request.rejection, PATIENCE_S)
        assert "was sent before the guard was activated" in request.rejection
        process.stdin.write("policy\n")
        process.stdin.flush()
        assert graph.counted("policy", PATIENCE_S) == []
        process.stdin.write("hold\npolicy\n")
        process.stdin.flush()
        assert graph.counted("policy", PATIENCE_S)[-1] == "policy"
    finally:
        process.kill()
        process.wait()
