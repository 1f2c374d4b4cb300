"""Whether a line of a log belongs to its run; what the run would not have written is refused."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nac_ros.core import config
from nac_ros.core.config import bounded, check_bounds
from nac_ros.core.errors import ConfigError, TrialError, show_value
from nac_ros.core.provenance import environment
from nac_ros.stats.sequential import BettingTest
from nac_ros.trials.frozen_protocol import PROTOCOL, check_unchanged, freeze_into, stored
from nac_ros.trials.protocol import Protocol, first_change, freeze
from nac_ros.trials.schedule import Slot, codes, plan
from nac_ros.trials.trial_log import TrialLog, damaged, read_log

KINDS = ("begin", "resume", "start", "trial", "unblind")


class LogSequenceCheck:
    """Looks at the entries of a log one after the other, in their order."""

    def __init__(self, slots: Sequence[Slot]):
        self._slots = slots
        self._kinds: Counter[str] = Counter()
        self._attempts: dict[int, int] = {}
        self._valid: set[int] = set()

    def check(self, entry: Mapping[str, Any]) -> None:
        """Raises TrialError for one that cannot come next."""
        kind = entry.get("entry")
        if kind not in KINDS:
            raise TrialError(f"entry {show_value(kind)} is none of {', '.join(KINDS)}")
        if (kind == "begin") == bool(self._kinds):
            raise TrialError("`begin` is the first line, and no other")
        self._kinds[kind] += 1
        if kind in ("start", "trial"):
            self._check_turn(kind, entry)

    def _check_turn(self, kind: str, entry: Mapping[str, Any]) -> None:
        index, attempt = entry.get("slot"), entry.get("attempt")
        if type(index) is not int or not 0 <= index < len(self._slots):
            raise TrialError(f"slot {show_value(index)} is none of the plan's {len(self._slots)}")
        for key, planned in self._slots[index]._asdict().items():
            if key != "index" and entry.get(key, planned) != planned:
                found = show_value(entry[key])
                raise TrialError(f"{key} of slot {index} is {planned!r}, not {found}")
        if self._kinds["unblind"]:
            raise TrialError("nothing is played after the run was unblinded")
        if index in self._valid:
            raise TrialError(f"slot {index} was judged before")
        if kind == "start":
            return
        if type(attempt) is not int or attempt <= self._attempts.get(index, -1):
            raise TrialError(f"attempt {show_value(attempt)} of slot {index} was judged before")
        self._attempts[index] = attempt
        if entry.get("outcome") != "invalid":
            self._valid.add(index)


LOG = "log.jsonl"
MANY = 1e9  # more than any trial measures; larger numbers spoil means and sums
TIME = "%Y-%m-%dT%H:%M:%S"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a trial went; what was not measured is None or empty.

    outcome: `aborted` counts as no success, `invalid` (with a reason) is played again
    steps: control periods; seconds: of the arm's time
    rubric: steps of the task's rubric that were reached
    clips: of the guard; jumps: at each seam [rad or m]; jerk: root mean square as a share of the
        limits; sparc: of the tool's speed; plan_ms: observation to chunk
    holds, refusals: of the guard, by reason; interventions: times a hand took over
    strip: picture of the trial, relative to the run's folder; recording: where its MCAP lies
    """

    outcome: Literal["success", "failure", "aborted", "invalid"]
    reason: str = ""
    steps: int | None = bounded(None, 0, MANY)
    seconds: float | None = bounded(None, 0.0, MANY, unit="s")
    rubric: int | None = bounded(None, 0, 1000)
    clips: int | None = bounded(None, 0, MANY)
    jumps: tuple[float, ...] | None = bounded(None, -MANY, MANY, unit="rad or m")
    jerk: float | None = bounded(None, 0.0, MANY)
    sparc: float | None = bounded(None, -MANY, MANY)
    plan_ms: tuple[float, ...] = bounded((), -MANY, MANY, unit="ms")
    holds: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    interventions: int = bounded(0, 0, MANY)
    strip: str = ""
    recording: str = ""
    operator: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Record(Verdict):
    """A verdict as it is in the log; slot: index in the plan; attempt: 0, 1, ... of that slot."""

    slot: int = bounded(config.REQUIRED, 0, MANY)
    task: str
    trial: int = bounded(config.REQUIRED, 0, MANY)
    place: str
    code: str
    attempt: int = bounded(config.REQUIRED, 0, MANY)
    time: str

    def __post_init__(self) -> None:
        check_bounds(self)


