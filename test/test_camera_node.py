"""The camera node over DDS: a real process plays a real file."""

import contextlib
import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState

from nac_ros.apps import doctor
from nac_ros.core import image_codec
from nac_ros.core.config import config_dir
from nac_ros.core.errors import BadObservation, NacError
from nac_ros.robot.spec import load_robot
from nac_ros.ros import image_transport, messages, qos
from nac_ros.ros.graph_client import GraphClient
from nac_ros.ros.node_graph import camera_graph
from nac_ros.ros.observation_source import ObservationSource
from nac_ros.ros.processes import ProcessGroup

DOMAIN = 150 + os.getpid() % 50
VARIABLES = {"ROS_DOMAIN_ID": str(DOMAIN), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
WIDTH, HEIGHT = 320, 240
CALIBRATED = {"fx": 300.0, "fy": 301.0, "cx": 160.5, "cy": 119.5}


def ramp_image(i):
    """A ramp of brightness `i`, different for each `i`."""
    ramp = np.linspace(0, 200, WIDTH, dtype=np.uint8)
    image = np.repeat(np.repeat(ramp[None, :, None], HEIGHT, 0), 3, 2)
    image[..., 0] = i
    return image


@pytest.fixture(scope="module")
def images_folder(tmp_path_factory):
    """A folder of 40 PNGs; red counts."""
    folder = tmp_path_factory.mktemp("images_folder")
    for i in range(40):
        cv2.imwrite(str(folder / f"{i:03d}.png"), ramp_image(6 * i)[..., ::-1])
    return folder


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    """The shipped robot with larger images; `wrist` uses JPEG and is calibrated."""
    facts = yaml.safe_load((config_dir() / "robots" / "vx300s.yaml").read_text())
    for camera in facts["cameras"]:
        camera |= {"width": WIDTH, "height": HEIGHT, "max_age_s": 2.0}
    facts["cameras"][1] |= {"transport": "jpeg", "intrinsics": CALIBRATED}
    for name in ("vanishing", "impossible"):
        facts["cameras"].append({**facts["cameras"][0], "name": name, "topic": f"{name}/raw"})
    path = tmp_path_factory.mktemp("robot") / "vx300s.yaml"
    path.write_text(yaml.safe_dump(facts))
    return path


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Processes on a domain of their own, and a graph client."""
    before = {name: os.environ.get(name) for name in (*VARIABLES, image_transport.PROFILES)}
    os.environ.update(VARIABLES)
    os.environ.update(image_transport.environment())  # as for every process that receives images
    folder = tmp_path_factory.mktemp("nodes")
    with GraphClient(DOMAIN) as operator, ProcessGroup(folder, VARIABLES) as processes:
        yield operator, processes
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def configure(bench, camera, **parameters):
    operator, processes = bench
    (node,) = camera_graph(camera, **parameters)
    processes.start(node)
    operator.change_state(node.name, Transition.TRANSITION_CONFIGURE)
    return node.name


def activate(bench, camera, **parameters):
    name = configure(bench, camera, **parameters)
    bench[0].change_state(name, Transition.TRANSITION_ACTIVATE)
    return name


@pytest.fixture(scope="module")
def scene(bench, robot, images_folder):
    """The camera `scene`, which plays the images."""
    facts = {"source": "file", "path": str(images_folder), "rate_hz": 30.0}
    return activate(bench, "scene", robot=str(robot), **facts)


def receive(bench, kind, topic, enough):
    operator, seen = bench[0], []
    subscription = operator.node.create_subscription(kind, topic, seen.append, qos.SENSOR)
    operator.wait_until(lambda: len(seen) >= enough, topic, 20)
    operator.node.destroy_subscription(subscription)
    return seen


def test_raw_images_are_bit_exact_with_stamps_at_their_rate(bench, scene):
    seen = receive(bench, Image, "scene/image_raw", 20)
    for message in seen:
        image = messages.from_image(message)
        np.testing.assert_array_equal(image, ramp_image(int(image[0, 0, 0])))
    stamps = np.array([messages.to_seconds(message.header.stamp) for message in seen])
    assert (np.diff(stamps) > 0).all()
    assert np.median(np.diff(stamps)) == pytest.approx(1 / 30, rel=0.2)
    now = messages.to_seconds(bench[0].node.get_clock().now().to_msg())
    assert 0 <= now - stamps[-1] < 5


def test_jpeg_is_the_same_image_in_fewer_bytes(bench, scene):
    for message in receive(bench, CompressedImage, "scene/image_raw/compressed", 5):
        image = image_codec.decode_image(message.data)
        assert len(message.data) < image.size / 5
        red = int(np.median(image[..., 0]))
        assert np.abs(image.astype(int) - ramp_image(red)).mean() < 4


def test_an_uncalibrated_camera_publishes_zero_intrinsics(bench, scene):
    info = receive(bench, CameraInfo, "scene/camera_info", 1)[0]
    assert (info.width, info.height) == (WIDTH, HEIGHT)
    assert not any(info.k) and not info.distortion_model


def test_diagnostics_report_rate_drops_and_age(bench, scene):
    operator = bench[0]
    operator.wait_until(
        lambda: operator.latest_diagnostics(scene).get("rate_hz", 0) > 20, "the rate", 20
    )
    newest = operator.latest_diagnostics(scene)
    assert newest["state"] == "running" and newest["stamp_source"] == "schedule"
    assert 0 <= newest["age_s"] < 1 and newest["reconnects"] == 0


def test_the_observation_source_uses_jpeg_if_the_robot_yaml_requests_it(
    bench, robot, images_folder
):
    operator, spec = bench[0], load_robot(robot)
    name = activate(
        bench, "wrist", robot=str(robot), source="file", path=str(images_folder), rate_hz=30.0
    )
    source = ObservationSource(operator.node, spec, ["wrist"], 1)
    joints = operator.node.create_publisher(JointState, "joint_states", qos.SENSOR_PUBLISHER)

    seen = []

    def observed():
        now = messages.to_seconds(operator.node.get_clock().now().to_msg())
        joints.publish(messages.to_joint_state(now, spec.joint_names, spec.home))
        with contextlib.suppress(BadObservation):  # not yet
            seen.append(source.get_observation(now, "marker"))
        return seen

    operator.wait_until(observed, "an observation", 20)
    image = seen[0].images["wrist"][0]
    red = int(np.median(image[..., 0]))
    assert np.abs(image.astype(int) - ramp_image(red)).mean() < 4
    assert not source.rejections
    only = replace(spec, cameras=(spec.camera("wrist"),))
    for _ in range(3):  # a busy machine may not keep the rate
        results = {result.name: result for result in doctor.check_topics(only, 2.0)}
        if results["wrist/image_raw/compressed"].level == "ok":
            break
    assert results["wrist/image_raw/compressed"].level == "ok"
    info = receive(bench, CameraInfo, "wrist/camera_info", 1)[0]
    assert info.k[0] == 300.0 and info.k[5] == 119.5 and info.distortion_model == "plumb_bob"
    bench[1].end([name])


def test_a_missing_file_is_reported_and_played_again_when_it_is_back(bench, robot, tmp_path):
    folder, away = tmp_path / "images_folder", tmp_path / "away"
    folder.mkdir()
    for i in range(10):
        cv2.imwrite(str(folder / f"{i}.png"), ramp_image(20 * i)[..., ::-1])
    operator = bench[0]
    name = activate(
        bench,
        "vanishing",
        robot=str(robot),
        source="file",
        path=str(folder),
        rate_hz=30.0,
        retry_s=0.2,
    )
    operator.wait_until(
        lambda: operator.latest_diagnostics(name).get("state") == "running", "running", 20
    )
    folder.rename(away)
    operator.wait_until(
        lambda: operator.latest_diagnostics(name).get("state") == "lost", "the loss", 5
    )
    assert str(folder) in operator.latest_diagnostics(name)["message"]
    away.rename(folder)
    operator.wait_until(
        lambda: operator.latest_diagnostics(name).get("state") == "running", "running again", 10
    )
    assert operator.latest_diagnostics(name)["reconnects"] == 1
    bench[1].end([name])


def test_a_source_that_cannot_be_opened_is_rejected_in_one_sentence(bench, robot):
    operator, processes = bench
    with pytest.raises(NacError, match="camera_impossible"):
        configure(bench, "impossible", robot=str(robot), source="file", path="/nowhere/a.mp4")
    text = "no file or folder at /nowhere/a.mp4"
    operator.wait_until(
        lambda: text in operator.latest_diagnostics("camera_impossible")["message"], text, 10
    )
    log = processes.log_path("camera_impossible")
    operator.wait_until(lambda: text in log.read_text(), "the log", 5)
    assert "Traceback" not in log.read_text()
