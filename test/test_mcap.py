"""Episodes on disk: read by other software, after a kill, and repaired."""

import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("mcap")
pytest.importorskip("rosbags")

from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer
from rosbags.highlevel import AnyReader

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.mcap import container
from nac_ros.datasets.mcap import reader as mcap_reader
from nac_ros.datasets.mcap import writer as mcap_writer
from nac_ros.datasets.mcap.async_writer import AsyncEpisodeWriter, new_folder
from nac_ros.datasets.mcap.editing import relabel
from nac_ros.datasets.mcap.writer import STORE, BagWriter

pytestmark = pytest.mark.alone  # measures time

JOINTS, TEXT, IMAGE = "sensor_msgs/msg/JointState", "std_msgs/msg/String", "sensor_msgs/msg/Image"
T0 = 1_700_000_000_000_000_000
NAMES = ["waist", "gripper"]


def serialize(message_type, **values):
    types = STORE.types
    if "header" in types[message_type].__dataclass_fields__:
        stamp = types["builtin_interfaces/msg/Time"](*divmod(values.pop("stamp"), 10**9))
        values["header"] = types["std_msgs/msg/Header"](stamp, "")
    return bytes(STORE.serialize_cdr(types[message_type](**values), message_type))


def joint_message(k, period=10_000_000):
    values = np.array([0.001 * k, 0.02])
    empty = np.zeros(0)
    stamp = T0 + k * period
    return stamp, serialize(
        JOINTS, stamp=stamp, name=NAMES, position=values, velocity=empty, effort=empty
    )


def open_episode(folder, n=300, flush_every=100):
    """Writes `n` joint states, flushed every `flush_every`; returns the open writer."""
    writer = BagWriter(folder, {"robot": "vx300s", "task": "Place the marker."})
    writer.add_topic("joint_states", JOINTS)
    writer.add_topic("task", TEXT)
    writer.write("task", T0, T0, serialize(TEXT, data="Place the marker."))
    for k in range(n):
        stamp, data = joint_message(k)
        writer.write("joint_states", stamp + 300_000, stamp, data)
        if (k + 1) % flush_every == 0:
            writer.flush()
    return writer


def test_rosbags_and_mcap_read_a_finished_episode_unchanged(tmp_path):
    folder = open_episode(tmp_path / "episode").finish({"outcome": "success"})
    with AnyReader([folder]) as reader:
        assert {c.topic: c.msgcount for c in reader.connections} == {
            "/joint_states": 300,
            "/task": 1,
        }
        rows = [
            (t, reader.deserialize(raw, c.msgtype).position[0])
            for c, t, raw in reader.messages()
            if c.topic == "/joint_states"
        ]
        assert reader.duration == 299 * 10_000_000 + 300_001
    assert rows == [(T0 + k * 10_000_000 + 300_000, 0.001 * k) for k in range(300)]
    with (folder / "episode.mcap").open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary.statistics.message_count == 301
    assert {s.encoding for s in summary.schemas.values()} == {"ros2msg"}
    assert all(b"MSG: std_msgs/Header" in s.data for s in summary.schemas.values() if s.id == 1)
    assert mcap_reader.read_metadata(folder)["outcome"] == "success"
    assert mcap_reader.is_episode(folder) and not mcap_writer.partial_path(folder).exists()


def test_read_messages_returns_every_byte_and_the_metadata(tmp_path):
    folder = open_episode(tmp_path / "episode").finish()
    reading = mcap_reader.ReadReport()
    rows = list(mcap_reader.read_messages(folder, {"/joint_states"}, reading))
    assert [row.data for row in rows] == [joint_message(k)[1] for k in range(300)]
    assert reading.complete and not reading.damaged_chunks
    assert reading.metadata["task"] == "Place the marker."


def test_an_episode_is_never_overwritten_and_a_discarded_one_is_renamed(tmp_path):
    folder = tmp_path / "episode"
    open_episode(folder).finish(discard=True)
    assert [p.name for p in tmp_path.iterdir()] == ["episode.discarded"]
    with pytest.raises(DatasetError, match=r"episode\.discarded exists already"):
        BagWriter(folder, {})
    with pytest.raises(DatasetError, match="type foo/msg/Bar is unknown"):
        BagWriter(tmp_path / "other", {}).add_topic("x", "foo/msg/Bar")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1))
