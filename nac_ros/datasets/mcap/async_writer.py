"""Writes an episode in a thread of its own, so that callers never wait for the disk."""

import re
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from threading import Condition, Thread

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.mcap.writer import BagWriter, TimedMessage, discarded_path, partial_path

FLUSH_S = 1.0  # between flushes; a power cut loses at most the messages since the last one
MAX_QUEUED = 512 << 20  # [bytes] that wait for a slow disk
JOIN_S = 60.0  # longest wait until the disk has taken the queued messages of an episode


class AsyncEpisodeWriter:
    """Records into `folder` from any thread.

    error: why the disk takes no more messages, '' while it does
    dropped: number of messages that were not written
    """

    def __init__(
        self, folder: Path, metadata: Mapping[str, str], message_types: Mapping[str, str]
    ):
        """message_types: topic -> message type; raises DatasetError if the folder cannot be
        created."""
        try:
            self._writer = BagWriter(folder, metadata)
            for topic, message_type in message_types.items():
                self._writer.add_topic(topic, message_type)
        except OSError as error:
            raise DatasetError(f"{folder} cannot be recorded to: {error.strerror}") from error
        self.folder, self.error, self.dropped = folder, "", 0
        self._queue: deque[TimedMessage] = deque()
        self._queued_bytes, self._stopping = 0, False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="disk", daemon=True)
        self._thread.start()

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._writer.size

    @property
    def message_counts(self) -> dict[str, int]:
        """Topic -> messages written."""
        return {name: topic.messages for name, topic in self._writer.topics.items()}

    def put(self, topic: str, received: int, published: int, data: bytes) -> None:
        """Queues one serialized message, times [ns]; drops it after an error or if MAX_QUEUED
        bytes already wait."""
        with self._changed:
            if self.error or self._queued_bytes + len(data) > MAX_QUEUED:
                self.dropped += 1
                return
            self._queue.append(TimedMessage(topic, received, published, data))
            self._queued_bytes += len(data)
            self._changed.notify()

    def abandon(self) -> None:
        """Closes a file that cannot be completed."""
        self._stop_thread()
        self._writer.abandon()

    def finish(self, metadata: Mapping[str, str], discard: bool = False) -> Path:
        """Completes the episode, see `BagWriter.finish`; raises DatasetError if it could not be
        written completely."""
        self._stop_thread()
        try:
            if self._thread.is_alive():
                raise OSError(f"the disk took nothing for {JOIN_S:.0f} s")
            if self.error:
                raise OSError(self.error)
            return self._writer.finish({**metadata, "lost": str(self.dropped)}, discard)
        except OSError as error:
            self.error = self.error or str(error.strerror or error)
            self._writer.abandon()
            partial = partial_path(self.folder)
            raise DatasetError(
                f"{partial} could not be completed: {self.error}; the written messages are kept: "
                f"free disk space and run `nac data repair {partial}`"
            ) from error

    def _stop_thread(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(JOIN_S)

    def _run(self) -> None:
        """Writes batches until `_stopping` is set and the queue is empty, or an error occurs."""
        flushed = time.monotonic()
        while True:
            with self._changed:
                if not self._queue and not self._stopping:
                    self._changed.wait(FLUSH_S / 4)
                batch, self._queue = self._queue, deque()
                stopping = self._stopping
            try:
                for message in batch:
                    self._writer.write(*message)
                if time.monotonic() - flushed > FLUSH_S:
                    self._writer.flush()
                    flushed = time.monotonic()
            except Exception as error:  # otherwise the thread would end unnoticed
                with self._changed:
                    self.error = getattr(error, "strerror", None) or repr(error)
                    self.dropped += len(batch) + len(self._queue)
                return
            with self._changed:
                self._queued_bytes -= sum(len(message.data) for message in batch)
            if stopping and not batch:
                return


def new_folder(out: Path, task: str, when: time.struct_time | None = None) -> Path:
    """An unused folder for the next episode, named by time and task: names sort by time."""
    stamp = time.strftime("%Y%m%d-%H%M%S", when or time.localtime())
    for number in range(1000):
        folder = out / (f"{stamp}_{slug(task)}" + (f"_{number}" if number else ""))
        if not any(p.exists() for p in (folder, partial_path(folder), discarded_path(folder))):
            return folder
    raise DatasetError(f"{out} contains a thousand episodes of the same second; check the clock")


def slug(task: str) -> str:
    """A task as a part of a folder's name."""
    return re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-")[:40] or "episode"
