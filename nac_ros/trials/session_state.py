"""Everything that an operator is shown of a sitting, as plain values for any page."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from nac_ros.trials.trial_robot import Blocker

Phase = Literal["closed", "preparing", "reset", "running", "judging", "done"]


class TrialId(NamedTuple):
    """Which trial an order is meant for; one for another trial is refused."""

    slot: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.slot}.{self.attempt}"


NO_TRIAL = TrialId(-1, 0)


@dataclass(frozen=True, kw_only=True)
class SessionState:
    """A sitting as it stands.

    busy: what is being done meanwhile, orders but `abort` wait; trouble: what did not work
    judged, trials: how many are, of how many; code: of the method, all that is told of it
    place: the marked start place, '' on the twin; criteria: success and failure
    rubric: names of its steps; reached: how many, None before it was said
    proposed: outcome that `write` writes down; ended: why the trial ended
    ages: camera -> age [s] of its newest picture, infinite before the first
    mismatch: with the place's reference picture, None without one
    last: the verdict before; judge: what the twin's judge says of that one
    names: code -> method once the run is unblinded; report: path of its page
    """

    phase: Phase
    busy: str = ""
    trouble: str = ""
    turn: TrialId = NO_TRIAL
    judged: int = 0
    trials: int = 0
    task: str = ""
    prompt: str = ""
    success: str = ""
    failure: str = ""
    trial: int = 0
    place: str = ""
    code: str = ""
    rubric: tuple[str, ...] = ()
    reached: int | None = None
    proposed: str = ""
    reason: str = ""
    note: str = ""
    ended: str = ""
    seconds: float = 0.0
    steps: int = 0
    max_steps: int = 0
    max_seconds: float = 0.0
    missing: tuple[Blocker, ...] = ()
    words: tuple[str, ...] = ()
    ages: tuple[tuple[str, float], ...] = ()
    has_reference: bool = False
    mismatch: float | None = None
    max_mismatch: float = 0.0
    last: str = ""
    judge: str = ""
    names: tuple[tuple[str, str], ...] = ()
    report: str = ""

    @property
    def may_start(self) -> bool:
        """Whether `start` is of use."""
        return self.phase == "reset" and not self.busy and not self.missing
