"""Mode requests of the graph client over DDS: repeated if the guard does not report the mode, but
not if it has stopped."""

import os
from threading import Event, Thread

import pytest

pytest.importorskip("rclpy")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from std_msgs.msg import String

from nac_ros.core.errors import NacError
from nac_ros.ros import messages, qos
from nac_ros.ros.graph_client import GraphClient


class FakeGuard:
    """Publishes given diagnostics ten times a second, and stores the modes that it receives."""

    def __init__(self, domain, **values):
        self.values, self.modes = values, []
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        node = rclpy.create_node("lab", context=self._context)
        out = node.create_publisher(DiagnosticArray, "diagnostics", qos.MONITOR)
        node.create_subscription(String, "guard/mode", self._on_mode, 10)
        node.create_timer(0.1, lambda: out.publish(self._report()))
        executor = rclpy.executors.SingleThreadedExecutor(context=self._context)
        executor.add_node(node)
        self._ending = Event()

        def spin():
            while not self._ending.is_set():
                executor.spin_once(timeout_sec=0.05)

        self._thread = Thread(target=spin)
        self._thread.start()

    def _on_mode(self, message):
        self.modes.append(message.data)

    def _report(self):
        return DiagnosticArray(status=[messages.to_status("guard", b"\0", "", self.values)])

    def receives(self, operator):
        """Whether a mode sent by `operator` is received; a mode sent before shows it."""
        operator.set_mode("hold", 20)
        return "hold" in self.modes

    def close(self):
        self._ending.set()
        self._thread.join()
        self._context.try_shutdown()


@pytest.fixture
def pair(monkeypatch):
    domain = 10 + os.getpid() % 80
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    guards = []

    def build(**values):
        guards.append(FakeGuard(domain, **values))
        return guards[-1], operator

    with GraphClient(domain) as operator:
        yield build
        for guard in guards:
            guard.close()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"mode": "hold", "state": "fault", "fault": "stopped"}, "stopped; call guard/reset"),
        ({"mode": "hold", "state": "inactive", "fault": ""}, "not active; activate it"),
    ],
    ids=["fault", "inactive"],
)
def test_a_guard_with_a_fault_or_inactive_gets_no_second_request(pair, values, reason):
    guard, operator = pair(**values)
    operator.wait_until(lambda: operator.latest_diagnostics("guard"), "diagnostics", 20)
    with pytest.raises(NacError, match=reason):
        operator.set_mode("policy", 15)
    n_requests = guard.modes.count("policy")
    guard.values = {"mode": "hold", "state": "idle", "fault": ""}
    with pytest.raises(NacError, match="waited 2 s"):
        operator.wait_until(lambda: guard.modes.count("policy") > n_requests, "another", 2)


def test_a_mode_that_the_guard_does_not_report_is_requested_again(pair):
    guard, operator = pair(mode="hold", state="idle", fault="")

    def changes_mode():
        if guard.modes.count("policy") > 1:
            guard.values = {"mode": "policy", "state": "armed", "fault": ""}
        return operator.latest_diagnostics("guard").get("mode") == "policy"

    asking = Thread(target=operator.set_mode, args=("policy", 20))
    asking.start()
    operator.wait_until(changes_mode, "the second request", 20)
    asking.join()


def test_set_mode_waits_until_the_guard_has_settled(pair):
    guard, operator = pair(mode="hold", state="stopping", hold="settling", fault="")
    operator.wait_until(lambda: guard.receives(operator), "the two to meet", 20)
    guard.values["mode"] = "policy"
    operator.wait_until(
        lambda: operator.latest_diagnostics("guard")["mode"] == "policy", "diagnostics", 20
    )
    with pytest.raises(NacError, match="waited 2 s for guard mode policy"):
        operator.set_mode("policy", 2)
    assert guard.modes.count("policy") == 1, "a mode that the guard reports is not requested again"
    guard.values["hold"] = "no_chunk"
    operator.set_mode("policy", 20)
