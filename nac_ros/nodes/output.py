"""Standard output and error of a node's process: what nobody reads is dropped, never waited for.

A terminal that is paused (Ctrl-S), a stalled ssh and a full pipe make a write wait. ROS 2's log
writes while it holds the interpreter's lock, so a process would stop as a whole, whichever thread
logs. A stream to the same place, opened anew without blocking, costs its other users nothing.
"""

import io
import os
import select
import stat
import sys
from typing import Any

OUT, ERR = 1, 2


class DroppingFile(io.RawIOBase):
    """Writes to a descriptor what it takes at once; `dropped` counts the other writes."""

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
        """Says that everything was written; OSError only where the place itself is broken."""
        try:
            written = os.write(self._descriptor, data)
        except BlockingIOError:
            written = 0
        self.dropped += written < len(data)
        return len(data)


def unblock_output() -> None:
    """No write to standard output or error of this process waits any more, in C or in Python."""
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


def takes_output(descriptor: int = ERR) -> bool:
    """Whether a line that is written now arrives."""
    try:
        return bool(select.select([], [descriptor], [], 0)[1])
    except (OSError, ValueError):  # closed
        return False


def _unblock(descriptor: int) -> None:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):  # a disk takes what it is given
        return
    try:
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:  # a socket, or no /proc: then the stream is unblocked for all who share it
        os.set_blocking(descriptor, False)
        return
    os.dup2(own, descriptor)
    os.close(own)
