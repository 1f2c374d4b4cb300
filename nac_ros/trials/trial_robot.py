"""What a sitting needs of an arm, its cameras, guard and recorder, whoever provides it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from nac_ros.trials.schedule import Slot


class Blocker(NamedTuple):
    """What keeps a trial from being begun, and how to mend it, as sentences; deed: the order of
    the page that mends it, '' where none does."""

    what: str
    mend: str
    deed: str = ""


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """Of the trial that runs, or ran last; as in `Verdict`."""

    steps: int = 0
    seconds: float = 0.0
    clips: int = 0
    interventions: int = 0
    jumps: tuple[float, ...] = ()
    plan_ms: tuple[float, ...] = ()
    holds: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)


class RecordingResult(NamedTuple):
    """A recording that was ended: where it lies; jerk and sparc of its motion as in `Verdict`."""

    place: str
    jerk: float | None = None
    sparc: float | None = None


class TrialRobot(Protocol):
    """Methods that block return when it is so, and raise NacError otherwise; one thread calls
    them. The others return at once, whatever hangs, and any thread may call them."""

    def prepare(self, source: str, slot: Slot) -> None:
        """Blocks: the bundle at `source` is loaded and knows the task, the arm holds."""

    def start(self, slot: Slot, facts: Mapping[str, str]) -> None:
        """Blocks: records with these facts, and the policy drives."""

    def stop(self) -> None:
        """Blocks: the policy ends, the arm holds."""

    def keep(self, outcome: str) -> RecordingResult:
        """Blocks: ends the recording as of a trial with this outcome."""

    def abort(self) -> None:
        """The guard stops the arm; what blocks gives up."""

    def release(self) -> None:
        """Ends the guard's fault; the arm stays where it is."""

    def missing(self) -> list[Blocker]:
        """What keeps a trial from being begun."""

    def words(self) -> list[str]:
        """What guard, policy and recorder say."""

    def ages(self) -> dict[str, float]:
        """Of each camera's newest picture [s], infinite before the first; by the first camera's
        pictures places are compared."""

    def picture(self, camera: str) -> np.ndarray | None:
        """The newest one, RGB uint8 `[H, W, 3]`; None before the first."""

    def told(self) -> TrialStatus:
        """Of the trial, so far."""

    def judged(self) -> str:
        """What a judge that stands beside thinks of the trial, '' where there is none."""
