"""The operator's modes over DDS: it asks again for a guard that did not hear it, not for one that
stopped."""

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


class ToldGuard:
    """What a guard publishes on diagnostics ten times a second, and the modes that it hears."""

    def __init__(self, domain, **said):
        self.said, self.modes = said, []
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        node = rclpy.create_node("lab", context=self._context)
        out = node.create_publisher(DiagnosticArray, "diagnostics", qos.MONITOR)
        node.create_subscription(String, "guard/mode", self._hear, 10)
        node.create_timer(0.1, lambda: out.publish(self._word()))
        executor = rclpy.executors.SingleThreadedExecutor(context=self._context)
        executor.add_node(node)
        self._ending = Event()

        def spin():
            while not self._ending.is_set():
                executor.spin_once(timeout_sec=0.05)

        self._thread = Thread(target=spin)
        self._thread.start()

    def _hear(self, message):
        self.modes.append(message.data)

    def _word(self):
        return DiagnosticArray(status=[messages.to_status("guard", b"\0", "", self.said)])

    def hears(self, operator):
        """Whether a mode that `operator` sends now reaches it, by one that was sent before."""
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

    def build(**said):
        guards.append(ToldGuard(domain, **said))
        return guards[-1], operator

    with GraphClient(domain) as operator:
        yield build
        for guard in guards:
            guard.close()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"mode": "hold", "state": "fault", "fault": "stopped"}, "stopped; call guard/reset"),
        ({"mode": "hold", "state": "inactive", "fault": ""}, "not active; activate it"),
    ],
    ids=["fault", "inactive"],
)
def test_a_guard_that_cannot_move_is_not_asked_until_somebody_else_lets_it(pair, said, why):
    guard, operator = pair(**said)
    operator.wait_until(lambda: operator.latest_diagnostics("guard"), "its word", 20)
    with pytest.raises(NacError, match=why):
        operator.set_mode("policy", 15)
    asked = guard.modes.count("policy")
    guard.said = {"mode": "hold", "state": "idle", "fault": ""}
    with pytest.raises(NacError, match="waited 2 s"):
        operator.wait_until(lambda: guard.modes.count("policy") > asked, "another", 2)


def test_a_guard_that_did_not_hear_is_asked_again(pair):
    guard, operator = pair(mode="hold", state="idle", fault="")

    def obeys():
        if guard.modes.count("policy") > 1:
            guard.said = {"mode": "policy", "state": "armed", "fault": ""}
        return operator.latest_diagnostics("guard").get("mode") == "policy"

    asking = Thread(target=operator.set_mode, args=("policy", 20))
    asking.start()
    operator.wait_until(obeys, "the second request", 20)
    asking.join()


def test_a_mode_is_taken_only_when_the_guard_has_settled(pair):
    guard, operator = pair(mode="hold", state="stopping", hold="settling", fault="")
    operator.wait_until(lambda: guard.hears(operator), "the two to meet", 20)
    guard.said["mode"] = "policy"
    operator.wait_until(lambda: operator.latest_diagnostics("guard")["mode"] == "policy", "its word", 20)
    with pytest.raises(NacError, match="waited 2 s for guard mode policy"):
        operator.set_mode("policy", 2)
    assert guard.modes.count("policy") == 1, "it is in that mode, and is not asked again"
    guard.said["hold"] = "no_chunk"
    operator.set_mode("policy", 20)
