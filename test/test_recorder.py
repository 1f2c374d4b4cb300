"""The recorder node over DDS: recorded messages, reported faults, kills and a full disk."""

import os
import signal
import time
from threading import Event, Thread

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mcap")
pytest.importorskip("rosbags")

from rosbags.highlevel import AnyReader
from sensor_msgs.msg import Image, JointState

from nac_ros.core.errors import NacError
from nac_ros.datasets.mcap import reader as mcap_reader
from nac_ros.robot.spec import load_robot
from nac_ros.ros import messages, qos
from nac_ros.ros.graph_client import GraphClient
from nac_ros.ros.node_graph import recorder_graph
from nac_ros.ros.processes import ProcessGroup

SPEC = load_robot("vx300s")
PROMPT = "Place the marker in the bin."


class Arm:
    """Publishes joint states at 100 Hz and two cameras at 30 Hz from a thread, with faults."""

    def __init__(self, node):
        self._joints = node.create_publisher(
            JointState, SPEC.joint_states_topic, qos.SENSOR_PUBLISHER
        )
        self._cameras = {
            camera.name: node.create_publisher(Image, camera.topic, qos.SENSOR_PUBLISHER)
            for camera in SPEC.cameras
        }
        self.offset_s, self.stopped, self.frozen, self.sent = 0.0, set(), set(), {}
        self.encoding, self.n_joints = "rgb8", len(SPEC.joint_names)
        self._random = np.random.default_rng(0)
        self._images = {}
        self._ending = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self):
        self._ending.set()
        self._thread.join()

    def _run(self):
        began, k = time.monotonic(), 0
        while not self._ending.is_set():
            now = time.time() + self.offset_s
            positions = SPEC.home + 0.001 * np.sin(k / 50)  # at rest, except encoder noise
            names, positions = SPEC.joint_names[: self.n_joints], positions[: self.n_joints]
            self._joints.publish(messages.to_joint_state(now, names, positions))
            self.sent["joint_states"] = self.sent.get("joint_states", 0) + 1
            if k % 3 == 0:
                for name, out in self._cameras.items():
                    if name not in self.stopped:
                        message = messages.to_image(now, name, self._image(name))
                        message.encoding = self.encoding
                        out.publish(message)
                        self.sent[name] = self.sent.get(name, 0) + 1
            k += 1
            self._ending.wait(max(began + k / 100 - time.monotonic(), 0))

    def _image(self, name):
        if name not in self.frozen or name not in self._images:
            self._images[name] = self._random.integers(0, 255, (96, 96, 3), np.uint8)
        return self._images[name]


class RecorderBench:
    """A recorder process; arm and operator are in this process."""

    def __init__(self, folder, **parameters):
        self.out = folder / "episodes"
        domain = 10 + os.getpid() % 80
        variables = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        os.environ.update(variables)
        given = {"out": str(self.out), "min_free_gb": 0.0, **parameters}
        self.processes = ProcessGroup(folder / "logs", variables)
        self.pid = self.processes.start(recorder_graph(**given)[0])
        self.operator = GraphClient(domain, watch=self.processes.check)
        self.arm = Arm(self.operator.node)
        self.operator.publish_task(PROMPT)

    def diagnostics(self):
        return self.operator.latest_diagnostics("recorder")

    def wait(self, ready, description, seconds=20.0):
        self.operator.wait_until(ready, description, seconds)

    def problems(self):
        return [text for key, text in self.diagnostics().items() if key.startswith("problem.")]

    def start(self):
        self.wait(
            lambda: self.diagnostics().get("state") == "ready" and not self.problems(), "streams"
        )
        self.wait(lambda: self.diagnostics().get("task") == PROMPT, "the task")
        self.wait(lambda: "content_not_checked" not in self.diagnostics(), "the cameras' noise")
        assert self.operator.trigger("recorder/start").startswith("recording ")

    def close(self):
        self.arm.close()
        self.operator.__exit__()
        self.processes.end()

    def episodes(self):
        return sorted(self.out.iterdir()) if self.out.is_dir() else []


@pytest.fixture
def bench(tmp_path):
    opened = []

    def open_bench(**parameters):
        opened.append(RecorderBench(tmp_path, **parameters))
        opened[-1].operator.activate("recorder")  # after it is in `opened`, so that it is closed
        return opened[-1]

    yield open_bench
    for one in opened:
        one.close()


