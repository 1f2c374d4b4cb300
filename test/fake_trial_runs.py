"""Runs with made-up verdicts, for tests that need no twin."""

from pathlib import Path

from nac_ros.trials.protocol import TrialProtocol
from nac_ros.trials.run import TrialRun, Verdict


def make_protocol(bundle: Path, **changes) -> TrialProtocol:
    """Two methods on two tasks."""
    fields = {
        "tasks": ("weighing", "marker"),
        "methods": {"nac": str(bundle), "fast": str(bundle)},
        "trials": 12,
        "seed": 4,
    }
    return TrialProtocol(**(fields | changes))


def log_verdicts(run: TrialRun, succeeds, **measurements) -> None:
    """Logs a verdict for each pending slot; succeeds: task, trial, method -> bool."""
    methods = {code: method for method, code in run.codes.items()}
    for slot in run.pending():
        won = succeeds(slot.task, slot.trial, methods[slot.code])
        outcome, reason = ("success", "it is in place") if won else ("failure", "it <fell>")
        run.log_verdict(slot, Verdict(outcome=outcome, reason=reason, **measurements))
