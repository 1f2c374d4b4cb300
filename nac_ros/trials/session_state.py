"""State of an operator session as plain values, for any user interface."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from nac_ros.trials.trial_robot import Blocker

Phase = Literal["no_run", "loading", "setup", "running", "verdict", "finished"]


class TrialId(NamedTuple):
    """The trial that an operator action is meant for; an action for another trial is rejected."""

    slot: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.slot}.{self.attempt}"


NO_TRIAL = TrialId(-1, 0)


@dataclass(frozen=True, kw_only=True)
class SessionState:
    """Everything that an operator is shown.

    operation: what the worker is doing, '' if nothing; only `abort` is accepted meanwhile
    error: why the last operation failed
    n_completed: trials with a valid verdict, of n_trials
    start_position: marked start position of the objects, '' on the twin
    code: pseudonym of the method, whose name is hidden
    rubric: names of its steps; steps_reached: how many, None before the operator entered it
    proposed_outcome: what `commit_verdict` will write; end_reason: why the trial ended
    image_ages: (camera, age of its newest image [s], infinite before the first)
    mismatch: of the scene with its reference image, None without one
    last_verdict: of the trial before; detected_outcome: of that trial, by the success detector
    methods_by_code: (code, method), empty before the run is unblinded
    report_path: of the HTML page, '' before it is written
    """

    phase: Phase
    operation: str = ""
    error: str = ""
    trial_id: TrialId = NO_TRIAL
    n_completed: int = 0
    n_trials: int = 0
    task: str = ""
    prompt: str = ""
    success_criterion: str = ""
    failure_criterion: str = ""
    trial: int = 0
    start_position: str = ""
    code: str = ""
    rubric: tuple[str, ...] = ()
    steps_reached: int | None = None
    proposed_outcome: str = ""
    reason: str = ""
    note: str = ""
    end_reason: str = ""
    seconds: float = 0.0
    steps: int = 0
    max_steps: int = 0
    max_seconds: float = 0.0
    blockers: tuple[Blocker, ...] = ()
    messages: tuple[str, ...] = ()
    image_ages: tuple[tuple[str, float], ...] = ()
    has_reference: bool = False
    mismatch: float | None = None
    max_mismatch: float = 0.0
    last_verdict: str = ""
    detected_outcome: str = ""
    methods_by_code: tuple[tuple[str, str], ...] = ()
    report_path: str = ""

    @property
    def can_start(self) -> bool:
        """Whether `start` would be accepted."""
        return self.phase == "setup" and not self.operation and not self.blockers
