"""What a part of the runtime was told and said, call by call: written as it happens, read back.

One JSON object a line, so that whatever a killed process had written can be read. Numbers are kept
exactly. The newest minutes are kept in segments, each of which begins with all that is remembered.
"""

import base64
import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import Any, TextIO

import numpy as np

from nac_ros.core.errors import DatasetError
from nac_ros.core.types import ActionChunk, Observation

SEGMENT_S, AGAIN_S = 60.0, 5.0  # of a segment; until the next one after a disk said no
CLOSE_S = 2.0  # that a process waits for the disk at its end
MOST_WAITING = 20_000  # lines; more than a minute of a guard
MOST_BYTES = 200_000_000  # of arrays in them
SMALL = 4096  # bytes: larger arrays are packed, smaller ones stay readable
HEAD, GAP = "head", "gap"  # what a line is
LOST = "lost"  # key of both: how many lines were not written until then


class CallLog:
    """Writes `<folder>/<name>-<n>.jsonl` in a thread of its own, so that neither a disk nor JSON
    holds anybody up.

    facts: of the head of each segment; keep_s: how far back [s] segments are kept
    lost counts lines that came too fast for the disk, or found it full; trouble says what is wrong
    """

    def __init__(self, folder: Path | str, name: str, facts: Mapping[str, Any], keep_s: float):
        self.folder, self._name, self._facts = Path(folder), name, dict(facts)
        self._most = max(int(np.ceil(keep_s / SEGMENT_S)), 1) + 1
        self._queue: Queue[tuple[dict[str, Any], int] | None] = Queue(MOST_WAITING)
        self._put_bytes = self._written_bytes = 0  # each counted by one thread
        self._count, self._begun = 0, -np.inf
        self.lost, self.trouble, self._gap = 0, "", False
        self._thread = Thread(target=self._write, name="tape", daemon=True)
        self._thread.start()

    @property
    def due(self) -> bool:
        """Whether it is time for a segment, which has to know what is remembered."""
        return time.monotonic() - self._begun > SEGMENT_S

    @property
    def waiting(self) -> int:
        """Lines that are not written yet."""
        return self._queue.qsize()

    def put(self, what: str, facts: Mapping[str, Any], memory: Any = None) -> None:
        """One line; with `memory`, what was remembered before it, it begins a segment."""
        if memory is not None:
            self._begun, self._gap = time.monotonic(), False
            self._send({"what": HEAD, **self._facts, LOST: self.lost, "memory": memory})
        self._mark_gap()
        self._send({"what": what, "at": time.time(), **facts})

    def close(self) -> None:
        """Ends the thread when all is written; a disk that takes nothing is not waited for."""
        self._mark_gap()
        try:
            self._queue.put(None, timeout=CLOSE_S)
        except Full:
            return
        self._thread.join(CLOSE_S)

    def _mark_gap(self) -> None:
        """Writes where lines were lost, as soon as there is room: nothing after it is replayed."""
        if self._gap and not self._queue.full():
            self._gap = False
            self._send({"what": GAP, LOST: self.lost})

    def _send(self, row: Mapping[str, Any]) -> None:
        kept, size = _copied(row)
        if self._put_bytes + size - self._written_bytes > MOST_BYTES:
            self.lost, self._gap = self.lost + 1, True
            return
        try:
            self._queue.put_nowait((kept, size))
            self._put_bytes += size
        except Full:
            self.lost, self._gap = self.lost + 1, True

    def _write(self) -> None:
        file = None
        while (sent := self._queue.get()) is not None:
            row, size = sent
            self._written_bytes += size
            try:
                file = self._write_row(file, row)
            except OSError as error:
                file, self.lost = None, self.lost + 1
                self.trouble = f"{self.folder}: {error.strerror}; free space or set another folder"
                self._begun = time.monotonic() - SEGMENT_S + AGAIN_S

    def _write_row(self, file: TextIO | None, row: dict[str, Any]) -> TextIO | None:
        line = json.dumps(to_json(row)) + "\n"
        if row["what"] == HEAD:
            return self._begin(file, line)
        if file is None:
            self.lost += 1
        else:
            file.write(line)
            file.flush()
        return file

    def _begin(self, before: TextIO | None, head: str) -> TextIO:
        """A new segment; the oldest goes only once this one holds something."""
        if before is not None:
            before.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self._path(self._count).open("w")
        file.write(head)
        file.flush()
        self._count, self.trouble = self._count + 1, ""
        if (old := self._count - self._most - 1) >= 0:
            self._path(old).unlink(missing_ok=True)
        return file

    def _path(self, n: int) -> Path:
        return self.folder / f"{self._name}-{n:05d}.jsonl"


def segments(folder: Path | str, name: str) -> list[Path]:
    """What was kept, oldest first; raises DatasetError where there is nothing."""
    paths = sorted(Path(folder).glob(f"{name}-*.jsonl"))
    if not paths:
        raise DatasetError(
            f"{folder} holds no tape of {name}; name the folder of a demo, or one below "
            "~/.ros/nac_ros/call_logs"
        )
    return paths


def to_json(value: Any) -> Any:
    """Arrays, chunks and observations as JSON has them; `back` is the inverse."""
    if isinstance(value, np.ndarray):
        facts = {"dtype": str(value.dtype), "shape": list(value.shape)}
        if value.nbytes <= SMALL:
            return {"array": value.ravel().tolist(), **facts}
        packed = zlib.compress(np.ascontiguousarray(value).tobytes(), 1)
        return {"packed": base64.b64encode(packed).decode(), **facts}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (ActionChunk, Observation)):
        return {type(value).__name__: to_json(vars(value))}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def _copied(value: Any) -> tuple[Any, int]:
    """A value that nobody else changes, and the bytes of the arrays in it."""
    if isinstance(value, np.ndarray):
        return value.copy(), value.nbytes
    if isinstance(value, (ActionChunk, Observation)):
        fields, size = _copied(vars(value))
        return replace(value, **fields), size
    if isinstance(value, Mapping):
        pairs = {key: _copied(item) for key, item in value.items()}
        return {key: kept for key, (kept, _) in pairs.items()}, sum(n for _, n in pairs.values())
    if isinstance(value, (list, tuple)):
        items = [_copied(item) for item in value]
        return [kept for kept, _ in items], sum(n for _, n in items)
    return value, 0
