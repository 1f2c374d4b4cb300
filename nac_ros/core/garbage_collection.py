"""Keeps full garbage collections out of the time in which the arm moves.

Objects that exist after set-up are excluded from collection (`gc.freeze`). The oldest generation,
whose collection time grows with the number of objects, is collected only in `collect_if_due`.
"""

import gc
import time

YOUNG, MIDDLE, NEVER = 2000, 20, 1_000_000_000  # see gc.set_threshold
EVERY_S = 30.0  # between full collections


class GarbageCollection:
    """Controls the garbage collection of this process.

    longest_s: duration of the longest collection since `freeze` [s]
    """

    def __init__(self) -> None:
        self.longest_s, self._began, self._last = 0.0, 0.0, 0.0
        self._frozen = False

    def freeze(self) -> None:
        """Collects once, excludes all present objects, and disables automatic full collections."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG, MIDDLE, NEVER)
        self._last = time.monotonic()
        if not self._frozen:
            gc.callbacks.append(self._measure)
        self._frozen = True

    def collect_if_due(self) -> None:
        """Runs a full collection, at most once in EVERY_S; call it while the arm is at rest."""
        if self._frozen and time.monotonic() - self._last > EVERY_S:
            gc.collect()
            self._last = time.monotonic()

    def _measure(self, phase: str, info: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._began = now
        else:
            self.longest_s = max(self.longest_s, now - self._began)
