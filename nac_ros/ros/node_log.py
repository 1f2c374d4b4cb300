"""A node's log that never blocks its caller: a thread writes the lines; dropped ones are counted.

Text from other nodes is put on one line: control characters are escaped, long text is truncated.
"""

import time
from collections import Counter
from queue import Full, Queue
from threading import Lock, Thread

from rclpy.node import Node

from nac_ros.core.errors import show_text
from nac_ros.ros.output import is_writable

MAX_WAITING = 200  # lines
MAX_TEXT = 500  # characters of a line
QUIET_S = 1.0  # between two lines for the same reason
FLUSH_S = 1.0

_logs: list["NodeLog"] = []


class NodeLog:
    """Writes lines to ROS 2's log, at its levels. Thread-safe.

    dropped: number of lines that came too fast, or while the terminal was blocked
    """

    def __init__(self, node: Node):
        self._logger = node.get_logger()
        self.dropped = 0
        self._queue: Queue[tuple[str, str]] = Queue(MAX_WAITING)
        self._lock, self._written_at = Lock(), dict[str, float]()
        self._silenced = Counter[str]()
        self._thread = Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        _logs.append(self)

    def info(self, text: str) -> None:
        self._put("info", show_text(text, MAX_TEXT))

    def warning(self, text: str, reason: str = "") -> None:
        """reason: at most one line a second is written for a reason, with the number of lines"""
        if (text := self._limited(text, reason)) is not None:
            self._put("warning", text)

    def error(self, text: str) -> None:
        self._put("error", show_text(text, MAX_TEXT))

    def debug(self, traceback: str) -> None:
        """All lines of a traceback after which the node continues; each is truncated."""
        self._put("debug", _lines(traceback))

    def fatal(self, traceback: str) -> None:
        """All lines of a traceback that ends the node; each is truncated."""
        self._put("fatal", _lines(traceback))

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Waits until every line is written, at most `timeout_s` [s]."""
        deadline = time.monotonic() + timeout_s
        while self._queue.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)

    def _limited(self, text: str, reason: str) -> str | None:
        """The line to write, None if one for the same reason was written within QUIET_S."""
        line = show_text(text, MAX_TEXT)
        if not reason:
            return line
        with self._lock:
            now = time.monotonic()
            if now - self._written_at.get(reason, -QUIET_S) < QUIET_S:
                self._silenced[reason] += 1
                return None
            self._written_at[reason] = now
            more = self._silenced.pop(reason, 0)
        return f"{line} (and {more} similar lines before)" if more else line

    def _put(self, level: str, text: str) -> None:
        try:
            self._queue.put_nowait((level, text))
        except Full:
            self.dropped += 1

    def _run(self) -> None:
        while True:
            level, text = self._queue.get()
            self.dropped += not is_writable()
            self._write(level, text)
            self._queue.task_done()

    def _write(self, level: str, text: str) -> None:
        """Writes one line. ROS 2's logger allows only one level for each line of code."""
        if level == "debug":
            self._logger.debug(text)
        elif level == "info":
            self._logger.info(text)
        elif level == "warning":
            self._logger.warning(text)
        elif level == "error":
            self._logger.error(text)
        else:
            self._logger.fatal(text)


def _lines(traceback: str) -> str:
    return "\n".join(show_text(line, MAX_TEXT) for line in traceback.strip().split("\n"))


def flush_logs() -> None:
    """Writes the queued lines of all nodes of this process, each node within FLUSH_S."""
    for log in _logs:
        log.flush()
