"""The guard's time: continuous seconds from a clock that may be set."""

NANO = 1_000_000_000
JUMP_S = 0.02  # a system clock that is slewed strays by 0.0005 s per second


class GuardClock:
    """Seconds since the first valid reading of a clock in nanoseconds.

    If the clock is set, these seconds continue with the steady clock and the origin moves, so
    planned motion keeps its time. A reading of 0 is not valid: simulated time has not been
    published yet.

    max_gap_s: simulated time may run at any rate and pause; a step ahead by more than this [s]
        means that it was set
    """

    def __init__(self, max_gap_s: float):
        self._max_gap_s = max_gap_s
        self.origin_ns = 0
        self._clock_ns: int | None = None
        self._steady_s = 0.0

    @property
    def begun(self) -> bool:
        """Whether there was a valid reading."""
        return self._clock_ns is not None

    def read(self, clock_ns: int, steady_s: float, simulated: bool = False) -> bool:
        """Adds a reading at `steady_s` [s] of the steady clock; returns whether the clock was set
        since the last one."""
        if self._clock_ns is None:
            if clock_ns > 0:
                self.origin_ns, self._clock_ns, self._steady_s = clock_ns, clock_ns, steady_s
            return False
        passed, steady = (clock_ns - self._clock_ns) / NANO, steady_s - self._steady_s
        self._clock_ns, self._steady_s = clock_ns, steady_s
        # A step back always means that the clock was set.
        as_steady = passed >= 0 and abs(passed - steady) <= JUMP_S
        if as_steady or (simulated and 0 <= passed <= self._max_gap_s):
            return False
        self.origin_ns += round((passed - steady) * NANO)
        return True

    def seconds(self, clock_ns: int) -> float:
        """The guard's time [s] at the reading `clock_ns`; 0 before the first valid reading."""
        return (clock_ns - self.origin_ns) / NANO if self.begun else 0.0
