"""Reads an episode's MCAP file, whole or cut off, and mends what was cut off."""

import os
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mcap.records import Channel, Metadata, Schema

from nac_ros.core.config import load_yaml
from nac_ros.core.errors import ConfigError, DatasetError, show_text
from nac_ros.core.message_decoding import NANO
from nac_ros.datasets.mcap import container
from nac_ros.datasets.mcap import writer as mcap_writer
from nac_ros.datasets.mcap.container import Record
from nac_ros.datasets.mcap.writer import BagWriter

REPAIRED, DAMAGED = ".repaired", ".damaged"
INFORMATION, CUSTOM = "rosbag2_bagfile_information", "custom_data"  # of metadata.yaml
CDR = "cdr"  # how a message is serialized, as its channel says


class Message(NamedTuple):
    """One serialized message; times [ns]; topic as it was recorded, from the root."""

    topic: str
    kind: str
    received: int
    published: int
    data: bytes


@dataclass
class ReadReport:
    """What was found on the way: facts, whether the file ends as it should, what was damaged.

    whole: up to which byte the file could be read
    unknown: messages of which the file does not say what they are
    """

    facts: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    damaged: int = 0
    whole: int = 0
    unknown: int = 0

    @property
    def sound(self) -> bool:
        """Whether everything could be read."""
        return self.complete and not self.damaged and not self.unknown


def is_episode(folder: Path) -> bool:
    """Whether the folder holds a finished recording."""
    unfinished = (mcap_writer.PARTIAL, mcap_writer.DISCARDED, DAMAGED, REPAIRED)
    return (folder / mcap_writer.FILE).is_file() and not folder.name.endswith(unfinished)


def unfinished(path: Path) -> list[Path]:
    """Episodes below a folder that were never finished by a recorder, and those of which a repair
    had done all but giving them their name."""
    left = [
        p
        for p in path.glob(f"*{mcap_writer.PARTIAL}")
        if not p.name.endswith(REPAIRED + mcap_writer.PARTIAL)
    ]
    for mended in path.glob(f"*{REPAIRED}"):
        episode = mended.with_name(mended.name.removesuffix(REPAIRED))
        if not episode.exists() and not mcap_writer.partial_of(episode).exists():
            left.append(mended)
    return sorted(left)


def facts_of(folder: Path) -> dict[str, str]:
    """What the recorder wrote beside an episode; raises DatasetError without metadata.yaml."""
    return facts_in(metadata_of(folder), folder)


def metadata_of(folder: Path) -> dict[str, Any]:
    """The content of an episode's metadata.yaml; raises DatasetError where it is none."""
    path = folder / mcap_writer.METADATA
    fix = f"run `nac data repair {folder}`"
    try:
        content = load_yaml(path)
    except ConfigError as error:
        raise DatasetError(f"{error}; {fix}") from error
    if not isinstance(content.get(INFORMATION), dict):
        raise DatasetError(f"{path} has no mapping {INFORMATION}; {fix}")
    return content


def facts_in(metadata: dict[str, Any], folder: Path) -> dict[str, str]:
    """The facts in what `metadata_of` read; raises DatasetError where one is no text or number."""
    facts = metadata[INFORMATION].get(CUSTOM) or {}
    if not isinstance(facts, dict):
        raise DatasetError(
            f"{folder / mcap_writer.METADATA}: {CUSTOM} must be a mapping, got {show_text(facts)}; run "
            f"`nac data repair {folder}`"
        )
    for key, value in facts.items():
        if not isinstance(key, str) or not isinstance(value, (str, int, float)):
            raise DatasetError(
                f"{folder / mcap_writer.METADATA}: {CUSTOM} {show_text(key, 40)} must be text, got "
                f"{show_text(value)}; run `nac data repair {folder}`"
            )
    return {key: str(value) for key, value in facts.items()}


def messages(
    folder: Path, topics: Collection[str] | None = None, reading: ReadReport | None = None
) -> Iterator[Message]:
    """Messages in the order they were written, of all topics or of some.

    reading: is filled on the way; without one, damage raises DatasetError
    """
    path, found = folder / mcap_writer.FILE, ReadReport() if reading is None else reading
    channels: dict[int, tuple[str, str]] = {}
    schemas: dict[int, str] = {}
    for record in _records(path, found):
        if isinstance(record, Schema):
            schemas.setdefault(record.id, record.name)
        elif isinstance(record, Channel):
            if record.schema_id in schemas and record.message_encoding == CDR:
                channels.setdefault(record.id, (record.topic, schemas[record.schema_id]))
        elif isinstance(record, Metadata):
            if record.name == mcap_writer.FACTS:
                found.facts.update(record.metadata)
        elif record.channel not in channels:
            found.unknown += 1
        else:
            topic, kind = channels[record.channel]
            if topics is None or topic in topics:
                yield Message(topic, kind, record.received, record.published, record.data)
    if reading is None and not found.sound:
        raise DatasetError(f"{path} is damaged ({_damage(found)}); run `nac data repair {folder}`")


def _damage(found: ReadReport) -> str:
    what = [] if found.complete else [f"cut off or damaged from byte {found.whole} on"]
    what += [f"{found.damaged} damaged chunks"] if found.damaged else []
    what += [f"{found.unknown} messages of unknown channels"] if found.unknown else []
    return ", ".join(what)