class TrialRun:
    """A run's folder, to go on with (`begin`, `go_on`) or to look at (`read`).

    sha256: of the frozen protocol; variation: how its scenes vary; codes: method -> code
    slots: the plan; records: all that were judged, in that order
    """

    def __init__(self, folder: Path, entries: list[dict[str, Any]], log: TrialLog | None):
        frozen, self.sha256 = stored(folder)
        check_unchanged(folder, self.sha256, entries)
        self.folder, self._log, self.protocol = folder, log, frozen.protocol
        self.variation = frozen.variation
        self.slots, self.codes = plan(frozen.protocol), codes(frozen.protocol)
        self.records: list[Record] = []
        self.unblinded = False
        self._starts: Counter[int] = Counter()
        self._stops: dict[
            str, tuple[int, int | None]
        ] = {}  # task -> of how many records, `stopped`
        self._valid: dict[tuple[str, int, str], Record] = {}
        order = LogSequenceCheck(self.slots)
        for number, entry in enumerate(entries, 1):
            try:
                order.check(entry)
                self._take(entry)
            except (TrialError, ConfigError) as error:
                raise damaged(folder / LOG, number, error) from error

    @classmethod
    def begin(cls, folder: Path, protocol: Protocol) -> "TrialRun":
        """A new run in an empty folder, or the one that is there if its protocol is the same;
        raises TrialError where it is not."""
        frozen = freeze(protocol)
        if not (folder / PROTOCOL).is_file():
            freeze_into(folder, frozen)
        there, _ = stored(folder)
        if change := first_change(config.to_plain(there), config.to_plain(frozen)):
            raise TrialError(
                f"{folder} was frozen with another protocol: {change}; give the same one to go "
                "on, or another folder for a new run"
            )
        return cls.go_on(folder)

    @classmethod
    def go_on(cls, folder: Path) -> "TrialRun":
        """The run that is there, as its only writer; raises TrialError."""
        stored(folder)
        _check_log(folder)
        log = TrialLog(folder / LOG)
        try:
            run = cls(folder, log.entries, log)
            kind = "resume" if log.entries else "begin"
            facts = {"protocol": run.sha256, "torn_bytes": log.torn, **environment()}
            log.append({"entry": kind, "time": time.strftime(TIME), **facts})
        except BaseException:
            log.close()
            raise
        return run

    @classmethod
    def read(cls, folder: Path) -> "TrialRun":
        """A run as it is on disk, also while it is going on; raises TrialError."""
        log = folder / LOG
        stored(folder)
        _check_log(folder)
        return cls(folder, read_log(log) if log.exists() else [], None)

    def close(self) -> None:
        """Lets others go on with the run."""
        if self._log is not None:
            self._log.close()

    def pending(self) -> Iterator[Slot]:
        """Slots that are still to be played, in order, each looked at when it is asked for."""
        return (slot for slot in self.slots if self.wants(slot))

    def wants(self, slot: Slot) -> bool:
        """Whether a slot has no valid verdict and its task was not stopped before it."""
        if (slot.task, slot.trial, slot.code) in self._valid:
            return False
        stopped = self.stopped(slot.task)
        return stopped is None or slot.trial < stopped

    def attempts(self, slot: Slot) -> int:
        """How often a slot was begun or judged."""
        judged = sum(record.slot == slot.index for record in self.records)
        return max(judged, self._starts[slot.index])

    def start(self, slot: Slot) -> int:
        """Writes down that a trial begins, so that one which a crash cuts off is counted; its
        attempt. Raises TrialError as `judge` does; nothing may move then."""
        self._check_open(slot)
        attempt = self.attempts(slot)
        place = {"slot": slot.index, "code": slot.code, "attempt": attempt}
        self._write({"entry": "start", "time": time.strftime(TIME), **place})
        return attempt

    def judge(self, slot: Slot, verdict: Verdict) -> Record:
        """Writes a verdict down; it is on disk afterwards. Raises TrialError where the slot has
        one, or the run is over or only being read."""
        self._check_open(slot)
        if verdict.outcome == "invalid" and not verdict.reason:
            raise TrialError("an invalid trial needs a reason, such as 'the cable was caught'")
        self._check_rubric(slot.task, verdict)
        judged = [record.attempt for record in self.records if record.slot == slot.index]
        attempt = max(*judged, -1, self._starts[slot.index] - 2) + 1
        place = {"slot": slot.index, **slot._asdict(), "attempt": attempt}
        del place["index"]
        self._write(
            {"entry": "trial", "time": time.strftime(TIME), **place, **config.to_plain(verdict)}
        )
        return self.records[-1]

    def inside(self, path: str) -> str:
        """As the log names a file: relative to the run's folder where it lies there."""
        folder, place = self.folder.resolve(), Path(path).resolve()
        return str(place.relative_to(folder)) if place.is_relative_to(folder) else path

    def unblind(self) -> dict[str, str]:
        """Ends the run: from now on codes have names. Code -> method."""
        if not self.unblinded:
            self._write({"entry": "unblind", "time": time.strftime(TIME)})
        return {code: method for method, code in self.codes.items()}

    def record(self, task: str, trial: int, code: str) -> Record | None:
        """The valid record of a trial, None where there is none or the task was stopped before."""
        stopped = self.stopped(task)
        counts = stopped is None or trial < stopped
        return self._valid.get((task, trial, code)) if counts else None

    def counted(self, task: str, code: str) -> list[Record]:
        """What counts of a method on a task, by trial."""
        found = (self.record(task, trial, code) for trial in range(self.protocol.trials))
        return [record for record in found if record is not None]

    def bet(self, task: str, first: str, second: str) -> BettingTest:
        """The test that may be looked at any time, over the trials that count and that both codes
        have played without a gap from the first on."""
        return self._bet(task, first, second, self.stopped(task) or self.protocol.trials)

    def stopped(self, task: str) -> int | None:
        """After how many trials of each method the stop rule ended a task; all tasks share alpha
        evenly, so that no number of them errs more often."""
        if self.protocol.stop.rule == "fixed":
            return None
        known, stopped = self._stops.get(task, (-1, None))
        if known != len(self.records):
            first, second = (self.codes[method] for method in self.protocol.stop.pair)
            level = self.protocol.alpha / len(self.protocol.tasks)
            stopped = self._bet(task, first, second, self.protocol.trials).reached(level)
            self._stops[task] = len(self.records), stopped
        return stopped

    def _bet(self, task: str, first: str, second: str, trials: int) -> BettingTest:
        made = BettingTest()
        for trial in range(trials):
            pair = [self._valid.get((task, trial, code)) for code in (first, second)]
            if None in pair:
                break
            made.add(*(record is not None and record.outcome == "success" for record in pair))
        return made

    def _check_open(self, slot: Slot) -> None:
        if self.unblinded:
            raise TrialError(f"{self.folder} is unblinded, so no more trials count; begin anew")
        if not self.wants(slot):
            raise TrialError(f"{slot.task} {slot.trial} of {slot.code} is judged already")

    def _check_rubric(self, task: str, verdict: Verdict) -> None:
        steps = len(self.protocol.rubric.get(task, ()))
        if verdict.rubric is not None and not 0 <= verdict.rubric <= steps:
            raise TrialError(f"rubric {verdict.rubric}: {task} has {steps} steps")

    def _write(self, entry: dict[str, Any]) -> None:
        if self._log is None:
            raise TrialError(f"{self.folder} was opened to be read; open it to go on with it")
        self._log.line(entry)
        if entry["entry"] == "trial":
            _record_of(entry)  # before it is on disk, where it could not be read again
        self._log.append(entry)
        self._take(self._log.entries[-1])

    def _take(self, entry: dict[str, Any]) -> None:
        self.unblinded = self.unblinded or entry.get("entry") == "unblind"
        if entry.get("entry") == "start":
            self._starts[entry["slot"]] += 1
        if entry.get("entry") != "trial":
            return
        record = _record_of(entry)
        self._check_rubric(record.task, record)
        self.records.append(record)
        if record.outcome != "invalid":
            self._valid[record.task, record.trial, record.code] = record


def _record_of(entry: dict[str, Any]) -> Record:
    facts = {key: value for key, value in entry.items() if key != "entry"}
    return config.build(Record, facts, "trial")


def _check_log(folder: Path) -> None:
    """A folder may be frozen and nothing begun, but nothing is played before the log is there."""
    played = [name for name in ("strips", "recordings") if any((folder / name).glob("*"))]
    if played and not (folder / LOG).exists():
        raise TrialError(
            f"{folder} has {played[0]} of trials, but {LOG} is missing: take it from a backup, or "
            "choose another folder"
        )
