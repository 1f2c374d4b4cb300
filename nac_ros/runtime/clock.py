"""The guard's time: seconds that go on evenly, from a clock that somebody may set."""

NANO = 1_000_000_000
JUMP_S = 0.02  # a system clock that is slewed strays by 0.0005 s per second


class GuardClock:
    """Seconds after the first valid reading of a clock in nanoseconds.

    Where the clock is set while it is read, these seconds go on like those of the steady clock and
    the origin moves, so that what was planned stays where it is in time. A clock of 0 has not
    begun: nobody has published simulated time yet.

    max_gap_s: simulated time may pass at any rate, and stand; ahead by more than this at once it
        has been set
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
        """Takes a reading, `steady_s` [s] by the steady clock; whether the clock was set since the
        last one."""
        if self._clock_ns is None:
            if clock_ns > 0:
                self.origin_ns, self._clock_ns, self._steady_s = clock_ns, clock_ns, steady_s
            return False
        passed, steady = (clock_ns - self._clock_ns) / NANO, steady_s - self._steady_s
        self._clock_ns, self._steady_s = clock_ns, steady_s
        as_steady = passed >= 0 and abs(passed - steady) <= JUMP_S  # back by any time it was set
        if as_steady or (simulated and 0 <= passed <= self._max_gap_s):
            return False
        self.origin_ns += round((passed - steady) * NANO)
        return True

    def seconds(self, clock_ns: int) -> float:
        """The guard's time when the clock reads `clock_ns` [s]; 0 before it has begun."""
        return (clock_ns - self.origin_ns) / NANO if self.begun else 0.0