def test_repair_recovers_every_complete_chunk_of_a_truncated_file(tmp_path_factory, share):
    place = tmp_path_factory.mktemp("truncated")
    writer = open_episode(place / "episode", n=500, flush_every=50)
    size = writer.size
    writer.abandon()
    path = place / "episode.partial" / "episode.mcap"
    length = int(share * size)
    os.truncate(path, length)
    if not any(
        True for _ in mcap_reader.read_messages(path.parent, None, mcap_reader.ReadReport())
    ):
        with pytest.raises(DatasetError, match="nothing to repair"):
            mcap_reader.repair(path.parent)
        return
    done = mcap_reader.repair(path.parent)
    rows = list(mcap_reader.read_messages(done.folder, {"/joint_states"}))
    assert len(rows) % 50 == 0 and len(rows) >= 50 * int(share * 10 - 0.5)
    assert [row.data for row in rows] == [joint_message(k)[1] for k in range(len(rows))]
    assert (place / "episode.damaged").is_dir() and mcap_reader.is_episode(done.folder)
    assert mcap_reader.read_metadata(done.folder)["task"] == "Place the marker."
    assert f"{len(rows) + 1} messages" in str(done)


def test_a_flipped_bit_costs_one_chunk_and_is_reported_until_repaired(tmp_path):
    folder = open_episode(tmp_path / "episode", n=500, flush_every=50).finish()
    path = folder / "episode.mcap"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"1 damaged chunks.*nac data repair"):
        list(mcap_reader.read_messages(folder))
    done = mcap_reader.repair(folder)
    assert done.damaged_chunks == 1 and done.messages["/joint_states"] == 450
    assert len(list(mcap_reader.read_messages(folder))) == 451


def test_an_episode_being_recorded_is_not_repaired(tmp_path):
    writer = open_episode(tmp_path / "episode")
    with pytest.raises(DatasetError, match=r"episode\.partial is being recorded; end the episode"):
        mcap_reader.repair(tmp_path / "episode.partial")
    folder = writer.finish()
    assert len(list(mcap_reader.read_messages(folder))) == 301


