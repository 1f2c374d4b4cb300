"""A fake robot with policy and guard on the ROS graph, and readers of a live-view recording."""

import os
import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from nac_ros.core.types import ActionChunk
from nac_ros.robot.spec import load_robot
from nac_ros.ros import messages, qos
from nac_ros.ros.diagnostics import ERROR, OK
from nac_ros.ros.node_graph import view_graph
from nac_ros.ros.processes import ProcessGroup

SPEC = load_robot("vx300s")
NEEDS = "the live view needs rerun-sdk, which the extra `view` installs"
STAMP = 1_790_000_000.25  # [s]
TICKS = 30
RAMP = np.arange(SPEC.action_dim) / 10  # one value per joint
TOKENS = [3, 1023, 512, 7]
RED = np.broadcast_to(np.array([250, 10, 10], np.uint8), (96, 96, 3))
POLICY = {
    "chunk_stamp": STAMP,
    "latency_ms": 81.5,
    "predict_ms": 70.0,
    "decode_ms": 1.5,
    "chunks": 1,
}
GUARD = {"mode": "policy", "fault": "", "last_rejection": ""}


def chunk():
    """Four steps of 1/30 s; step i of joint j is i + j / 10."""
    actions = np.arange(4)[:, None] + RAMP
    names, tokens = SPEC.joint_names, np.array(TOKENS)
    return ActionChunk(STAMP, 30.0, names, actions.astype(np.float32), tokens)


class FakeRobot:
    """Publishes the topics of arm, cameras, policy and guard."""

    def __init__(self, domain):
        self.context = Context()
        self.context.init(domain_id=domain)
        self.node = Node("robot", context=self.context)
        out = self.node.create_publisher
        self.joints = out(JointState, SPEC.joint_states_topic, qos.SENSOR_PUBLISHER)
        self.images = {c.name: out(Image, c.topic, qos.SENSOR_PUBLISHER) for c in SPEC.cameras}
        self.chunks = out(JointTrajectory, "policy/chunk", qos.COMMAND)
        self.commands = out(JointState, "guard/command", qos.MONITOR)
        self.reports = out(DiagnosticArray, "diagnostics", qos.MONITOR)

    def has_subscribers(self):
        """Whether every topic has a subscription."""
        outputs = (self.joints, *self.images.values(), self.chunks, self.commands, self.reports)
        return all(output.get_subscription_count() for output in outputs)

    def run(self):
        """Publishes joints at i / 100 + joint / 10, commands 1 above, at 100 Hz; then reports."""
        self.chunks.publish(messages.to_chunk_message(chunk()))
        for i in range(TICKS):
            stamp, positions = STAMP + i / 100, RAMP + i / 100
            self.joints.publish(messages.to_joint_state(stamp, SPEC.joint_names, positions))
            self.commands.publish(messages.to_joint_state(stamp, SPEC.joint_names, positions + 1))
            if i % 3 == 0:
                for camera, output in self.images.items():
                    output.publish(messages.to_image(stamp, camera, RED))
            time.sleep(0.01)
        for i, state in enumerate(("armed", "running", "running", "stopping")):
            self.report(i, "policy", OK, "planning", POLICY | {"tokens": TOKENS})
            fault = "jump" if state == "stopping" else ""
            values = GUARD | {"state": state, "fault": fault, "chunk_age_s": 0.2 + i}
            self.report(i, "guard", ERROR if fault else OK, state, values)

    def report(self, i, name, level, text, values):
        """Publishes diagnostics stamped `i` seconds after STAMP."""
        message = DiagnosticArray(status=[messages.to_status(name, level, text, values)])
        message.header.stamp = messages.to_time(STAMP + i)
        self.reports.publish(message)

    def close(self):
        self.node.destroy_node()
        self.context.try_shutdown()


def wait(ready, what, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def watch(folder, **parameters):
    """Runs a real view node while the fake robot publishes."""
    domain = 10 + os.getpid() % 80
    variables = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    os.environ.update(variables)
    (view,), robot = view_graph(robot="vx300s", **parameters), FakeRobot(domain)
    try:
        with ProcessGroup(folder, variables) as processes:
            processes.start(view)
            wait(lambda: processes.check() or robot.has_subscribers(), "the view")
            time.sleep(0.5)  # discovery by the view; sensor samples are sent only once
            robot.run()
            time.sleep(0.5)
    finally:
        robot.close()


def rows(recording, entity, component):
    """Stamps [s] after STAMP and values of an entity."""
    from rerun.dataframe import ComponentColumnSelector, IndexColumnSelector

    view = recording.view(index="ros_time", contents=f"/{entity}")
    column = ComponentColumnSelector(f"/{entity}", component)
    batches = view.filter_is_not_null(column).select(IndexColumnSelector("ros_time"), column)
    table = batches.read_all()
    stamps = table.column(0).cast("int64").to_numpy() * 1e-9 - STAMP
    return stamps, table.column(1).to_pylist()


def series(recording, entity):
    stamps, values = rows(recording, entity, "Scalars:scalars")
    return stamps, np.array(values)[:, 0]
