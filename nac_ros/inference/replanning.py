"""When to plan the next chunk, so that it is there before the executed steps run out."""

from nac_ros.core.timing import Durations


class ReplanScheduler:
    """A chunk is executed from its arrival on for `n_action_steps`; the next one is begun the
    usual latency and `margin_s` before they run out, and at the latest n_action_steps / rate after
    the observation of the one before: a chunk that came late is followed at once by another."""

    def __init__(self, n_action_steps: int, rate_hz: float, margin_s: float, latency_s: float):
        self.executed_s = n_action_steps / rate_hz
        self._margin_s = margin_s
        self._latencies = Durations(latency_s)
        self._due = 0.0

    def restart(self) -> None:
        """The next chunk is due at once."""
        self._due = 0.0

    def planned(self, stamp: float, arrival: float) -> None:
        """Notes a chunk of the observation at `stamp` that was there at `arrival` [s]."""
        self._latencies.add(arrival - stamp)
        usually = arrival - self._latencies.usual - self._margin_s
        self._due = self.executed_s + min(usually, stamp)

    @property
    def latency_s(self) -> float:
        """From an observation to its chunk, usually [s]."""
        return self._latencies.usual

    def wait(self, now: float) -> float:
        """Seconds until planning has to begin, 0 when it is due."""
        return max(self._due - now, 0.0)
