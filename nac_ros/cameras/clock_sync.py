"""A device's clock mapped to the host's: when a picture was taken, by when others arrived.

Pictures arrive late by a varying time and never early. Arrival minus device time is therefore the
offset of the clocks plus a delay; the lowest ones have the least delay. The offset is the line
below the lowest of each second, kept for half a minute: its slope is the drift of the clocks.
"""

from collections import deque
from itertools import pairwise
from typing import NamedTuple

from nac_ros.cameras.camera import ArrivalTime

BUCKET_S = 1.0
N_BUCKETS = 30
LEAST_SPAN_S = 5.0  # no drift is read from less
MAX_DRIFT = 500e-6  # crystals stay below 100e-6


class OffsetSample(NamedTuple):
    """The least `excess` [s], arrival minus device time, of a second; seen at `device` [s]."""

    device: float
    excess: float


class DeviceClock:
    """Stamps of one device; a clock that jumps back begins anew.

    The host's clock may be set at any time: arrivals are told by a clock that nobody sets.
    latency_s: the least time from exposure to arrival, which no arrival can show
    """

    def __init__(self, latency_s: float = 0.0):
        self._latency_s = latency_s
        self._lowest: deque[OffsetSample] = deque(maxlen=N_BUCKETS)
        self._newest = float("-inf")

    def restart(self) -> None:
        """Forgets the device's clock."""
        self._lowest.clear()
        self._newest = float("-inf")

    def stamp(self, device: float, received: ArrivalTime) -> float:
        """Host time [s] of what the device stamped `device` [s] and was `received` then."""
        if device < self._newest:
            self.restart()
        self._newest = device
        excess = received.monotonic - device
        self._note(OffsetSample(device, excess))
        delay = max(excess - self._offset(device), 0.0)  # never after it arrived
        return received.wall - delay - self._latency_s

    def _note(self, seen: OffsetSample) -> None:
        last = self._lowest[-1] if self._lowest else None
        if last is None or seen.device // BUCKET_S != last.device // BUCKET_S:
            self._lowest.append(seen)
        elif seen.excess < last.excess:
            self._lowest[-1] = seen

    def _offset(self, device: float) -> float:
        """Of the line that touches the lowest from below, under the middle of their times."""
        first, last = self._lowest[0].device, self._lowest[-1].device
        if last - first < LEAST_SPAN_S:
            return min(low.excess for low in self._lowest)
        middle = (first + last) / 2
        left, right = _edge(_hull(list(self._lowest)), middle)
        slope = (right.excess - left.excess) / (right.device - left.device)
        slope = min(max(slope, -MAX_DRIFT), MAX_DRIFT)
        return min(low.excess - slope * low.device for low in self._lowest) + slope * device


def _hull(points: list[OffsetSample]) -> list[OffsetSample]:
    """The lower convex hull of points in the order of their times."""
    hull: list[OffsetSample] = []
    for point in points:
        while len(hull) > 1 and _turns_down(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _turns_down(a: OffsetSample, b: OffsetSample, c: OffsetSample) -> bool:
    rise = (b.excess - a.excess) * (c.device - a.device)
    return rise >= (c.excess - a.excess) * (b.device - a.device)


def _edge(hull: list[OffsetSample], at: float) -> tuple[OffsetSample, OffsetSample]:
    return next((a, b) for a, b in pairwise(hull) if b.device >= at)
