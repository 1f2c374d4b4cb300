"""The log of a run: a JSON object a line, only ever added to, on disk before anything goes on."""

import fcntl
import json
import os
from errno import ENOSPC
from pathlib import Path
from typing import Any

from nac_ros.core.errors import TrialError, show_value
from nac_ros.core.files import sync
from nac_ros.core.json_reader import parse_json

MAX_LINE = 1 << 20  # bytes; an entry has about 1,000


class TrialLog:
    """The only writer of a log; raises TrialError where another one is at it, or the disk is full.

    entries: all that is on disk; torn: bytes of a last line that a crash cut off, removed on
    opening
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._stream = path.open("ab", buffering=0)
        except OSError as error:
            raise _closed(path, error) from error
        try:
            self._open()
        except BaseException:
            self._stream.close()
            raise

    def _open(self) -> None:
        """Nobody else writes from now on, and a torn last line is gone."""
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            content = self.path.read_bytes()
            self.entries = _parsed(self.path, content)
            self.torn = len(content) - (content.rfind(b"\n") + 1)
            os.ftruncate(self._stream.fileno(), len(content) - self.torn)
            os.fsync(self._stream.fileno())
            sync(self.path.parent)
        except BlockingIOError as error:
            raise TrialError(
                f"{self.path} is being written by another process; end that first"
            ) from error
        except OSError as error:
            raise _closed(self.path, error) from error

    def append(self, entry: dict[str, Any]) -> None:
        """Adds an entry; it is on disk afterwards, or the log is as it was."""
        line = self.line(entry)
        before = os.fstat(self._stream.fileno()).st_size
        try:
            if self._stream.write(line) != len(line):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
            os.fsync(self._stream.fileno())
        except OSError as error:
            os.ftruncate(self._stream.fileno(), before)
            raise TrialError(
                f"{self.path} cannot be written, {error.strerror}: this trial is not judged; make "
                "room and judge it again"
            ) from error
        self.entries.append(json.loads(line))

    def line(self, entry: dict[str, Any]) -> bytes:
        """An entry as it would be written; raises TrialError where it could not be read again."""
        try:
            line = (json.dumps(entry, allow_nan=False) + "\n").encode()
        except ValueError as error:
            raise TrialError(
                f"{self.path} takes finite numbers alone, and this entry holds another: "
                f"{show_value(entry, 300)}"
            ) from error
        try:
            _entry(line.removesuffix(b"\n"))
        except TrialError as error:
            raise TrialError(f"{self.path} takes no such entry, {error}; shorten it") from error
        return line

    def close(self) -> None:
        self._stream.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """All entries of a log that may be written meanwhile, one a line; raises TrialError."""
    try:
        return _parsed(path, path.read_bytes())
    except OSError as error:
        raise _closed(path, error) from error


def damaged(path: Path, number: int, why: object) -> TrialError:
    """What is said of a line that the log's writer did not write there."""
    return TrialError(
        f"line {number} of {path} is damaged ({why}); a log is only ever added to, so something "
        "else wrote there: take it from a backup"
    )


def _parsed(path: Path, content: bytes) -> list[dict[str, Any]]:
    """A last line without its end was cut off by a crash; any other must be whole."""
    entries = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            entries.append(_entry(line))
        except TrialError as error:
            raise damaged(path, number, error) from error
    return entries


def _entry(line: bytes) -> dict[str, Any]:
    """Raises TrialError for what is no entry of a log."""
    if len(line) > MAX_LINE:
        raise TrialError(f"its {len(line)} bytes are more than {MAX_LINE}")
    entry = parse_json(line, "the entry", TrialError)
    if not isinstance(entry, dict):
        raise TrialError(f"{show_value(entry)} is no entry")
    return entry


def _closed(path: Path, error: OSError) -> TrialError:
    return TrialError(f"{path} cannot be opened, {error.strerror}: allow it, or copy the run")