def test_an_episode_contains_every_message_and_its_metadata(bench):
    bench = bench(operator="Ada", note="third lamp off")
    bench.start()
    first = dict(bench.arm.sent)
    time.sleep(2.5)
    assert "marked at 2." in bench.operator.trigger("recorder/mark")
    last = dict(bench.arm.sent)
    answer = bench.operator.trigger("recorder/stop")
    assert "success" in answer and answer.endswith("all streams good"), answer
    (folder,) = bench.episodes()
    assert folder.name.endswith("_place-the-marker-in-the-bin")
    metadata = mcap_reader.read_metadata(folder)
    assert (
        metadata["task"] == PROMPT and metadata["outcome"] == "success" and metadata["lost"] == "0"
    )
    assert metadata["operator"] == "Ada" and metadata["note"] == "third lamp off"
    assert metadata["robot"] == "vx300s" and metadata["git_commit"] and metadata["findings"] == ""
    with AnyReader([folder]) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        rows = [
            reader.deserialize(raw, c.msgtype)
            for c, _, raw in reader.messages()
            if c.topic == "/scene/image_raw"
        ]
    assert rows[0].data.size == 96 * 96 * 3 and rows[0].encoding == "rgb8"
    for name, topic in (("joint_states", "/joint_states"), ("scene", "/scene/image_raw")):
        assert last[name] - first[name] <= counts[topic] <= last[name] - first[name] + 60
    assert counts["/task"] == 1 and counts["/recorder/mark"] == 1
    stamps = [messages.to_seconds(row.header.stamp) for row in rows]
    assert np.diff(stamps) == pytest.approx(0.03, abs=0.025)


def test_a_missing_stream_is_reported_and_blocks_the_start(bench):
    bench = bench()
    bench.arm.stopped.add("wrist")
    bench.wait(lambda: any("wrist" in text for text in bench.problems()), "the missing camera")
    assert bench.problems() == ["wrist/image_raw: no message yet; is its node running?"]
    with pytest.raises(NacError, match="wrist/image_raw: no message yet"):
        bench.operator.trigger("recorder/start")
    assert bench.episodes() == []
    with pytest.raises(NacError, match="nothing is being recorded"):
        bench.operator.trigger("recorder/stop")


@pytest.mark.parametrize(
    ("fault", "now", "later"),
    [
        (lambda arm: arm.stopped.add("scene"), "no message for", "s without a message"),
        (lambda arm: arm.frozen.add("scene"), "the same image for", "the same image for"),
        (lambda arm: setattr(arm, "offset_s", -3600.0), "clock was set back", "was set back at"),
        (lambda arm: setattr(arm, "encoding", "16UC1"), "'16UC1'; known are: rgb8", "'16UC1'"),
        (lambda arm: setattr(arm, "n_joints", 6), "gripper missing", "gripper missing"),
    ],
    ids=["stopped", "frozen", "clock", "encoding", "joint"],
)
def test_a_fault_is_reported_within_a_second_and_kept_with_the_episode(bench, fault, now, later):
    bench = bench()
    bench.start()
    time.sleep(0.5)
    began = time.monotonic()
    fault(bench.arm)
    bench.wait(lambda: any(now in text for text in bench.problems()), now)
    assert time.monotonic() - began < 2.0  # 1 s, plus the load of the machine
    answer = bench.operator.trigger("recorder/stop")
    assert later in answer
    (folder,) = bench.episodes()
    assert later in mcap_reader.read_metadata(folder)["findings"]
    list(mcap_reader.read_messages(folder))


def test_a_discarded_episode_is_renamed_and_a_second_start_is_rejected(bench):
    bench = bench()
    bench.start()
    with pytest.raises(NacError, match="is being recorded; end it first"):
        bench.operator.trigger("recorder/start")
    assert "discarded" in bench.operator.trigger("recorder/discard")
    assert [p.name.rpartition(".")[2] for p in bench.episodes()] == ["discarded"]


def test_a_killed_recorder_keeps_finished_episodes_and_most_of_the_open_one(bench):
    bench = bench()
    bench.start()
    time.sleep(0.5)
    bench.operator.trigger("recorder/stop")
    bench.operator.trigger("recorder/start")
    time.sleep(3.0)
    os.kill(bench.pid, signal.SIGKILL)
    finished, partial = bench.episodes()
    assert len(list(mcap_reader.read_messages(finished))) > 50
    done = mcap_reader.repair(partial)
    assert done.seconds > 1.5 and done.messages["/joint_states"] > 150
    bench.processes.kill("recorder")


def test_a_terminated_recorder_keeps_the_open_episode(bench):
    bench = bench()
    bench.start()
    time.sleep(0.5)
    bench.processes.end()
    (folder,) = bench.episodes()
    assert mcap_reader.read_metadata(folder)["outcome"] == "interrupted"


def test_a_full_disk_is_reported_and_blocks_the_start(bench):
    bench = bench(min_free_gb=1e6)
    bench.wait(lambda: any("GB free" in text for text in bench.problems()), "the disk")
    with pytest.raises(NacError, match="GB free, wanted 1e\\+06 GB; free disk space"):
        bench.operator.trigger("recorder/start")


def test_a_camera_without_noise_may_repeat_its_image(bench):
    bench = bench()
    bench.arm.frozen.add("scene")
    topic = SPEC.camera("scene").topic
    bench.wait(
        lambda: bench.diagnostics().get("content_not_checked") == topic, "the other camera's noise"
    )
    time.sleep(1.0)
    bench.wait(
        lambda: bench.diagnostics().get("state") == "ready" and not bench.problems(), "streams"
    )
    bench.operator.trigger("recorder/start")
    time.sleep(1.5)
    answer = bench.operator.trigger("recorder/stop")
    assert answer.endswith(f"all streams good (content not checked: {topic})"), answer
    metadata = mcap_reader.read_metadata(bench.episodes()[0])
    assert metadata["content_not_checked"] == topic and metadata["findings"] == ""
