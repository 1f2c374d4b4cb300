"""Clock synchronisation: maps a camera's clock to the host's from the arrival times of frames.

A frame arrives late by a varying delay, never early. Arrival minus device time is therefore the
clock offset plus a delay, and the smallest differences are closest to the offset. The smallest
difference of each second is kept for half a minute. The line below these samples that is highest
at the middle of the window estimates the offset; its slope is the clock drift.
"""

from collections import deque
from typing import NamedTuple

import numpy as np

from nac_ros.cameras.camera import ArrivalTime

BUCKET_S = 1.0
N_BUCKETS = 30
MIN_SPAN_S = 5.0  # no drift is estimated from less
MAX_DRIFT = 500e-6  # crystals stay below 100e-6


class OffsetSample(NamedTuple):
    """Smallest `offset` [s], arrival minus device time, of a second; at `device` time [s]."""

    device: float
    offset: float


class DeviceClock:
    """Maps the time stamps of one device to host time; starts again if its clock jumps back.

    Delays are measured on the monotonic clock because the host's clock may be set at any time.
    latency_s: shortest time from exposure to arrival, which arrival times cannot reveal
    """

    def __init__(self, latency_s: float = 0.0):
        self._latency_s = latency_s
        self._samples: deque[OffsetSample] = deque(maxlen=N_BUCKETS)
        self._newest = float("-inf")

    def reset(self) -> None:
        """Forgets all samples."""
        self._samples.clear()
        self._newest = float("-inf")

    def to_host_time(self, device: float, arrival: ArrivalTime) -> float:
        """Host time [s] of an image stamped `device` [s]; never later than its arrival."""
        if device < self._newest:
            self.reset()
        self._newest = device
        offset = arrival.monotonic - device
        self._add(OffsetSample(device, offset))
        delay = max(offset - self._offset(device), 0.0)
        return arrival.wall - delay - self._latency_s

    def _add(self, sample: OffsetSample) -> None:
        last = self._samples[-1] if self._samples else None
        if last is None or sample.device // BUCKET_S != last.device // BUCKET_S:
            self._samples.append(sample)
        elif sample.offset < last.offset:
            self._samples[-1] = sample

    def _offset(self, device: float) -> float:
        """Estimated clock offset at `device` time [s]."""
        times, offsets = np.array(self._samples).T
        if times[-1] - times[0] < MIN_SPAN_S:
            return float(offsets.min())
        # Of all lines from a sample before the middle to one after it, the lowest at the middle is
        # an edge of the lower convex hull. Its slope is kept and the line moved below all samples.
        middle = (times[0] + times[-1]) / 2
        before, after = times < middle, times > middle
        rise = offsets[after] - offsets[before, None]  # [B, A]
        slopes = rise / (times[after] - times[before, None])
        heights = offsets[before, None] + slopes * (middle - times[before, None])
        slope = np.clip(slopes.flat[heights.argmin()], -MAX_DRIFT, MAX_DRIFT)
        return float((offsets - slope * times).min() + slope * device)
