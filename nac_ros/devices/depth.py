"""Depth pictures find the colour pictures they belong to, and are laid over them."""

import time
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np

from nac_ros.devices.frame import Frame

KEPT = 3  # depths that came before their colours
MM = 1e-3


class Depths:
    """Pairs by the device's stamps, at most half a period apart.

    patience_s: how long a reader may wait before it asks again
    """

    def __init__(self, rs: Any, rate_hz: float):
        self._rs, self._half_ms = rs, 500 / rate_hz
        self.patience_s = 0.5 / rate_hz
        self._period_s = 1 / rate_hz
        self._depths: deque[Any] = deque(maxlen=KEPT)
        self._waiting: deque[tuple[Frame, Any, float]] = deque()
        self._align = rs.align(rs.stream.color)

    def push(self, depth: Any) -> None:
        """A depth frame came."""
        self._depths.append(depth)

    def wait_for(self, frame: Frame, colour: Any) -> None:
        """A colour frame came; its depth is on its way, or here."""
        self._waiting.append((frame, colour, time.monotonic() + self._period_s))

    def take(self) -> Frame | None:
        """The oldest colour picture that has its depth, or has waited a period for it."""
        if not self._waiting:
            return None
        frame, colour, deadline = self._waiting[0]
        fits = [d for d in self._depths if abs(d.timestamp - colour.timestamp) <= self._half_ms]
        later = any(d.timestamp - colour.timestamp > self._half_ms for d in self._depths)
        if not fits and not later and time.monotonic() < deadline:
            return None
        self._waiting.popleft()
        if not fits:
            return frame
        nearest = min(fits, key=lambda d: abs(d.timestamp - colour.timestamp))
        return replace(frame, depth_mm=self._over(colour, nearest))

    def _over(self, colour: Any, depth: Any) -> np.ndarray:
        """Depth [mm] of each pixel of the colour picture, uint16 `[H, W]`."""
        pair, joined = [colour, depth], self._rs.frame_queue(1)
        block = self._rs.processing_block(
            lambda _, made: made.frame_ready(made.allocate_composite_frame(pair))
        )
        block.start(joined)
        block.invoke(colour)
        both = self._align.process(joined.wait_for_frame().as_frameset())
        aligned = both.get_depth_frame()
        units, values = aligned.get_units(), np.array(aligned.get_data())
        if abs(units - MM) < 1e-9:
            return values
        return np.minimum(np.rint(values * (units / MM)), 65535).astype(np.uint16)
