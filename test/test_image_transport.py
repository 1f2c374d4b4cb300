"""Image transport: shared memory if there is enough, else JPEG; user settings are kept."""

import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from xml.etree import ElementTree as xml

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from nac_ros.core.config import config_dir
from nac_ros.robot.spec import load_robot
from nac_ros.ros import image_transport, qos
from nac_ros.ros.node_graph import camera_graph, policy_graph, view_graph

SMALL = load_robot("vx300s").camera("scene")
LARGE = replace(SMALL, width=640, height=480)
DOMAIN = 150 + (os.getpid() + 25) % 50


@pytest.fixture(autouse=True)
def no_variable_is_set(monkeypatch):
    for name in (
        image_transport.PROFILES,
        image_transport.OLD_PROFILES,
        image_transport.IMAGES,
        "ROS_DISTRO",
    ):
        monkeypatch.delenv(name, raising=False)


def set_free_space(monkeypatch, megabytes):
    usage = SimpleNamespace(free=megabytes << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def test_with_enough_shared_memory_every_image_process_gets_the_profile(monkeypatch):
    set_free_space(monkeypatch, 1000)
    expected = str(config_dir() / "dds" / "large_images.xml")
    for node in (*camera_graph("scene"), *policy_graph(), *view_graph()):
        given = node.environment.get(image_transport.PROFILES)
        assert given == (None if node.name == "guard" else expected)
        assert node.environment["OMP_NUM_THREADS"] == "1"


def test_older_distributions_use_the_old_name_of_the_variable(monkeypatch):
    set_free_space(monkeypatch, 1000)
    monkeypatch.setenv("ROS_DISTRO", "humble")
    assert list(image_transport.environment()) == [image_transport.OLD_PROFILES]


def test_without_shared_memory_large_images_use_jpeg_and_the_log_names_the_reason(monkeypatch):
    set_free_space(monkeypatch, 64)
    given = image_transport.environment()
    assert given == {image_transport.IMAGES: "jpeg"}
    monkeypatch.setenv(image_transport.IMAGES, "jpeg")
    assert image_transport.image_topic(LARGE) == (CompressedImage, "scene/image_raw/compressed")
    assert "less than 192 MB free" in image_transport.jpeg_notice(LARGE)
    assert image_transport.image_topic(SMALL) == (Image, "scene/image_raw")
    assert not image_transport.jpeg_notice(SMALL)


def test_variables_set_by_the_user_are_kept(monkeypatch):
    monkeypatch.setenv(image_transport.PROFILES, "/home/me/own.xml")
    assert image_transport.environment() == {} and not image_transport.shared_memory_advice(LARGE)


def test_large_raw_images_without_a_profile_cause_a_warning():
    assert "640x480" in image_transport.shared_memory_advice(
        LARGE
    ) and not image_transport.shared_memory_advice(SMALL)


def test_the_robot_yaml_can_request_jpeg():
    assert (
        image_transport.image_topic(replace(SMALL, transport="jpeg")).message_type
        is CompressedImage
    )
    assert not image_transport.jpeg_notice(replace(SMALL, transport="jpeg"))


def test_the_profile_has_the_segment_size_of_the_code():
    text = (config_dir() / "dds" / "large_images.xml").read_text()
    sizes = [
        e.text for e in xml.fromstring(text.encode()).iter() if e.tag.endswith("segment_size")
    ]
    assert sizes == [str(image_transport.SEGMENT)]


def test_fast_dds_uses_the_profile():
    code = """
import os, pathlib, rclpy
old = set(pathlib.Path("/dev/shm").iterdir())
rclpy.init()
node = rclpy.create_node("asks")
new = [p for p in pathlib.Path("/dev/shm").iterdir() if p not in old]
print(max(p.stat().st_size for p in new), flush=True)
node.destroy_node()
rclpy.shutdown()
os._exit(0)
"""
    if (
        not image_transport.SHM.is_dir()
        or image_transport.PROFILES not in image_transport.environment()
    ):
        pytest.skip("/dev/shm has too little free space")
    variables = {"ROS_DOMAIN_ID": str(DOMAIN), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    environment = {**os.environ, **variables, **image_transport.environment()}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert int(done.stdout) >= image_transport.SEGMENT, done.stderr


@pytest.mark.soak
def test_two_large_cameras_lose_no_image_in_transport(tmp_path, monkeypatch):
    from lifecycle_msgs.msg import Transition

    from nac_ros.ros.graph_client import GraphClient
    from nac_ros.ros.processes import ProcessGroup

    variables = {"ROS_DOMAIN_ID": str(DOMAIN), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    for name, value in {**variables, **image_transport.environment()}.items():
        monkeypatch.setenv(name, value)
    robot, path = robot_with_large_images(tmp_path), write_video(tmp_path / "a.mp4")
    took, sent = defaultdict(set), defaultdict(set)
    with GraphClient(DOMAIN) as operator, ProcessGroup(tmp_path / "nodes", variables) as processes:
        for camera in load_robot(robot).cameras:
            kind, topic = image_transport.image_topic(camera)
            note = partial(store_stamp, took[camera.name])
            operator.node.create_subscription(kind, topic, note, qos.MONITOR)
            note, topic = (
                partial(store_stamp, sent[camera.name]),
                camera.sibling_topic("camera_info"),
            )
            operator.node.create_subscription(CameraInfo, topic, note, qos.MONITOR)
            facts = {"robot": str(robot), "source": "file", "path": str(path)}
            (node,) = camera_graph(camera.name, **facts)
            processes.start(node)
            operator.change_state(node.name, Transition.TRANSITION_CONFIGURE)
            operator.change_state(node.name, Transition.TRANSITION_ACTIVATE)
        time.sleep(60)
    for name, stamps in took.items():
        between = {stamp for stamp in sent[name] if min(stamps) <= stamp <= max(stamps)}
        lost = len(between - stamps) / len(between)
        print(f"{name}: {len(between)} sent, {lost:.2%} lost")
        assert len(between) > 1500 and lost == 0


def store_stamp(stamps, message):
    stamps.add((message.header.stamp.sec, message.header.stamp.nanosec))


def robot_with_large_images(folder):
    """The shipped robot with images of 640x480."""
    facts = yaml.safe_load((config_dir() / "robots" / "vx300s.yaml").read_text())
    for camera in facts["cameras"]:
        camera |= {"width": 640, "height": 480}
    (folder / "vx300s.yaml").write_text(yaml.safe_dump(facts))
    return folder / "vx300s.yaml"


def write_video(path):
    """A video of 640x480 at 30 Hz, 5 s long."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30.0, (640, 480))
    scene = np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)
    scene = cv2.resize(scene, (800, 640))
    for i in range(150):
        writer.write(np.ascontiguousarray(scene[i : i + 480, i : i + 640]))
    writer.release()
    return path
