"""Call log: an append-only log of calls and their results, one JSON object a line.

Whatever a killed process had written can be read, and numbers are kept exactly. The newest minutes
are kept in segments, files that each begin with a snapshot of the state.
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

FORMAT = 2  # goes up when keys of a line, names of calls or state fields change
SEGMENT_S = 60.0  # duration of a segment
RETRY_S = 5.0  # until the next segment after the disk rejected one
CLOSE_S = 2.0  # longest wait for the disk when a process ends
MAX_WAITING_LINES = 20_000  # more than a minute of a guard
MAX_WAITING_BYTES = 200_000_000  # of arrays in these lines
MAX_PLAIN_BYTES = 4096  # larger arrays are compressed, smaller ones stay readable
HEAD, GAP = "head", "gap"  # values of the key `call` of lines that are no calls
LOST = "lost"  # key of both: number of lines that were not written until then


class CallLog:
    """Writes `<folder>/<name>-<n>.jsonl` in a thread, so that the caller waits for neither the
    disk nor JSON.

    facts: content of the first line of each segment; keep_s: how far back [s] segments are kept
    lost: lines that came too fast for the disk, or found it full; problem: of the disk, or ''
    """

    def __init__(self, folder: Path | str, name: str, facts: Mapping[str, Any], keep_s: float):
        self.folder, self._name = Path(folder), name
        self._facts = {"call": HEAD, "format": FORMAT, **facts}
        self._max_segments = max(int(np.ceil(keep_s / SEGMENT_S)), 1) + 1
        self._queue: Queue[tuple[dict[str, Any], int] | None] = Queue(MAX_WAITING_LINES)
        self._queued_bytes = self._written_bytes = 0  # each counted by one thread
        self._n_segments, self._segment_began = 0, -np.inf
        self.lost, self.problem, self._has_gap = 0, "", False
        self._thread = Thread(target=self._write, name="call_log", daemon=True)
        self._thread.start()

    @property
    def segment_due(self) -> bool:
        """Whether the next `append` should begin a segment, with a snapshot of the state."""
        return time.monotonic() - self._segment_began > SEGMENT_S

    @property
    def waiting(self) -> int:
        """Number of lines that are not written yet."""
        return self._queue.qsize()

    def append(self, call: str, facts: Mapping[str, Any], state: Any = None) -> None:
        """Adds a line; with `state`, the snapshot before the call, it begins a segment."""
        if state is not None:
            self._segment_began, self._has_gap = time.monotonic(), False
            self._enqueue({**self._facts, LOST: self.lost, "state": state})
        self._mark_gap()
        self._enqueue({"call": call, "time": time.time(), **facts})

    def close(self) -> None:
        """Writes what waits, for at most CLOSE_S, and ends the thread."""
        self._mark_gap()
        try:
            self._queue.put(None, timeout=CLOSE_S)
        except Full:
            return
        self._thread.join(CLOSE_S)

    def _mark_gap(self) -> None:
        """Once there is room again, marks where lines were lost; later lines of the segment cannot
        be replayed."""
        if self._has_gap and not self._queue.full():
            self._has_gap = False
            self._enqueue({"call": GAP, LOST: self.lost})

    def _enqueue(self, row: Mapping[str, Any]) -> None:
        copied, size = _copy(row)
        try:
            if self._queued_bytes + size - self._written_bytes > MAX_WAITING_BYTES:
                raise Full
            self._queue.put_nowait((copied, size))
            self._queued_bytes += size
        except Full:
            self.lost, self._has_gap = self.lost + 1, True

    def _write(self) -> None:
        file = None
        while (queued := self._queue.get()) is not None:
            row, size = queued
            self._written_bytes += size
            try:
                file = self._write_row(file, row)
            except OSError as error:
                file, self.lost = None, self.lost + 1
                self.problem = f"{self.folder}: {error.strerror}; free space or set another folder"
                self._segment_began = time.monotonic() - SEGMENT_S + RETRY_S

    def _write_row(self, file: TextIO | None, row: dict[str, Any]) -> TextIO | None:
        line = json.dumps(to_json(row)) + "\n"
        if row["call"] == HEAD:
            return self._begin_segment(file, line)
        if file is None:
            self.lost += 1
        else:
            file.write(line)
            file.flush()
        return file

    def _begin_segment(self, previous: TextIO | None, head: str) -> TextIO:
        """Opens a segment; the oldest one is removed after the new one has its head."""
        if previous is not None:
            previous.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self._path(self._n_segments).open("w")
        file.write(head)
        file.flush()
        self._n_segments, self.problem = self._n_segments + 1, ""
        if (oldest := self._n_segments - self._max_segments - 1) >= 0:
            self._path(oldest).unlink(missing_ok=True)
        return file

    def _path(self, n: int) -> Path:
        return self.folder / f"{self._name}-{n:05d}.jsonl"


def list_segments(folder: Path | str, name: str) -> list[Path]:
    """The segments of a log, oldest first; raises DatasetError if there are none."""
    paths = sorted(Path(folder).glob(f"{name}-*.jsonl"))
    if not paths:
        raise DatasetError(
            f"{folder} holds no call log of {name}; name the folder of a demo, or one below "
            "~/.ros/nac_ros/call_logs"
        )
    return paths


def to_json(value: Any) -> Any:
    """Arrays, chunks and observations as JSON values; `call_log_reader.from_json` inverts it."""
    if isinstance(value, np.ndarray):
        facts = {"dtype": str(value.dtype), "shape": list(value.shape)}
        if value.nbytes <= MAX_PLAIN_BYTES:
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


def _copy(value: Any) -> tuple[Any, int]:
    """A copy that later changes of the arrays do not reach, and the bytes of the arrays in it."""
    if isinstance(value, np.ndarray):
        return value.copy(), value.nbytes
    if isinstance(value, (ActionChunk, Observation)):
        fields, size = _copy(vars(value))
        return replace(value, **fields), size
    if isinstance(value, Mapping):
        pairs = {key: _copy(item) for key, item in value.items()}
        return {key: copied for key, (copied, _) in pairs.items()}, sum(
            n for _, n in pairs.values()
        )
    if isinstance(value, (list, tuple)):
        items = [_copy(item) for item in value]
        return [copied for copied, _ in items], sum(n for _, n in items)
    return value, 0
