"""Non-blocking standard output and error of a node's process: output that would block is dropped.

A write to a paused terminal (Ctrl-S), a stalled ssh or a full pipe blocks. ROS 2's log writes
while it holds the interpreter's lock, so one blocked write would stop every thread of the process.
The same terminal or pipe is opened again without blocking, so its other users are not affected.
"""

import io
import os
import select
import stat
import sys
from typing import Any

OUT, ERR = 1, 2


class DroppingFile(io.RawIOBase):
    """Writes to a descriptor without blocking; `dropped` counts the incomplete writes."""

    def __init__(self, descriptor: int):
        super().__init__()
        self._descriptor, self.dropped = descriptor, 0

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        """Returns the length of `data`, also if bytes were dropped. Raises OSError if the
        descriptor is broken."""
        try:
            written = os.write(self._descriptor, data)
        except BlockingIOError:
            written = 0
        self.dropped += written < len(data)
        return len(data)


def unblock_output() -> None:
    """Makes standard output and error of this process non-blocking, in C and in Python."""
    for descriptor, stream in ((OUT, "stdout"), (ERR, "stderr")):
        try:
            _unblock(descriptor)
        except OSError:  # closed: nothing is written to it
            continue
        getattr(sys, stream).flush()
        text = io.TextIOWrapper(
            DroppingFile(descriptor),  # type: ignore[type-var]
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
            write_through=True,
        )
        setattr(sys, stream, text)


def is_writable(descriptor: int = ERR) -> bool:
    """Whether a write to the descriptor would not block now."""
    try:
        return bool(select.select([], [descriptor], [], 0)[1])
    except (OSError, ValueError):  # closed
        return False


def _unblock(descriptor: int) -> None:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):  # writes to a regular file do not block
        return
    try:
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:  # a socket, or no /proc: then non-blocking for all who share the stream
        os.set_blocking(descriptor, False)
        return
    os.dup2(own, descriptor)
    os.close(own)
