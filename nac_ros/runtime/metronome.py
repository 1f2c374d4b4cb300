"""Calls something at an even rate in a thread of its own."""

import time
from collections.abc import Callable
from threading import Event, Thread


class Metronome:
    """Beats each `period` [s] of the steady clock from now on; beats that were missed are left
    out. What a beat raises ends the thread, see `threading.excepthook`."""

    def __init__(self, period: float, beat: Callable[[], None], name: str = "metronome"):
        self._period, self._beat = period, beat
        self._ended = Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Returns after the last beat."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            self._beat()
            now = time.monotonic()
            due += self._period * max(1, -(-(now - due) // self._period))
            time.sleep(max(due - now, 0.0))
