"""The policy node over DDS with an arm and cameras of our own: frozen cameras, encodings, joint
states in parts, bundles that cannot be loaded."""

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
        self._joints = node.create_publisher(JointState, spec.joint_states_topic, qos.SENSOR_PUBLISHER)
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
                out.publish(self._picture(name))
            self._ending.wait(1 / 30)

    def _picture(self, name):
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


class Brain:
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

    def says(self):
        return self.operator.latest_diagnostics("policy")

    def wait(self, ready, what, seconds=20.0):
        self.operator.wait_until(ready, what, seconds)

    def start(self):
        """Planning, from cameras that have shown what they can."""
        self.sensors.reset()
        self.operator.trigger("policy/stop")
        self.wait(lambda: self.says().get("content_not_checked") == [], "noise", WAIT_S)
        first = len(self.chunks)
        self.operator.trigger("policy/start")
        self.wait(lambda: len(self.chunks) > first, "a chunk", WAIT_S)
        self.wait(lambda: self.says()["state"] == "planning", "planning")

    def assert_plans_nothing(self, seconds=1.0):
        count = len(self.chunks)
        time.sleep(seconds)
        assert len(self.chunks) == count, "a chunk was planned"

    def assert_plans(self):
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
    """The robot's YAML with more patience for sensors: a test machine may be busy."""
    facts = yaml.safe_load((config_dir() / "robots" / "vx300s.yaml").read_text())
    facts["joint_states_max_age_s"] = 0.8
    for camera in facts["cameras"]:
        camera["max_age_s"] = 0.8
    path = tmp_path_factory.mktemp("robot") / "vx300s.yaml"
    path.write_text(yaml.safe_dump(facts))
    return path


@pytest.fixture(scope="module")
def brain(tmp_path_factory, robot, tiny_bundle):
    domain = 10 + os.getpid() % 40
    parameters = {"bundle": str(tiny_bundle)}
    made = Brain(tmp_path_factory.mktemp("brain"), robot, domain, parameters)
    try:
        made.operator.change_state("policy", CONFIGURE)
        made.operator.change_state("policy", ACTIVATE)
        yield made
    finally:
        made.close()


def test_a_camera_without_noise_whose_view_the_arm_has_left_is_reported_and_planning_goes_on(
    brain,
):
    brain.sensors.noiseless.add("scene")
    brain.wait(lambda: brain.says().get("content_not_checked") == ["scene"], "noise", WAIT_S)
    brain.operator.trigger("policy/start")
    brain.sensors.speed = 3.0
    time.sleep(1.5)
    brain.assert_plans()
    assert brain.says()["content_not_checked"] == ["scene"]
    brain.sensors.speed = 0.0
    time.sleep(1.0)
    brain.assert_plans()


def test_a_frozen_camera_stops_planning_until_it_shows_new_pictures_and_somebody_starts_it(brain):
    brain.start()
    brain.sensors.speed = 3.0
    brain.sensors.frozen.add("wrist")
    brain.wait(lambda: brain.says()["state"] == "stopped", "the verdict")
    assert "camera wrist: the same picture for" in brain.says()["message"]
    assert brain.says()["unusable.frozen"] >= 1
    brain.sensors.speed = 0.0
    brain.wait(lambda: "then policy/start" in brain.says()["message"], "what to do")
    with pytest.raises(NacError, match="camera wrist: the same picture for"):
        brain.operator.trigger("policy/start")
    brain.assert_plans_nothing()
    brain.sensors.frozen.clear()
    brain.wait(lambda: "change again" in brain.says()["message"], "new pictures")
    assert brain.says()["state"] == "stopped" and brain.says()["reason"]
    brain.assert_plans_nothing()
    brain.operator.trigger("policy/start")
    brain.assert_plans()
    assert brain.says()["state"] == "planning" and brain.says()["reason"] == ""


def test_a_camera_that_froze_before_the_start_lets_nothing_start(brain):
    brain.start()
    brain.operator.trigger("policy/stop")
    brain.sensors.frozen.add("scene")
    time.sleep(1.0)
    with pytest.raises(NacError, match="camera scene: the same picture for"):
        brain.operator.trigger("policy/start")
    brain.assert_plans_nothing(0.5)


@pytest.mark.parametrize("encoding", ["bgr8", "rgba8", "bgra8", "mono8"])
def test_the_usual_encodings_are_planned_from(brain, encoding):
    brain.start()
    brain.sensors.encodings["scene"] = encoding
    time.sleep(1.2)
    brain.assert_plans()


@pytest.mark.parametrize("encoding", ["16UC1", "bayer_rggb8"])
def test_a_refused_encoding_is_named_on_diagnostics_and_in_the_log(brain, encoding):
    brain.start()
    brain.sensors.encodings["scene"] = encoding
    known = f"encoding '{encoding}'; known are: rgb8, bgr8, rgba8, bgra8, mono8"
    brain.wait(lambda: known in brain.says()["message"], "the encoding")
    assert brain.says()["message"].startswith("camera scene: stale")
    assert brain.says()["state"] == "waiting" and known in brain.says()["reason"]
    brain.assert_plans_nothing()
    brain.wait(lambda: known in brain.log(), "the log")


def test_another_resolution_is_named(brain):
    brain.start()
    brain.sensors.size = 64
    brain.wait(lambda: "got uint8 of (64, 64, 3)" in brain.says()["message"], "the size")
    brain.assert_plans_nothing()


def test_joint_states_in_parts_are_planned_from_and_a_part_that_is_missing_is_named(brain):
    brain.start()
    arm, gripper = brain.spec.joint_names[:6], brain.spec.joint_names[6:]
    brain.sensors.parts = [arm, ("wheel",), gripper]
    time.sleep(1.2)
    brain.assert_plans()
    brain.sensors.parts = [arm, ("wheel",)]
    brain.wait(lambda: "gripper stale" in brain.says()["message"], "the joint")
    assert brain.says()["message"].startswith("joint_states: stale")
    brain.assert_plans_nothing()


def truncated(folder):
    """Weights that end early, with a manifest that agrees."""
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
def test_a_bundle_that_cannot_be_loaded_is_reported_and_a_good_one_may_follow(
    brain, tiny_bundle, tmp_path, damage
):
    bad = tmp_path / "bad"
    shutil.copytree(tiny_bundle, bad)
    damage(bad)
    for transition in (DEACTIVATE, CLEANUP):
        brain.operator.change_state("policy", transition)
    try:
        brain.operator.set_parameters("policy", {"bundle": str(bad)})
        for _ in range(2):
            with pytest.raises(NacError):
                brain.operator.change_state("policy", CONFIGURE)
        brain.wait(lambda: brain.says()["reason"] not in ("", "not configured"), "the reason")
        said = brain.says()
        assert said["state"] == "unconfigured" and said["message"] == said["reason"]
        assert "\n" not in said["reason"] and "Traceback" not in brain.log()
        brain.wait(lambda: said["reason"] in brain.log(), "the log")
    finally:
        brain.operator.set_parameters("policy", {"bundle": str(tiny_bundle)})
        brain.operator.change_state("policy", CONFIGURE)
        brain.operator.change_state("policy", ACTIVATE)
    brain.start()
    brain.processes.check()
