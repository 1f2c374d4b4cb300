"""Does things evenly, in a thread of its own: whatever comes before its time waits for it."""

import sys
import time
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread

SWITCH_S = 1e-4  # so long another thread may keep the interpreter from this one
OFF_S = 3e-3  # a clock that strays farther from the steady one is followed anew

Deed = Callable[[], None]


class Pacer:
    """Deeds `ahead` [s] before they are due, in the order in which they were put.

    Due times are of a clock that somebody may set; between deeds only their differences count.
    The process's threads change places more often than by default, so that none is kept waiting.
    """

    def __init__(self, ahead: float):
        self._ahead = ahead
        self._offset: float | None = None  # of the steady clock from theirs [s]
        self._waiting: deque[tuple[float, Deed]] = deque()
        self._news, self._ending = Condition(), False
        self._thread = Thread(target=self._run, name="pacer", daemon=True)
        sys.setswitchinterval(SWITCH_S)
        self._thread.start()

    def put(self, due: float, now: float, steady: float, deed: Deed) -> None:
        """`due` and `now` [s] on one clock, `now` when `time.monotonic()` said `steady`."""
        offset = steady - now
        if self._offset is None or abs(offset - self._offset) > OFF_S:
            self._offset = offset
        with self._news:
            self._waiting.append((due + self._offset - self._ahead, deed))
            self._news.notify()

    def flush(self) -> None:
        """Does at once what still waits."""
        with self._news:
            while self._waiting:
                self._waiting.popleft()[1]()
            self._offset = None

    def close(self) -> None:
        """Does what still waits, and ends."""
        self.flush()
        with self._news:
            self._ending = True
            self._news.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._news:
                while not self._waiting and not self._ending:
                    self._news.wait()
                if self._ending:
                    return
                wait = self._waiting[0][0] - time.monotonic()
                if wait <= 0:
                    self._waiting.popleft()[1]()
                    continue
            time.sleep(wait)
