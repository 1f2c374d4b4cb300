"""Interface that an operator session needs from a robot: load, start, stop, record, status."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isinf
from typing import NamedTuple, Protocol

import numpy as np

from nac_ros.trials.schedule import Slot

MAX_IMAGE_AGE_S = 1.0  # a camera whose newest image is older counts as lost


class Blocker(NamedTuple):
    """A condition that blocks the start of a trial, with its remedy.

    action: the console action that applies the remedy, '' if there is none
    """

    problem: str
    remedy: str
    action: str = ""


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """Measurements of the current or last trial; fields as in `Verdict`."""

    steps: int = 0
    seconds: float = 0.0
    clips: int = 0
    interventions: int = 0
    transition_jumps: tuple[float, ...] = ()
    chunk_ms: tuple[float, ...] = ()
    holds: dict[str, int] = field(default_factory=dict)
    rejections: dict[str, int] = field(default_factory=dict)


class RecordingResult(NamedTuple):
    """Path of a finished recording; jerk and sparc of its motion as in `Verdict`."""

    path: str
    jerk: float | None = None
    sparc: float | None = None


class TrialRobot(Protocol):
    """Arm, cameras, policy, guard and recorder of a trial.

    Methods that block return when the work is done and raise NacError if it fails; only one thread
    calls them. The other methods return at once, even if a node hangs, and are thread-safe.
    """

    def prepare(self, bundle: str, slot: Slot) -> None:
        """Blocks. Stops the arm, loads the bundle at this path and sets the task."""

    def start(self, slot: Slot, metadata: Mapping[str, str]) -> None:
        """Blocks. Starts a recording with this metadata, then the policy."""

    def stop(self) -> None:
        """Blocks. Stops the arm, then the policy."""

    def finish_recording(self, outcome: str) -> RecordingResult:
        """Blocks. Completes the recording of a trial with this outcome."""

    def abort(self) -> None:
        """The guard stops the arm; a blocking call gives up."""

    def reset_guard(self) -> None:
        """Blocks. Clears the guard's fault; the arm does not move."""

    def blockers(self) -> list[Blocker]:
        """Conditions that block the start of a trial."""

    def messages(self) -> list[str]:
        """Status texts of guard, policy and recorder."""

    def image_ages(self) -> dict[str, float]:
        """Camera -> age of its newest image [s], infinite before the first one.

        The first camera's images are compared with the reference."""

    def latest_image(self, camera: str) -> np.ndarray | None:
        """RGB uint8 `[H, W, 3]`; None before the first image."""

    def status(self) -> TrialStatus:
        """Measurements of the trial so far."""

    def detected_outcome(self) -> str:
        """Outcome of the trial by the twin's success detector, '' on a real arm."""


def image_problem(age_s: float) -> str:
    """Why a camera whose newest image has this age counts as lost; '' if it does not."""
    if isinf(age_s):
        return "no image yet"
    return f"no image for {age_s:.0f} s" if age_s > MAX_IMAGE_AGE_S else ""
