"""Reads an episode's MCAP file, whole or cut off, and mends what was cut off."""

import os
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mcap.exceptions import McapError
from mcap.records import Channel, Chunk, McapRecord, Metadata, Schema
from mcap.records import Message as Record
from mcap.stream_reader import StreamReader, breakup_chunk

from nac_ros.config import load_yaml
from nac_ros.data import bag
from nac_ros.data.bag import BagWriter
from nac_ros.decode import NANO
from nac_ros.errors import ConfigError, DatasetError

REPAIRED, DAMAGED = ".repaired", ".damaged"
RECORD_LIMIT = 1 << 30  # [bytes] a longer record is no record
DAMAGE = (McapError, EOFError, ValueError, MemoryError, struct.error)  # as the library meets it


class Message(NamedTuple):
    """One serialized message; times [ns]; topic as it was recorded, from the root."""

    topic: str
    kind: str
    received: int
    published: int
    data: bytes


@dataclass
class Reading:
    """What was found on the way: facts, whether the file ends as it should, what was damaged.

    whole: up to which byte the file could be read
    """

    facts: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    damaged: int = 0
    whole: int = 0


def is_episode(folder: Path) -> bool:
    """Whether the folder holds a finished recording."""
    unfinished = (bag.PARTIAL, bag.DISCARDED, DAMAGED, REPAIRED)
    return (folder / bag.FILE).is_file() and not folder.name.endswith(unfinished)


def unfinished(path: Path) -> list[Path]:
    """Episodes below a folder that were never finished by a recorder, and those of which a repair
    had done all but giving them their name."""
    left = [p for p in path.glob(f"*{bag.PARTIAL}") if not p.name.endswith(REPAIRED + bag.PARTIAL)]
    for mended in path.glob(f"*{REPAIRED}"):
        episode = mended.with_name(mended.name.removesuffix(REPAIRED))
        if not episode.exists() and not bag.partial_of(episode).exists():
            left.append(mended)
    return sorted(left)


def facts_of(folder: Path) -> dict[str, str]:
    """What the recorder wrote beside an episode; raises DatasetError without metadata.yaml."""
    path = folder / bag.METADATA
    try:
        content = load_yaml(path)["rosbag2_bagfile_information"]
        return {key: str(value) for key, value in (content.get("custom_data") or {}).items()}
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path} is missing or broken; run `nac data repair {folder}`"
        ) from error


def messages(
    folder: Path, topics: Collection[str] | None = None, reading: Reading | None = None
) -> Iterator[Message]:
    """Messages in the order they were written, of all topics or of some.

    reading: is filled on the way; without one, damage raises DatasetError
    """
    path, found = folder / bag.FILE, reading or Reading()
    channels: dict[int, tuple[str, str]] = {}
    schemas: dict[int, str] = {}
    for record in _records(path, found):
        if isinstance(record, Schema):
            schemas[record.id] = record.name
        elif isinstance(record, Channel):
            channels[record.id] = (record.topic, schemas[record.schema_id])
        elif isinstance(record, Metadata) and record.name == bag.FACTS:
            found.facts.update(record.metadata)
        elif isinstance(record, Record):
            topic, kind = channels[record.channel_id]
            if topics is None or topic in topics:
                yield Message(topic, kind, record.log_time, record.publish_time, record.data)
    if reading is None and (found.damaged or not found.complete):
        what = f"{found.damaged} damaged chunks" if found.damaged else "cut off"
        raise DatasetError(f"{path} is damaged ({what}); run `nac data repair {folder}`")


def is_whole(folder: Path) -> bool:
    """Whether every byte of an episode can be read, and its metadata is there."""
    reading = Reading()
    for _ in messages(folder, (), reading):
        pass
    return reading.complete and not reading.damaged and (folder / bag.METADATA).is_file()


class Repaired(NamedTuple):
    """What became of a damaged episode: where it is now, messages by topic, its length [s], how
    many bytes at its end and how many chunks before could not be read."""

    folder: Path
    messages: dict[str, int]
    seconds: float
    lost_bytes: int
    damaged: int

    def __str__(self) -> str:
        kept = sum(self.messages.values())
        lost = f"{self.lost_bytes} bytes at its end" if self.lost_bytes else "nothing at its end"
        lost += f" and {self.damaged} chunks before were lost" if self.damaged else " was lost"
        return f"{self.folder}: {kept} messages of {self.seconds:.1f} s are kept; {lost}"


