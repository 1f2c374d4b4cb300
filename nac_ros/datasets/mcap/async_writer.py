"""An episode that is being recorded: messages in from any thread, written by one of its own."""

import re
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from threading import Condition, Thread
from typing import NamedTuple

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.mcap import writer
from nac_ros.datasets.mcap.writer import BagWriter

FLUSH_S = 1.0  # what a power cut may take
MAX_WAITING = 512 << 20  # [bytes] that a slow disk may hold up
PATIENCE_S = 60.0  # for the disk to take the rest of an episode


class Entry(NamedTuple):
    """One serialized message; times [ns]."""

    topic: str
    received: int
    published: int
    data: bytes


class AsyncEpisodeWriter:
    """Records into `folder`; after trouble with the disk nothing more is taken, and `trouble` says
    why.

    lost: messages that could not be kept
    """

    def __init__(self, folder: Path, facts: Mapping[str, str], kinds: Mapping[str, str]):
        """kinds: topic -> message type; raises DatasetError where the folder cannot be made."""
        try:
            self._bag = BagWriter(folder, facts)
            for topic, kind in kinds.items():
                self._bag.open_topic(topic, kind)
        except OSError as error:
            raise DatasetError(f"{folder} cannot be recorded to: {error.strerror}") from error
        self.folder, self.trouble, self.lost = folder, "", 0
        self._waiting: deque[Entry] = deque()
        self._bytes, self._ending = 0, False
        self._news = Condition()
        self._thread = Thread(target=self._run, name="disk", daemon=True)
        self._thread.start()

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._bag.size

    @property
    def messages(self) -> dict[str, int]:
        """Topic -> messages written."""
        return {name: topic.messages for name, topic in self._bag.contents.topics.items()}

    def put(self, topic: str, received: int, published: int, data: bytes) -> None:
        """Takes one message; never waits for the disk."""
        with self._news:
            if self.trouble or self._bytes + len(data) > MAX_WAITING:
                self.lost += 1
                return
            self._waiting.append(Entry(topic, received, published, data))
            self._bytes += len(data)
            self._news.notify()

    def finish(self, facts: Mapping[str, str]) -> Path:
        """Keeps the episode; raises DatasetError where the disk does not let it."""
        return self._end(facts, keep=True)

    def discard(self, facts: Mapping[str, str]) -> Path:
        """Puts the episode aside; raises DatasetError where the disk does not let it."""
        return self._end(facts, keep=False)

    def abandon(self) -> None:
        """Lets go of a file that cannot be completed."""
        with self._news:
            self._ending = True
            self._news.notify()
        self._thread.join(PATIENCE_S)
        self._bag.abandon()

    def _end(self, facts: Mapping[str, str], keep: bool) -> Path:
        with self._news:
            self._ending = True
            self._news.notify()
        self._thread.join(PATIENCE_S)
        place = writer.partial_of(self.folder)
        try:
            if self._thread.is_alive():
                raise OSError(f"the disk took nothing for {PATIENCE_S:.0f} s")
            if self.trouble:
                raise OSError(self.trouble)
            lost = {"lost": str(self.lost)}
            return (self._bag.finish if keep else self._bag.discard)({**facts, **lost})
        except OSError as error:
            self.trouble = self.trouble or str(error.strerror or error)
            self._bag.abandon()
            raise DatasetError(
                f"{place} could not be completed: {self.trouble}; what is on disk is kept, make "
                f"room and run `nac data repair {place}`"
            ) from error

    def _run(self) -> None:
        flushed = time.monotonic()
        while True:
            with self._news:
                if not self._waiting and not self._ending:
                    self._news.wait(FLUSH_S / 4)
                batch, self._waiting = self._waiting, deque()
                ending = self._ending
            try:
                self._write(batch)
                if time.monotonic() - flushed > FLUSH_S:
                    self._bag.flush()
                    flushed = time.monotonic()
            except Exception as error:  # a thread must not die unheard
                with self._news:
                    self.trouble = getattr(error, "strerror", None) or repr(error)
                    self.lost += len(batch) + len(self._waiting)
                return
            with self._news:
                self._bytes -= sum(len(entry.data) for entry in batch)
            if ending and not batch:
                return

    def _write(self, batch: deque[Entry]) -> None:
        for entry in batch:
            self._bag.write(*entry)


def new_folder(out: Path, task: str, when: time.struct_time | None = None) -> Path:
    """Where the next episode goes: named by time, then by task, so that names sort by time."""
    stamp = time.strftime("%Y%m%d-%H%M%S", when or time.localtime())
    for number in range(1000):
        folder = out / (f"{stamp}_{slug(task)}" + (f"_{number}" if number else ""))
        others = (folder, writer.partial_of(folder), writer.discarded_of(folder))
        if not any(place.exists() for place in others):
            return folder
    raise DatasetError(f"{out} holds a thousand episodes of one second; check the clock")


def slug(task: str) -> str:
    """A task as a part of a folder's name."""
    return re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-")[:40] or "episode"
