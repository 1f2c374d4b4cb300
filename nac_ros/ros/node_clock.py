"""Clocks of a node: one for timers, and the guard's time, which a set clock does not disturb."""

import time

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from nac_ros.control.guard_clock import GuardClock

STEADY = Clock(clock_type=ClockType.STEADY_TIME)  # for timers: it cannot be set
READ_S = 2e-3  # a reading of both clocks that took longer is repeated
TRIES = 5


class NodeClock:
    """Seconds since the first valid reading of `node`'s clock, which may be simulated."""

    def __init__(self, node: Node, max_gap_s: float):
        self._clock, self._time = node.get_clock(), GuardClock(max_gap_s)
        self._max_gap_s, self._latest_s, self._steady_s = max_gap_s, 0.0, 0.0

    @property
    def origin_ns(self) -> int:
        """The node's clock [ns] at the guard's time 0; 0 before the first valid reading."""
        return self._time.origin_ns

    @property
    def begun(self) -> bool:
        """Whether there was a valid reading; simulated time may not have been published yet."""
        return self._time.begun

    def read(self) -> bool:
        """Reads the clock; returns whether it was set since the last reading."""
        for _ in range(TRIES):
            before = time.monotonic()
            clock_ns, after = self._clock.now().nanoseconds, time.monotonic()
            if after - before < READ_S:
                break
        jumped = self._time.read(clock_ns, after, self._clock.ros_time_is_active)
        self._latest_s, self._steady_s = self._time.seconds(clock_ns), after
        return jumped

    def now(self) -> float:
        """The guard's time [s], 0 before the first valid reading. A clock that was set takes
        effect at the next `read`."""
        if not self._clock.ros_time_is_active:
            return self._latest_s + (time.monotonic() - self._steady_s) * self.begun
        now = self._time.seconds(self._clock.now().nanoseconds)
        return now if 0 <= now - self._latest_s <= self._max_gap_s else self._latest_s
