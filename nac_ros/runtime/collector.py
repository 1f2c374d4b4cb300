"""Python's garbage collection, kept out of an arm's motion.

What is there once a process is set up is never looked at again (`gc.freeze`), and the collection
of old objects, which takes as long as there are many, happens only when somebody says that it may.
"""

import gc
import time

YOUNG, MIDDLE, NEVER = 2000, 20, 1_000_000_000  # see gc.set_threshold
EVERY_S = 30.0


class Collector:
    """Collections of this process; longest_s: of the longest one since `freeze` [s]."""

    def __init__(self) -> None:
        self.longest_s, self._began, self._last = 0.0, 0.0, 0.0
        self._frozen = False

    def freeze(self) -> None:
        """Collects once, and leaves alone from now on whatever is there."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG, MIDDLE, NEVER)
        self._last = time.monotonic()
        if not self._frozen:
            gc.callbacks.append(self._measure)
        self._frozen = True

    def rest(self) -> None:
        """It may take a while now: collects old objects, once in EVERY_S."""
        if self._frozen and time.monotonic() - self._last > EVERY_S:
            gc.collect()
            self._last = time.monotonic()

    def _measure(self, phase: str, info: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._began = now
        else:
            self.longest_s = max(self.longest_s, now - self._began)
