"""One episode on disk: an MCAP file in a rosbag2 folder, `<name>.partial` until it is finished.

Whatever was flushed survives a kill or a power cut: chunks carry their own CRC, and a file that
was cut off is read up to its last whole chunk (`nac data repair` writes what is missing).
"""

import fcntl
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mcap.writer import CompressionType, Writer
from rosbags.typesys import Stores, get_typestore

from nac_ros.core import files
from nac_ros.core.errors import DatasetError, show_text

PARTIAL, DISCARDED = ".partial", ".discarded"
FILE, METADATA, FACTS = "episode.mcap", "metadata.yaml", "nac"
CHUNK_BYTES = 1 << 20
DYING_S = 1.0  # until the lock of a killed process is gone
VERSION = 9  # of metadata.yaml
DISTRO = "kilted"
STORE = get_typestore(Stores.ROS2_KILTED)
SCHEMA = "ros2msg"

_finalize = Writer.__dict__["_Writer__finalize_chunk"]  # the library flushes by size alone


@dataclass
class Topic:
    """What was written of one topic."""

    name: str
    kind: str
    channel: int
    messages: int = 0


@dataclass
class TimeRange:
    """First and last time [ns], both 0 before the first message."""

    first: int = 0
    last: int = 0

    def add(self, stamp: int) -> None:
        self.first = min(self.first or stamp, stamp)
        self.last = max(self.last, stamp)


@dataclass
class Contents:
    """What metadata.yaml says: topics by name, the time they span, and our own facts."""

    topics: dict[str, Topic] = field(default_factory=dict)
    extent: TimeRange = field(default_factory=TimeRange)
    facts: dict[str, str] = field(default_factory=dict)


class BagWriter:
    """The only writer of one episode; raises OSError as the disk does, and DatasetError where the
    episode exists.

    Until it ends, or its process does, nobody else takes the file for one that was left. Not
    thread-safe.
    """

    def __init__(self, folder: Path, facts: Mapping[str, str]):
        self.folder = folder
        self._place = partial_of(folder)
        for place in (folder, self._place, discarded_of(folder)):
            if place.exists():
                raise DatasetError(f"{place} exists already; an episode is never overwritten")
        self._place.mkdir(parents=True)
        self._stream = (self._place / FILE).open("wb")
        fcntl.flock(self._stream, fcntl.LOCK_EX)
        self._writer = Writer(
            self._stream, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE
        )
        self._writer.start(profile="ros2", library="nac_ros")
        self._schemas: dict[str, int] = {}
        self.contents = Contents(facts=dict(facts))
        self.note(facts)
        self.flush()

    @property
    def size(self) -> int:
        """Bytes on disk so far."""
        return self._stream.tell()

    def note(self, facts: Mapping[str, str]) -> None:
        """Adds facts, of which later ones replace earlier ones."""
        self.contents.facts.update(facts)
        self._writer.add_metadata(FACTS, dict(facts))

    def open_topic(self, name: str, kind: str) -> None:
        """A topic of type `kind`, e.g. sensor_msgs/msg/Image.

        A relative name is the robot's own, whatever namespace it ran in, and gets a slash.
        """
        if kind not in self._schemas:
            self._schemas[kind] = self._writer.register_schema(kind, SCHEMA, definition(kind))
        place = name if name.startswith("/") else f"/{name}"
        channel = self._writer.register_channel(place, "cdr", self._schemas[kind])
        self.contents.topics[name] = Topic(place, kind, channel)

    def write(self, name: str, received: int, published: int, data: bytes) -> None:
        """One serialized message; received, published: times [ns]."""
        topic = self.contents.topics[name]
        self._writer.add_message(topic.channel, received, data, published, topic.messages)
        topic.messages += 1
        self.contents.extent.add(received)

    def flush(self) -> None:
        """All that was written is on disk afterwards."""
        _finalize(self._writer)
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def finish(self, facts: Mapping[str, str] = {}) -> Path:
        """Completes the episode and gives it its name."""
        return self._end(self.folder, facts)

    def discard(self, facts: Mapping[str, str] = {}) -> Path:
        """Completes the episode under a name that nothing reads; people delete it themselves."""
        return self._end(discarded_of(self.folder), facts)

    def abandon(self) -> None:
        """Lets go of a file that cannot be completed; what was flushed can be repaired."""
        self._stream.close()

    def _end(self, target: Path, facts: Mapping[str, str]) -> Path:
        self.note(facts)
        self._writer.finish()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        complete(self._place, self.contents, target)
        return target


def partial_of(folder: Path) -> Path:
    """Where an episode lies while it is recorded."""
    return folder.with_name(folder.name + PARTIAL)


def discarded_of(folder: Path) -> Path:
    """Where an episode lies that was not wanted."""
    return folder.with_name(folder.name + DISCARDED)


def in_use(folder: Path) -> bool:
    """Whether a process that lives is writing the episode; one just killed is given DYING_S."""
    deadline = time.monotonic() + DYING_S
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


def definition(kind: str) -> bytes:
    """Text of a message type with all that it is made of; raises DatasetError if unknown."""
    try:
        return STORE.generate_msgdef(kind, ros_version=2)[0].encode()
    except Exception as error:  # the library raises its own and KeyError
        raise DatasetError(f"message type {kind} is unknown, so it cannot be recorded") from error


def deserialize(data: bytes, kind: str, where: str) -> Any:
    """The message of type `kind` in CDR; raises DatasetError, with `where`, if it is none."""
    try:
        return STORE.deserialize_cdr(data, kind)
    except Exception as error:  # lengths that lie meet whatever reads past the end
        what = f"{type(error).__name__} {show_text(error)}".strip()
        raise DatasetError(
            f"{where}: {len(data)} bytes are no {show_text(kind, 80)} ({what})"
        ) from error


def complete(place: Path, contents: Contents, target: Path) -> None:
    """Writes metadata.yaml beside a finished file and gives the folder its name."""
    text = yaml.safe_dump(_metadata(contents), sort_keys=False)
    files.replace_with(place / METADATA, lambda to: to.write_text(text))
    os.replace(place, target)
    files.sync(target.parent)


def remove(folder: Path) -> None:
    """Deletes an episode for good."""
    shutil.rmtree(folder)


def _metadata(contents: Contents) -> dict[str, Any]:
    """The object that rosbag2 and rosbags expect."""
    topics, extent = contents.topics.values(), contents.extent
    start = {"nanoseconds_since_epoch": extent.first}
    duration = {"nanoseconds": extent.last - extent.first}
    count = sum(topic.messages for topic in topics)
    one = {"path": FILE, "starting_time": start, "duration": duration, "message_count": count}
    return {
        "rosbag2_bagfile_information": {
            "version": VERSION,
            "storage_identifier": "mcap",
            "duration": dict(duration),
            "starting_time": dict(start),
            "message_count": count,
            "topics_with_message_count": [_topic(topic) for topic in topics],
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [FILE],
            "files": [one],
            "custom_data": dict(contents.facts),
            "ros_distro": DISTRO,
        }
    }


def _topic(topic: Topic) -> dict[str, Any]:
    return {
        "topic_metadata": {
            "name": topic.name,
            "type": topic.kind,
            "serialization_format": "cdr",
            "offered_qos_profiles": [],
            "type_description_hash": "",
        },
        "message_count": topic.messages,
    }
