"""Writes one episode: an MCAP file in a rosbag2 folder, named `<name>.partial` until finished.

Flushed messages survive a kill or a power cut: each chunk has its own CRC, a truncated file is
readable up to its last complete chunk, and `nac data repair` writes the missing end.
"""

import fcntl
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mcap.writer import CompressionType, Writer
from rosbags.typesys import Stores, get_typestore

from nac_ros.core import files
from nac_ros.core.errors import DatasetError, show_text

PARTIAL, DISCARDED = ".partial", ".discarded"
FILE, METADATA = "episode.mcap", "metadata.yaml"
METADATA_RECORD = "nac"  # name of the MCAP records with the episode's metadata
BAG_INFORMATION, CUSTOM_DATA = "rosbag2_bagfile_information", "custom_data"  # in metadata.yaml
CHUNK_BYTES = 1 << 20
UNLOCK_S = 1.0  # until the system drops the lock of a killed process
VERSION = 9  # of metadata.yaml
DISTRO = "kilted"
STORE = get_typestore(Stores.ROS2_KILTED)
CDR, SCHEMA = "cdr", "ros2msg"  # encodings of messages and of their definitions

# The library flushes by size alone and has no public call that ends a chunk.
_finalize_chunk = Writer.__dict__["_Writer__finalize_chunk"]


class TimedMessage(NamedTuple):
    """One serialized message; times [ns]; topic as the robot's YAML names it."""

    topic: str
    received: int
    published: int
    data: bytes


@dataclass
class Topic:
    """One topic of the file and its number of messages."""

    name: str
    message_type: str
    channel: int
    messages: int = 0


class BagWriter:
    """The only writer of one episode; `topics` by name. Not thread-safe.

    Holds a lock on the file, so that `in_use` tells an episode being recorded from one left by a
    crash. Raises OSError if the disk fails, and DatasetError if the episode already exists.
    """

    def __init__(self, folder: Path, metadata: Mapping[str, str]):
        self.folder, self._partial = folder, partial_path(folder)
        for path in (folder, self._partial, discarded_path(folder)):
            if path.exists():
                raise DatasetError(f"{path} exists already; an episode is never overwritten")
        self._partial.mkdir(parents=True)
        self._stream = (self._partial / FILE).open("wb")
        fcntl.flock(self._stream, fcntl.LOCK_EX)
        self._writer = Writer(
            self._stream, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE
        )
        self._writer.start(profile="ros2", library="nac_ros")
        self._schemas: dict[str, int] = {}
        self.topics: dict[str, Topic] = {}
        self._metadata: dict[str, str] = {}
        self._first = self._last = 0  # times of receipt [ns], 0 before the first message
        self.add_metadata(metadata)
        self.flush()

    @property
    def size(self) -> int:
        """Bytes on disk so far."""
        return self._stream.tell()

    def add_metadata(self, metadata: Mapping[str, str]) -> None:
        """Adds metadata; later values replace earlier ones."""
        self._metadata.update(metadata)
        self._writer.add_metadata(METADATA_RECORD, dict(metadata))

    def add_topic(self, name: str, message_type: str) -> None:
        """Adds a topic of a type such as sensor_msgs/msg/Image; raises DatasetError if unknown.

        A relative name gets a leading slash, whatever namespace the robot runs in.
        """
        if message_type not in self._schemas:
            definition = message_definition(message_type)
            self._schemas[message_type] = self._writer.register_schema(
                message_type, SCHEMA, definition
            )
        absolute = name if name.startswith("/") else f"/{name}"
        channel = self._writer.register_channel(absolute, CDR, self._schemas[message_type])
        self.topics[name] = Topic(absolute, message_type, channel)

    def write(self, name: str, received: int, published: int, data: bytes) -> None:
        """One serialized message; received, published: times [ns]."""
        topic = self.topics[name]
        self._writer.add_message(topic.channel, received, data, published, topic.messages)
        topic.messages += 1
        self._first = min(self._first or received, received)
        self._last = max(self._last, received)

    def flush(self) -> None:
        """Forces every written message to disk."""
        _finalize_chunk(self._writer)
        self._sync()

    def abandon(self) -> None:
        """Closes a file that cannot be completed; flushed messages can be repaired."""
        self._stream.close()

    def finish(self, metadata: Mapping[str, str] = {}, discard: bool = False) -> Path:
        """Completes the episode and gives it its final name, which is returned. A discarded one
        gets a name that nothing reads; users delete it themselves."""
        target = discarded_path(self.folder) if discard else self.folder
        self.add_metadata(metadata)
        self._writer.finish()
        self._sync()
        self._stream.close()
        text = yaml.safe_dump(self._bag_metadata(), sort_keys=False)
        files.write_text(self._partial / METADATA, text)
        os.replace(self._partial, target)
        files.fsync(target.parent)
        return target

    def _sync(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _bag_metadata(self) -> dict[str, Any]:
        """Content of metadata.yaml as rosbag2 and rosbags expect it."""
        information = {
            "version": VERSION,
            "storage_identifier": "mcap",
            **self._time_span(),
            "topics_with_message_count": [_topic_metadata(t) for t in self.topics.values()],
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [FILE],
            "files": [{"path": FILE, **self._time_span()}],
            CUSTOM_DATA: dict(self._metadata),
            "ros_distro": DISTRO,
        }
        return {BAG_INFORMATION: information}

    def _time_span(self) -> dict[str, Any]:
        """A new object at each call, for YAML would write a shared one as an alias."""
        return {
            "duration": {"nanoseconds": self._last - self._first},
            "starting_time": {"nanoseconds_since_epoch": self._first},
            "message_count": sum(topic.messages for topic in self.topics.values()),
        }


def partial_path(folder: Path) -> Path:
    """Folder of an episode while it is recorded."""
    return folder.with_name(folder.name + PARTIAL)


def discarded_path(folder: Path) -> Path:
    """Folder of an episode after it was discarded."""
    return folder.with_name(folder.name + DISCARDED)


def in_use(folder: Path) -> bool:
    """Whether a running process is writing the episode; waits UNLOCK_S for a killed one."""
    deadline = time.monotonic() + UNLOCK_S
    with (folder / FILE).open("rb") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() > deadline:
                    return True
                time.sleep(0.05)
            else:
                return False


def message_definition(message_type: str) -> bytes:
    """Definition of a type and of the types it contains; raises DatasetError if unknown."""
    try:
        return STORE.generate_msgdef(message_type, ros_version=2)[0].encode()
    except Exception as error:  # the library raises its own errors and KeyError
        raise DatasetError(
            f"message type {message_type} is unknown, so it cannot be recorded"
        ) from error


def deserialize(data: bytes, message_type: str, where: str) -> Any:
    """The message in CDR bytes; raises DatasetError, naming `where`, if they are invalid."""
    try:
        return STORE.deserialize_cdr(data, message_type)
    except Exception as error:  # wrong lengths raise whatever the decoder meets past the end
        cause = f"{type(error).__name__} {show_text(error)}".strip()
        raise DatasetError(
            f"{where}: {len(data)} bytes are no {show_text(message_type, 80)} ({cause})"
        ) from error


def _topic_metadata(topic: Topic) -> dict[str, Any]:
    return {
        "topic_metadata": {
            "name": topic.name,
            "type": topic.message_type,
            "serialization_format": CDR,
            "offered_qos_profiles": [],
            "type_description_hash": "",
        },
        "message_count": topic.messages,
    }
