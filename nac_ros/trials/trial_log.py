"""Append-only log of a run, one JSON object per line, and atomic writes of its other files."""

import fcntl
import json
import os
from contextlib import ExitStack
from errno import ENOSPC
from pathlib import Path
from typing import Any

from nac_ros.core.errors import TrialError, show_value
from nac_ros.core.files import fsync, replace_atomically, write_error
from nac_ros.core.json_reader import parse_json

MAX_LINE = 1 << 20  # bytes; an entry has about 1,000


class TrialLog:
    """Writes a log, under a lock that admits no other writer.

    Raises TrialError if another process writes the log or the disk is full.
    entries: everything that is on disk
    torn: bytes of a last line that a crash cut off; opening the log removes them
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with ExitStack() as on_error:
                self._stream = on_error.enter_context(path.open("ab", buffering=0))
                self._lock_and_read()
                on_error.pop_all()
        except BlockingIOError as error:
            raise TrialError(
                f"{path} is being written by another process; end that process first"
            ) from error
        except OSError as error:
            raise _open_error(path, error) from error

    def _lock_and_read(self) -> None:
        fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        content = self.path.read_bytes()
        self.entries = _parse(self.path, content)
        self.torn = len(content) - (content.rfind(b"\n") + 1)
        os.ftruncate(self._stream.fileno(), len(content) - self.torn)
        os.fsync(self._stream.fileno())
        fsync(self.path.parent)

    def append(self, entry: dict[str, Any]) -> None:
        """Adds an entry. It is on disk on return; if that fails the log is unchanged."""
        line = self.encode(entry)
        before = os.fstat(self._stream.fileno()).st_size
        try:
            if self._stream.write(line) != len(line):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
            os.fsync(self._stream.fileno())
        except OSError as error:
            os.ftruncate(self._stream.fileno(), before)
            raise TrialError(
                f"{self.path} cannot be written, {error.strerror}: this trial has no verdict yet; "
                "free some space and enter it again"
            ) from error
        self.entries.append(json.loads(line))

    def encode(self, entry: dict[str, Any]) -> bytes:
        """An entry as a line of the log; raises TrialError if it could not be read again."""
        try:
            line = (json.dumps(entry, allow_nan=False) + "\n").encode()
        except ValueError as error:
            raise TrialError(
                f"{self.path} takes finite numbers only, and this entry has another: "
                f"{show_value(entry, 300)}"
            ) from error
        try:
            _parse_entry(line.removesuffix(b"\n"))
        except TrialError as error:
            raise TrialError(f"{self.path} takes no such entry, {error}; shorten it") from error
        return line

    def close(self) -> None:
        self._stream.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """All entries of a log that another process may be writing; raises TrialError."""
    try:
        return _parse(path, path.read_bytes())
    except OSError as error:
        raise _open_error(path, error) from error


def write_file(path: Path, content: bytes) -> None:
    """Replaces a file in a run's folder atomically; raises TrialError."""
    try:
        replace_atomically(path, lambda temporary: temporary.write_bytes(content))
    except OSError as error:
        raise write_error(path, error) from error


def damage_error(path: Path, line_number: int, reason: object) -> TrialError:
    """Error for a line that the log's writer cannot have written there."""
    return TrialError(
        f"line {line_number} of {path} is damaged ({reason}); another program changed the log: "
        "take it from a backup"
    )


def _parse(path: Path, content: bytes) -> list[dict[str, Any]]:
    """Entries of all complete lines; a last line without its end was cut off by a crash."""
    entries = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            entries.append(_parse_entry(line))
        except TrialError as error:
            raise damage_error(path, number, error) from error
    return entries


def _parse_entry(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        raise TrialError(f"its {len(line)} bytes are more than {MAX_LINE}")
    entry = parse_json(line, "the entry", TrialError)
    if not isinstance(entry, dict):
        raise TrialError(f"{show_value(entry)} is no entry")
    return entry


def _open_error(path: Path, error: OSError) -> TrialError:
    return TrialError(
        f"{path} cannot be opened, {error.strerror}: change its rights, or copy the run"
    )