def repair(folder: Path) -> Repaired:
    """Writes a whole file from what can be read, under the episode's own name; the damaged one
    stays beside it as `<name>.damaged`. Cut off itself, it can be repeated.

    Raises DatasetError where there is nothing to read, no room, or somebody still records.
    """
    name = folder.name.removesuffix(bag.PARTIAL).removesuffix(REPAIRED)
    target, work = folder.with_name(name), folder.with_name(name + REPAIRED)
    path = folder / bag.FILE
    if folder == bag.partial_of(work):
        raise DatasetError(f"{folder} is what a repair left; repair the episode itself again")
    if not path.is_file() or not path.stat().st_size:
        raise DatasetError(f"{path} holds nothing, so there is nothing to repair")
    if bag.in_use(folder):
        raise DatasetError(f"{folder} is being recorded; end the episode first")
    if folder != target and target.exists():
        raise DatasetError(f"{target} exists already; move it away, then repair {folder}")
    if folder == work:  # all but its name was done
        os.replace(work, target)
        return _repaired(target, Reading(), 0)
    for left in (work, bag.partial_of(work)):  # of a repair that was cut off
        if left.exists():
            bag.remove(left)
    reading = Reading()
    try:
        lost = _copy(folder, work, reading)
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be repaired: {error.strerror}; it is as it was, make room first"
        ) from error
    os.replace(folder, _unused(folder.with_name(name + DAMAGED)))
    os.replace(work, target)
    return _repaired(target, reading, lost)


def _copy(folder: Path, work: Path, reading: Reading) -> int:
    """All that can be read, with the facts as they were changed since; how many bytes cannot."""
    writer = BagWriter(work, {})
    for message in messages(folder, None, reading):
        if message.topic not in writer.contents.topics:
            writer.open_topic(message.topic, message.kind)
        writer.write(message.topic, message.received, message.published, message.data)
    if not writer.contents.topics:
        writer.abandon()
        bag.remove(bag.partial_of(work))
        raise DatasetError(f"{folder} holds no whole message, so there is nothing to repair")
    lost = (folder / bag.FILE).stat().st_size - reading.whole
    facts = {"outcome": "interrupted", **reading.facts}
    if (folder / bag.METADATA).is_file():
        facts |= facts_of(folder)
    writer.finish({**facts, "repaired": f"{lost} bytes and {reading.damaged} chunks were lost"})
    return lost


def _unused(folder: Path) -> Path:
    """`folder`, or the same with a number where that is taken."""
    names = (folder, *(folder.with_name(f"{n}.{folder.name}") for n in range(2, 1000)))
    return next(place for place in names if not place.exists())


def _repaired(folder: Path, reading: Reading, lost: int) -> Repaired:
    counts, times = Counter[str](), list[int]()
    for message in messages(folder):
        counts[message.topic] += 1
        times.append(message.received)
    return Repaired(folder, dict(counts), (max(times) - min(times)) / NANO, lost, reading.damaged)


def _records(path: Path, reading: Reading) -> Iterator[McapRecord]:
    """Every record up to where the file is cut off; chunks that are damaged are left out."""
    with path.open("rb") as stream:
        reader = StreamReader(stream, emit_chunks=True, record_size_limit=RECORD_LIMIT)
        records = reader.records
        while True:
            try:
                record = next(records)
            except StopIteration:
                reading.complete = True
                return
            except DAMAGE:
                return
            inside = _opened(record)
            if inside is None and stream.tell() == path.stat().st_size:
                return  # the last chunk is not whole
            reading.whole = stream.tell()
            reading.damaged += inside is None
            yield from inside or ()


def _opened(record: McapRecord) -> list[McapRecord] | None:
    """The record, or what a chunk is made of; None where its CRC does not hold."""
    if not isinstance(record, Chunk):
        return [record]
    try:
        return breakup_chunk(record, validate_crc=True)
    except DAMAGE:
        return None