def is_whole(folder: Path) -> bool:
    """Whether every byte of an episode can be read, and its metadata is there."""
    reading = ReadReport()
    for _ in messages(folder, (), reading):
        pass
    return reading.sound and _has_facts(folder)


def _has_facts(folder: Path) -> bool:
    try:
        facts_of(folder)
    except DatasetError:  # `repair` writes it anew, and says what of the file it could not read
        return False
    return True


class Repaired(NamedTuple):
    """What became of a damaged episode: where it is now, messages by topic, its length [s], how
    many bytes at its end, how many chunks before and how many messages could not be read."""

    folder: Path
    messages: dict[str, int]
    seconds: float
    lost_bytes: int
    damaged: int
    unknown: int = 0

    def __str__(self) -> str:
        kept = sum(self.messages.values())
        lost = f"{self.lost_bytes} bytes at its end" if self.lost_bytes else "nothing at its end"
        lost += f" and {self.damaged} chunks before were lost" if self.damaged else " was lost"
        if self.unknown:
            lost += f"; {self.unknown} messages of unknown channels or types were left out"
        return f"{self.folder}: {kept} messages of {self.seconds:.1f} s are kept; {lost}"


def repair(folder: Path) -> Repaired:
    """Writes a whole file from what can be read, under the episode's own name; the damaged one
    stays beside it as `<name>.damaged`. Cut off itself, it can be repeated.

    Raises DatasetError where there is nothing to read, no room, or somebody still records.
    """
    name = folder.name.removesuffix(mcap_writer.PARTIAL).removesuffix(REPAIRED)
    target, work = folder.with_name(name), folder.with_name(name + REPAIRED)
    path = folder / mcap_writer.FILE
    if folder == mcap_writer.partial_of(work):
        raise DatasetError(f"{folder} is what a repair left; repair the episode itself again")
    if not path.is_file() or not path.stat().st_size:
        raise DatasetError(f"{path} holds nothing, so there is nothing to repair")
    if mcap_writer.in_use(folder):
        raise DatasetError(f"{folder} is being recorded; end the episode first")
    if folder != target and target.exists():
        raise DatasetError(f"{target} exists already; move it away, then repair {folder}")
    if folder == work:  # all but its name was done
        os.replace(work, target)
        return _repaired(target, ReadReport(), 0)
    for left in (work, mcap_writer.partial_of(work)):  # of a repair that was cut off
        if left.exists():
            mcap_writer.remove(left)
    reading = ReadReport()
    try:
        lost = _copy(folder, work, reading)
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be repaired: {error.strerror}; it is as it was, make room first"
        ) from error
    except (ArithmeticError, struct.error, UnicodeError, ValueError) as error:  # of the writer
        raise DatasetError(
            f"{folder} cannot be repaired: {show_text(error)}; it is as it was, copy it again"
        ) from error
    os.replace(folder, _unused(folder.with_name(name + DAMAGED)))
    os.replace(work, target)
    return _repaired(target, reading, lost)


def _copy(folder: Path, work: Path, reading: ReadReport) -> int:
    """All that can be read, with the facts as they were changed since; how many bytes cannot."""
    writer = BagWriter(work, {})
    for message in messages(folder, None, reading):
        if message.topic not in writer.contents.topics and not _opened(writer, message):
            reading.unknown += 1
            continue
        writer.write(message.topic, message.received, message.published, message.data)
    if not writer.contents.topics:
        writer.abandon()
        mcap_writer.remove(mcap_writer.partial_of(work))
        raise DatasetError(f"{folder} holds no whole message, so there is nothing to repair")
    lost = (folder / mcap_writer.FILE).stat().st_size - reading.whole
    facts = {"outcome": "interrupted", **reading.facts}
    if _has_facts(folder):
        facts |= facts_of(folder)
    writer.finish({**facts, "repaired": f"{lost} bytes and {reading.damaged} chunks were lost"})
    return lost


def _unused(folder: Path) -> Path:
    """`folder`, or the same with a number where that is taken."""
    names = (folder, *(folder.with_name(f"{n}.{folder.name}") for n in range(2, 1000)))
    return next(place for place in names if not place.exists())


def _repaired(folder: Path, reading: ReadReport, lost: int) -> Repaired:
    counts, times = Counter[str](), list[int]()
    for message in messages(folder):
        counts[message.topic] += 1
        times.append(message.received)
    seconds = (max(times) - min(times)) / NANO
    return Repaired(folder, dict(counts), seconds, lost, reading.damaged, reading.unknown)


def _opened(writer: BagWriter, message: Message) -> bool:
    """Whether a topic of the message's type could be opened."""
    try:
        writer.open_topic(message.topic, message.kind)
    except DatasetError:  # a type that nobody knows: such messages are counted, and left out
        return False
    return True


def _records(path: Path, reading: ReadReport) -> Iterator[Record]:
    """Every record up to where the file is cut off; chunks that are damaged are left out."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            for part in container.read_parts(stream, size):
                if part.records is None and part.end == size:
                    return  # the last chunk is not whole
                reading.whole, reading.complete = part.end, part.complete
                reading.damaged += part.records is None
                yield from part.records or ()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; copy it again") from error