def truncated_episode(folder):
    """A finished episode whose file lost its end."""
    place = open_episode(folder, flush_every=50).finish({"outcome": "success"})
    os.truncate(place / "episode.mcap", (place / "episode.mcap").stat().st_size // 2)
    return place


def test_an_interrupted_repair_can_be_repeated(tmp_path, monkeypatch):
    for step in range(1, 4):
        folder, calls = truncated_episode(tmp_path / f"episode{step}"), [0]
        real = os.replace

        def replace(a, b, step=step, calls=calls, real=real):
            calls[0] += "episode" in os.path.basename(b)
            if calls[0] == step:
                raise KeyboardInterrupt
            real(a, b)

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            mcap_reader.repair(folder)
        monkeypatch.setattr(os, "replace", real)
        for place in mcap_reader.unfinished(tmp_path) or [folder]:
            mcap_reader.repair(place)
        assert (
            mcap_reader.is_intact(folder)
            and mcap_reader.read_metadata(folder)["outcome"] == "success"
        )
    assert mcap_reader.unfinished(tmp_path) == []


def test_a_repair_keeps_relabelled_metadata_and_every_damaged_file(tmp_path):
    folder = truncated_episode(tmp_path / "episode")
    relabel(folder, {"task": "Lift it."})
    mcap_reader.repair(folder)
    assert mcap_reader.read_metadata(folder)["task"] == "Lift it."
    os.truncate(folder / "episode.mcap", 20_000)
    mcap_reader.repair(folder)
    names = sorted(place.name for place in tmp_path.iterdir())
    assert names == ["2.episode.damaged", "episode", "episode.damaged"]
    (tmp_path / "other").mkdir()
    open_episode(tmp_path / "x").abandon()
    (tmp_path / "x.partial").rename(tmp_path / "other.partial")
    with pytest.raises(DatasetError, match="other exists already; move it away"):
        mcap_reader.repair(tmp_path / "other.partial")


WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_mcap import JOINTS, T0, joint_message
from nac_ros.datasets.mcap.async_writer import AsyncEpisodeWriter
folder = Path(sys.argv[1]) / "episode"
writer = AsyncEpisodeWriter(folder, {{"task": "x"}}, {{"joint_states": JOINTS}})
print("ready", flush=True)
for k in range(100000):
    stamp, data = joint_message(k)
    writer.put("joint_states", stamp, stamp, data)
    print(k, flush=True)
    time.sleep(0.002)
"""


@pytest.mark.parametrize("after_s", [0.3, 1.5, 3.2])
def test_a_killed_writer_loses_at_most_its_last_second(tmp_path, after_s):
    code = WRITER.format(tests=os.path.dirname(__file__))
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    put = [int(line) for line in process.stdout.read().split()][-1] + 1
    process.wait()
    partial = tmp_path / "episode.partial"
    if after_s < 1:
        assert partial.is_dir()
        return
    done = mcap_reader.repair(partial)
    kept = done.messages["/joint_states"]
    assert put - kept < 1.5 / 0.002, f"{kept} of {put}"
    with AnyReader([done.folder]) as reader:
        assert reader.message_count == kept


def test_a_full_disk_is_reported_and_the_episode_can_be_repaired(tmp_path):
    code = (
        "import resource, signal, sys, time\n"
        f"sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "from pathlib import Path\n"
        "from test_mcap import JOINTS, joint_message\n"
        "from nac_ros.datasets.mcap.async_writer import AsyncEpisodeWriter\n"
        "from nac_ros.core.errors import DatasetError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "folder = Path(sys.argv[1]) / 'episode'\n"
        "writer = AsyncEpisodeWriter(folder, {}, {'joint_states': JOINTS})\n"
        "def put(first):\n"
        "    for k in range(first, first + 500):\n"
        "        stamp, data = joint_message(k)\n"
        "        writer.put('joint_states', stamp, stamp, data)\n"
        "put(0)\n"
        "before = writer.size\n"
        "while writer.size == before: time.sleep(0.05)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (writer.size + 1000,) * 2)\n"
        "put(500)\n"
        "while not writer.error: time.sleep(0.05)\n"
        "put(1000)\n"
        "print(writer.error, writer.dropped)\n"
        "try:\n"
        "    writer.finish({})\n"
        "except DatasetError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("File too large ") and int(lines[0].split()[-1]) >= 500, done
    assert "could not be completed: File too large" in lines[1] and "nac data repair" in lines[1]
    assert mcap_reader.repair(tmp_path / "episode.partial").messages["/joint_states"] == 500
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_the_async_writer_writes_all_queued_messages(tmp_path):
    writer = AsyncEpisodeWriter(tmp_path / "e", {"task": "t"}, {"joint_states": JOINTS})
    for k in range(1000):
        stamp, data = joint_message(k)
        writer.put("joint_states", stamp, stamp, data)
    place = writer.finish({"outcome": "success"})
    assert writer.message_counts == {"joint_states": 1000} and writer.dropped == 0
    assert mcap_reader.read_metadata(place) == {"task": "t", "outcome": "success", "lost": "0"}


def test_folder_names_have_time_and_task_and_are_unique(tmp_path):
    when = time.strptime("2026-01-02 03:04:05", "%Y-%m-%d %H:%M:%S")
    first = new_folder(tmp_path, "Place the marker in the bin.", when)
    assert first.name == "20260102-030405_place-the-marker-in-the-bin"
    mcap_writer.discarded_path(first).mkdir()
    assert new_folder(tmp_path, "Place the marker in the bin.", when).name == f"{first.name}_1"


def test_a_message_that_cannot_be_written_is_reported(tmp_path):
    writer = AsyncEpisodeWriter(tmp_path / "e", {"task": "t"}, {"joint_states": JOINTS})
    writer.put("joint_states", T0, T0, joint_message(0)[1])
    writer.put("nowhere", T0, T0, b"")
    deadline = time.monotonic() + 5
    while not writer.error and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "nowhere" in writer.error and writer.dropped >= 1
    with pytest.raises(DatasetError, match="could not be completed: KeyError"):
        writer.finish({})


def test_a_folder_without_write_permission_is_reported(tmp_path):
    """Runs as another user, since root may write everywhere."""
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from nac_ros.core.files import free_bytes\n"
        "os.chdir(sys.argv[1])\n"
        "os.geteuid() or os.setuid(65534)\n"
        "for place in (Path('out'), Path(sys.argv[1]) / 'out'):\n"
        "    try:\n"
        "        free_bytes(place)\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error)\n"
    )
    tmp_path.chmod(0o500 if os.geteuid() else 0o755)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "DatasetError . is not writable; set another `out` or its permissions", done
    assert lines[1].startswith("DatasetError /"), done


def test_a_missing_decompressor_is_an_error_and_not_damage(tmp_path, monkeypatch):
    path = tmp_path / "zstd.mcap"
    with path.open("wb") as file:
        made = Writer(file, compression=CompressionType.ZSTD)
        made.start()
        channel = made.register_channel(topic="t", message_encoding="", schema_id=0)
        made.add_message(channel_id=channel, log_time=1, data=b"x", publish_time=1)
        made.finish()
    size = path.stat().st_size
    with path.open("rb") as stream:
        parts = list(container.read_parts(stream, size))
    assert all(part.records is not None for part in parts)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with path.open("rb") as stream, pytest.raises(ImportError):
        list(container.read_parts(stream, size))
