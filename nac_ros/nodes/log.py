"""A node's log that never makes its caller wait: a thread hands the lines on, the rest is counted.

Text of others is put on one line: control characters are escaped, and what is too long is cut off.
"""

import time
from collections import Counter
from queue import Full, Queue
from threading import Lock, Thread

from rclpy.node import Node

from nac_ros.errors import show_text
from nac_ros.nodes.output import takes_output

MAX_WAITING = 200  # lines
MAX_TEXT = 500  # characters of a line
QUIET_S = 1.0  # between two lines for the same reason
FLUSH_S = 1.0

_logs: list["NodeLog"] = []


class NodeLog:
    """Lines for ROS 2's log, at levels of that; any thread may write them.

    dropped: lines that came too fast, or while the terminal took nothing
    """

    def __init__(self, node: Node):
        self._logger = node.get_logger()
        self.dropped = 0
        self._queue: Queue[tuple[str, str]] = Queue(MAX_WAITING)
        self._lock, self._said = Lock(), dict[str, float]()
        self._silenced = Counter[str]()
        self._thread = Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        _logs.append(self)

    def info(self, text: str) -> None:
        self._put("info", show_text(text, MAX_TEXT))

    def warning(self, text: str, reason: str = "") -> None:
        """reason: lines with the same one come once a second at most, with how many there were"""
        if (text := self._limited(text, reason)) is not None:
            self._put("warning", text)

    def error(self, text: str) -> None:
        self._put("error", show_text(text, MAX_TEXT))

    def debug(self, traceback: str) -> None:
        """All lines of a traceback that the node lives on after, each as long as a text may be."""
        self._put("debug", _lines(traceback))

    def fatal(self, traceback: str) -> None:
        """All lines of a traceback that ends the node, each as long as a text may be."""
        self._put("fatal", _lines(traceback))

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Waits until every line was handed on, or so long [s]."""
        deadline = time.monotonic() + timeout_s
        while self._queue.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)

    def _limited(self, text: str, reason: str) -> str | None:
        """The line to write, None where one for the same reason was written just now."""
        line = show_text(text, MAX_TEXT)
        if not reason:
            return line
        with self._lock:
            now = time.monotonic()
            if now - self._said.get(reason, -QUIET_S) < QUIET_S:
                self._silenced[reason] += 1
                return None
            self._said[reason] = now
            more = self._silenced.pop(reason, 0)
        return f"{line} (and {more} like it before)" if more else line

    def _put(self, level: str, text: str) -> None:
        try:
            self._queue.put_nowait((level, text))
        except Full:
            self.dropped += 1

    def _run(self) -> None:
        while True:
            level, text = self._queue.get()
            self.dropped += not takes_output()
            self._write(level, text)
            self._queue.task_done()

    def _write(self, level: str, text: str) -> None:
        """The logger knows a place in the code by its line and wants one level at each."""
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
    """What this process's nodes have logged is handed on before it ends, if that is soon."""
    for log in _logs:
        log.flush()
