"""When to predict the next chunk, so that it arrives before the executed steps run out."""

from nac_ros.core.timing import Durations


class ReplanScheduler:
    """A chunk is executed for `n_action_steps` from its arrival.

    The next prediction starts the usual latency and `margin_s` before they run out, and at the
    latest n_action_steps / rate_hz after the observation of the previous one: a chunk that arrived
    late is followed at once by another.
    """

    def __init__(self, n_action_steps: int, rate_hz: float, margin_s: float, latency_s: float):
        self.execution_s = n_action_steps / rate_hz
        self._margin_s = margin_s
        self._latencies = Durations(latency_s)
        self._due = 0.0

    def restart(self) -> None:
        """Makes the next prediction due at once."""
        self._due = 0.0

    def add_chunk(self, stamp: float, arrival: float) -> None:
        """Records that the chunk of the observation at `stamp` arrived at `arrival` [s]."""
        self._latencies.add(arrival - stamp)
        in_time = arrival - self._latencies.p90 - self._margin_s
        self._due = self.execution_s + min(in_time, stamp)

    @property
    def latency_s(self) -> float:
        """Usual time from an observation to its chunk [s]."""
        return self._latencies.p90

    def seconds_until_due(self, now: float) -> float:
        """Time until the next prediction has to start [s], 0 when it is due."""
        return max(self._due - now, 0.0)
