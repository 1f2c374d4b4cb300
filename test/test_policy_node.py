"""The policy node over DDS with a fake arm and cameras: frozen cameras, encodings, partial joint
states, bundles that cannot be loaded."""

import os
import shutil
import time
from threading import Event, Thread

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from nac_ros.core.config import config_dir
from nac_ros.core.errors import NacError
from nac_ros.core.files import sha256
from nac_ros.export.manifest import MANIFEST
from nac_ros.robot.spec import load_robot
from nac_ros.ros import messages, qos
from nac_ros.ros.graph_client import GraphClient
from nac_ros.ros.node_graph import NodeProcess
from nac_ros.ros.processes import ProcessGroup
from nac_ros.simulation.image_noise import ImageNoise

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP
WAIT_S = 60.0
PIXELS = np.random.default_rng(0).integers(60, 190, (96, 96, 3), dtype=np.uint8)


class Sensors:
    """Joint states and cameras, 30 times a second, from a thread.

    frozen: cameras that show one picture; noiseless: cameras without sensor noise
    encodings: camera -> what it sends, rgb8 by default; size: of its pictures [pixels]
    speed: of the arm [rad/s]; parts: joints of each JointState message
    """

    def __init__(self, node, spec):
        self._spec, self._noise = spec, ImageNoise(1.0)
        self._joints = node.create_publisher(
            JointState, spec.joint_states_topic, qos.SENSOR_PUBLISHER
        )
        self._images = {
            camera.name: node.create_publisher(Image, camera.topic, qos.SENSOR_PUBLISHER)
            for camera in spec.cameras
        }
        self._shown: dict[str, np.ndarray] = {}
        self._ending = Event()
        self.reset()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def reset(self):
        self.frozen, self.noiseless, self.encodings = set(), set(), {}
        self.size, self.speed, self.parts = 96, 0.0, [self._spec.joint_names]

    def close(self):
        self._ending.set()
        self._thread.join()

    def _run(self):
        places, phase = dict(zip(self._spec.joint_names, self._spec.home)), 0.0
        while not self._ending.is_set():
            phase += self.speed / 30
            places["waist"] = 0.3 * np.sin(phase)
            for names in self.parts:
                values = np.array([places.get(name, 0.0) for name in names])
                self._joints.publish(messages.to_joint_state(time.time(), names, values))
            for name, out in self._images.items():
                out.publish(self._image(name))
            self._ending.wait(1 / 30)

    def _image(self, name):
        if name not in self.frozen or name not in self._shown:
            self._shown[name] = PIXELS if name in self.noiseless else self._noise.add(PIXELS)
        image = np.resize(self._shown[name], (self.size, self.size, 3))
        message = messages.to_image(time.time(), name, image)
        encoding = self.encodings.get(name, "rgb8")
        if encoding in ("rgba8", "bgra8"):
            message.data = np.insert(image, 3, 255, axis=2).tobytes()
            message.step = 4 * self.size
        if encoding == "mono8":
            message.data, message.step = image[..., 0].tobytes(), self.size
        message.encoding = encoding
        return message


class PolicyBench:
    """The policy node as a process, sensors and operator in this one."""

    def __init__(self, folder, robot, domain, parameters):
        variables = {
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        }
        os.environ.update(variables)
        self.folder, self.spec = folder, load_robot(robot)
        self.processes = ProcessGroup(folder / "logs", variables)
        given = {"robot": str(robot), "task": "marker", "call_log": "none", **parameters}
        self.pid = self.processes.start(NodeProcess(name="policy", parameters=given))
        self.operator = GraphClient(domain, watch=self.processes.check)
        self.sensors, self.chunks = Sensors(self.operator.node, self.spec), []
        self.operator.node.create_subscription(
            JointTrajectory, "policy/chunk", self.chunks.append, qos.MONITOR
        )

    def diagnostics(self):
        return self.operator.latest_diagnostics("policy")

    def wait(self, ready, what, seconds=20.0):
        self.operator.wait_until(ready, what, seconds)

    def start(self):
        """Starts planning, after the cameras have shown their noise."""
        self.sensors.reset()
        self.operator.trigger("policy/stop")
        self.wait(lambda: self.diagnostics().get("content_not_checked") == [], "noise", WAIT_S)
        first = len(self.chunks)
        self.operator.trigger("policy/start")
        self.wait(lambda: len(self.chunks) > first, "a chunk", WAIT_S)
        self.wait(lambda: self.diagnostics()["state"] == "planning", "planning")

    def assert_no_chunks(self, seconds=1.0):
        count = len(self.chunks)
        time.sleep(seconds)
        assert len(self.chunks) == count, "a chunk was planned"

    def assert_chunks(self):
        count = len(self.chunks)
        self.wait(lambda: len(self.chunks) > count + 1, "chunks")

    def log(self):
        return "".join(path.read_text() for path in (self.folder / "logs").glob("policy*"))

    def close(self):
        self.sensors.close()
        self.operator.__exit__()
        self.processes.end()


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


@pytest.fixture(scope="module")
def bench(tmp_path_factory, robot, tiny_bundle):
    domain = 10 + os.getpid() % 40
    parameters = {"bundle": str(tiny_bundle)}
    made = PolicyBench(tmp_path_factory.mktemp("bench"), robot, domain, parameters)
    try:
        made.operator.change_state("policy", CONFIGURE)
        made.operator.change_state("policy", ACTIVATE)
        yield made
    finally:
        made.close()


