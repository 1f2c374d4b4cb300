"""Runs whose verdicts a test makes up, for what needs no twin."""

from pathlib import Path

from nac_ros.trials.protocol import Protocol
from nac_ros.trials.run import TrialRun, Verdict


def protocol(bundle: Path, **changes) -> Protocol:
    """Two methods on two tasks."""
    facts = {
        "tasks": ("weighing", "marker"),
        "methods": {"nac": str(bundle), "fast": str(bundle)},
        "trials": 12,
        "seed": 4,
    }
    return Protocol(**(facts | changes))


def play(run: TrialRun, succeeds, **facts) -> None:
    """Judges all that is pending; succeeds: task, trial, method -> bool."""
    methods = {code: method for method, code in run.codes.items()}
    for slot in run.pending():
        won = succeeds(slot.task, slot.trial, methods[slot.code])
        outcome, why = ("success", "it lies there") if won else ("failure", "it <fell>")
        run.judge(slot, Verdict(outcome=outcome, reason=why, **facts))
