"""The log of a run: a JSON object a line, only ever added to, on disk before anything goes on."""

import fcntl
import json
import os
from errno import ENOSPC
from pathlib import Path
from typing import Any

from nac_ros.data.layout import sync
from nac_ros.errors import TrialError


class Log:
    """The only writer of a log; raises TrialError where another one is at it, or the disk is full.

    entries: all that is on disk; torn: bytes of a last line that a crash cut off, removed on
    opening
    """

    def __init__(self, path: Path):
        self.path = path
        self._stream = path.open("ab", buffering=0)
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._stream.close()
            raise TrialError(
                f"{path} is being written by another process; end that first"
            ) from error
        content = path.read_bytes()
        self.entries = _parsed(path, content)
        self.torn = len(content) - (content.rfind(b"\n") + 1)
        os.ftruncate(self._stream.fileno(), len(content) - self.torn)
        os.fsync(self._stream.fileno())
        sync(path.parent)

    def append(self, entry: dict[str, Any]) -> None:
        """Adds an entry; it is on disk afterwards, or the log is as it was."""
        before = os.fstat(self._stream.fileno()).st_size
        line = (json.dumps(entry, allow_nan=False) + "\n").encode()
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

    def close(self) -> None:
        self._stream.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """All entries of a log that may be written meanwhile; raises TrialError."""
    return _parsed(path, path.read_bytes())


def _parsed(path: Path, content: bytes) -> list[dict[str, Any]]:
    """A last line without its end was cut off by a crash; any other must be whole."""
    entries = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            entries.append(json.loads(line))
        except ValueError as error:
            raise TrialError(
                f"line {number} of {path} is damaged ({error}); a log is only ever added to, so "
                "something else wrote there: take it from a backup"
            ) from error
    return entries