def test_a_camera_without_noise_is_reported_as_unchecked_and_does_not_stop_planning(
    bench,
):
    bench.sensors.noiseless.add("scene")
    bench.wait(
        lambda: bench.diagnostics().get("content_not_checked") == ["scene"], "noise", WAIT_S
    )
    bench.operator.trigger("policy/start")
    bench.sensors.speed = 3.0
    time.sleep(1.5)
    bench.assert_chunks()
    assert bench.diagnostics()["content_not_checked"] == ["scene"]
    bench.sensors.speed = 0.0
    time.sleep(1.0)
    bench.assert_chunks()


def test_a_frozen_camera_stops_planning_until_it_recovers_and_start_is_called(bench):
    bench.start()
    bench.sensors.speed = 3.0
    bench.sensors.frozen.add("wrist")
    bench.wait(lambda: bench.diagnostics()["state"] == "stopped", "the stop")
    assert "camera wrist: the same image for" in bench.diagnostics()["message"]
    assert bench.diagnostics()["unusable.frozen"] >= 1
    bench.sensors.speed = 0.0
    bench.wait(lambda: "then call policy/start" in bench.diagnostics()["message"], "the remedy")
    with pytest.raises(NacError, match="camera wrist: the same image for"):
        bench.operator.trigger("policy/start")
    bench.assert_no_chunks()
    bench.sensors.frozen.clear()
    bench.wait(lambda: "change again" in bench.diagnostics()["message"], "changing images")
    assert bench.diagnostics()["state"] == "stopped" and bench.diagnostics()["reason"]
    bench.assert_no_chunks()
    bench.operator.trigger("policy/start")
    bench.assert_chunks()
    assert bench.diagnostics()["state"] == "planning" and bench.diagnostics()["reason"] == ""


def test_a_camera_frozen_before_the_start_prevents_the_start(bench):
    bench.start()
    bench.operator.trigger("policy/stop")
    bench.sensors.frozen.add("scene")
    time.sleep(1.0)
    with pytest.raises(NacError, match="camera scene: the same image for"):
        bench.operator.trigger("policy/start")
    bench.assert_no_chunks(0.5)


@pytest.mark.parametrize("encoding", ["bgr8", "rgba8", "bgra8", "mono8"])
def test_the_usual_encodings_are_accepted(bench, encoding):
    bench.start()
    bench.sensors.encodings["scene"] = encoding
    time.sleep(1.2)
    bench.assert_chunks()


@pytest.mark.parametrize("encoding", ["16UC1", "bayer_rggb8"])
def test_a_rejected_encoding_is_named_on_diagnostics_and_in_the_log(bench, encoding):
    bench.start()
    bench.sensors.encodings["scene"] = encoding
    known = f"encoding '{encoding}'; known are: rgb8, bgr8, rgba8, bgra8, mono8"
    bench.wait(lambda: known in bench.diagnostics()["message"], "the encoding")
    assert bench.diagnostics()["message"].startswith("camera scene: stale")
    assert bench.diagnostics()["state"] == "waiting" and known in bench.diagnostics()["reason"]
    bench.assert_no_chunks()
    bench.wait(lambda: known in bench.log(), "the log")


def test_a_wrong_resolution_is_named(bench):
    bench.start()
    bench.sensors.size = 64
    bench.wait(lambda: "got uint8 of (64, 64, 3)" in bench.diagnostics()["message"], "the size")
    bench.assert_no_chunks()


def test_partial_joint_states_are_accepted_and_a_missing_part_is_named(bench):
    bench.start()
    arm, gripper = bench.spec.joint_names[:6], bench.spec.joint_names[6:]
    bench.sensors.parts = [arm, ("wheel",), gripper]
    time.sleep(1.2)
    bench.assert_chunks()
    bench.sensors.parts = [arm, ("wheel",)]
    bench.wait(lambda: "gripper stale" in bench.diagnostics()["message"], "the joint")
    assert bench.diagnostics()["message"].startswith("joint_states: stale")
    bench.assert_no_chunks()


def truncated(folder):
    """Truncated weights with a matching manifest."""
    weights = folder / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    manifest = folder / MANIFEST
    facts = yaml.safe_load(manifest.read_text())
    facts["files"]["policy/model.safetensors"] = sha256(weights)
    manifest.write_text(yaml.safe_dump(facts, default_flow_style=True))


def pickled(folder):
    weights = folder / "policy" / "model.safetensors"
    weights.write_bytes(b"\x80\x04\x95" + b"." * 100)


def emptied(folder):
    (folder / MANIFEST).write_text("")


@pytest.mark.parametrize("damage", [truncated, pickled, emptied])
def test_a_bundle_that_cannot_be_loaded_is_reported_and_a_good_one_can_follow(
    bench, tiny_bundle, tmp_path, damage
):
    bad = tmp_path / "bad"
    shutil.copytree(tiny_bundle, bad)
    damage(bad)
    for transition in (DEACTIVATE, CLEANUP):
        bench.operator.change_state("policy", transition)
    try:
        bench.operator.set_parameters("policy", {"bundle": str(bad)})
        for _ in range(2):
            with pytest.raises(NacError):
                bench.operator.change_state("policy", CONFIGURE)
        bench.wait(
            lambda: bench.diagnostics()["reason"] not in ("", "not configured"), "the reason"
        )
        report = bench.diagnostics()
        assert report["state"] == "unconfigured" and report["message"] == report["reason"]
        assert "\n" not in report["reason"] and "Traceback" not in bench.log()
        bench.wait(lambda: report["reason"] in bench.log(), "the log")
    finally:
        bench.operator.set_parameters("policy", {"bundle": str(tiny_bundle)})
        bench.operator.change_state("policy", CONFIGURE)
        bench.operator.change_state("policy", ACTIVATE)
    bench.start()
    bench.processes.check()
