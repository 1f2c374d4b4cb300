"""A run of trials: frozen protocol, schedule and log in one folder, resumed after a crash."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nac_ros.core import config
from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError, TrialError, show_value
from nac_ros.core.provenance import environment
from nac_ros.stats.sequential import run_betting_test
from nac_ros.trials.frozen_protocol import (
    PROTOCOL,
    check_unchanged,
    read_protocol,
    write_protocol,
)
from nac_ros.trials.protocol import TrialProtocol, first_difference, freeze
from nac_ros.trials.schedule import Slot, make_schedule, method_codes
from nac_ros.trials.trial_log import TrialLog, damage_error, read_log

LOG = "log.jsonl"
ENTRY_KINDS = ("begin", "resume", "start", "trial", "unblind")
MAX_VALUE = 1e9  # more than any trial measures; larger numbers would ruin means and sums


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Outcome and measurements of a trial; None or empty if not measured.

    outcome: `aborted` counts as no success; `invalid` needs a reason, and the trial is repeated
    steps: control periods; seconds: of the robot's clock
    rubric: reached steps of the task's rubric
    clips: set-points that the guard clipped
    transition_jumps: step of the command at each change of chunk, of the joint that steps most
    jerk: root mean square, as a share of the limits; sparc: of the tool's speed
    chunk_ms: times from observation to chunk
    holds, rejections: of the guard, by reason; interventions: of the operator
    film_strip, recording: paths, relative to the run's folder if they are inside
    """

    outcome: Literal["success", "failure", "aborted", "invalid"]
    reason: str = ""
    steps: int | None = number_field(None, 0, MAX_VALUE)
    seconds: float | None = number_field(None, 0.0, MAX_VALUE, unit="s")
    rubric: int | None = number_field(None, 0, 1000)
    clips: int | None = number_field(None, 0, MAX_VALUE)
    transition_jumps: tuple[float, ...] | None = number_field(
        None, -MAX_VALUE, MAX_VALUE, unit="rad or m"
    )
    jerk: float | None = number_field(None, 0.0, MAX_VALUE)
    sparc: float | None = number_field(None, -MAX_VALUE, MAX_VALUE)
    chunk_ms: tuple[float, ...] = number_field((), -MAX_VALUE, MAX_VALUE, unit="ms")
    holds: dict[str, int] = field(default_factory=dict)
    rejections: dict[str, int] = field(default_factory=dict)
    interventions: int = number_field(0, 0, MAX_VALUE)
    film_strip: str = ""
    recording: str = ""
    operator: str = ""
    note: str = ""

    @property
    def succeeded(self) -> bool:
        return self.outcome == "success"


@dataclass(frozen=True, kw_only=True)
class Record(Verdict):
    """A verdict in the log; slot: index in the schedule; attempt: 0, 1, ... of that slot."""

    slot: int = number_field(config.REQUIRED, 0, MAX_VALUE)
    task: str
    trial: int = number_field(config.REQUIRED, 0, MAX_VALUE)
    start_position: str
    code: str
    attempt: int = number_field(config.REQUIRED, 0, MAX_VALUE)
    time: str

    def __post_init__(self) -> None:
        check_fields(self)


class TrialRun:
    """A run's folder, opened to continue it (`create_or_resume`, `resume`) or to read it (`read`).

    sha256: of the frozen protocol; randomization: of its scenes; codes: method -> code
    slots: the schedule; records: all verdicts, in the order of the log
    """

    def __init__(self, folder: Path, entries: list[dict[str, Any]], log: TrialLog | None):
        frozen, self.sha256 = read_protocol(folder)
        check_unchanged(folder, self.sha256, entries)
        self.folder, self._log, self.protocol = folder, log, frozen.protocol
        self.randomization = frozen.randomization
        self.slots, self.codes = make_schedule(self.protocol), method_codes(self.protocol)
        self.records: list[Record] = []
        self.unblinded = False
        self._starts: Counter[int] = Counter()  # slot -> log entries `start`
        self._by_slot: defaultdict[int, list[Record]] = defaultdict(list)
        self._valid: dict[tuple[str, int, str], Record] = {}  # (task, trial, code) -> record
        self._stops: dict[str, tuple[int, int | None]] = {}  # task -> records seen, stopped_after
        for number, entry in enumerate(entries, 1):
            try:
                self._check_entry(entry, first=number == 1)
                self._apply(entry)
            except (TrialError, ConfigError) as error:
                raise damage_error(folder / LOG, number, error) from error

    @classmethod
    def create_or_resume(cls, folder: Path, protocol: TrialProtocol) -> "TrialRun":
        """Starts a run in an empty folder, or resumes the one there if its protocol is the same;
        raises TrialError if it is not."""
        frozen = freeze(protocol)
        if not (folder / PROTOCOL).is_file():
            write_protocol(folder, frozen)
        stored, _ = read_protocol(folder)
        if change := first_difference(config.to_plain(stored), config.to_plain(frozen)):
            raise TrialError(
                f"{folder} was frozen with another protocol: {change}; give the same one to "
                "continue, or another folder for a new run"
            )
        return cls.resume(folder)

    @classmethod
    def resume(cls, folder: Path) -> "TrialRun":
        """Opens an existing run as its only writer; raises TrialError."""
        read_protocol(folder)
        _check_log_exists(folder)
        log = TrialLog(folder / LOG)
        try:
            run = cls(folder, log.entries, log)
            kind = "resume" if log.entries else "begin"
            log.append(_entry(kind, protocol=run.sha256, torn_bytes=log.torn, **environment()))
        except BaseException:
            log.close()
            raise
        return run

    @classmethod
    def read(cls, folder: Path) -> "TrialRun":
        """Reads a run, also one that another process is continuing; raises TrialError."""
        log = folder / LOG
        read_protocol(folder)
        _check_log_exists(folder)
        return cls(folder, read_log(log) if log.exists() else [], None)

    def close(self) -> None:
        """Lets other processes continue the run."""
        if self._log is not None:
            self._log.close()

    def pending(self) -> Iterator[Slot]:
        """Slots that are still to be run, in order; each is checked when it is reached."""
        return (slot for slot in self.slots if self.is_pending(slot))

    def is_pending(self, slot: Slot) -> bool:
        """Whether a slot has no valid verdict and the stopping rule has not ended its task."""
        if (slot.task, slot.trial, slot.code) in self._valid:
            return False
        stopped = self.stopped_after(slot.task)
        return stopped is None or slot.trial < stopped

    def attempts(self, slot: Slot) -> int:
        """How often a slot was started or got a verdict."""
        return max(len(self._by_slot[slot.index]), self._starts[slot.index])

    def log_start(self, slot: Slot) -> None:
        """Logs that a trial begins, so that an attempt that a crash ends is counted.

        Raises TrialError as `log_verdict` does; the robot must not move then.
        """
        self._check_open(slot)
        self._write(_entry("start", slot=slot.index, code=slot.code, attempt=self.attempts(slot)))

    def log_verdict(self, slot: Slot, verdict: Verdict) -> Record:
        """Writes a verdict to disk. Raises TrialError if the slot has a valid one, or the run is
        unblinded or was opened to be read."""
        self._check_open(slot)
        if verdict.outcome == "invalid" and not verdict.reason:
            raise TrialError("an invalid trial needs a reason, such as 'the cable was caught'")
        self._check_rubric(slot.task, verdict)
        planned = slot._asdict()
        index = planned.pop("index")
        attempt = max(self._last_attempt(index) + 1, self._starts[index] - 1)
        self._write(
            _entry("trial", slot=index, **planned, attempt=attempt, **config.to_plain(verdict))
        )
        return self.records[-1]

    def relative(self, path: str) -> str:
        """A path relative to the run's folder if it is inside, otherwise unchanged."""
        folder, full = self.folder.resolve(), Path(path).resolve()
        return str(full.relative_to(folder)) if full.is_relative_to(folder) else path

    def unblind(self) -> dict[str, str]:
        """Ends the run and returns code -> method."""
        if not self.unblinded:
            self._write(_entry("unblind"))
        return {code: method for method, code in self.codes.items()}

    def valid_record(self, task: str, trial: int, code: str) -> Record | None:
        """The valid record of a trial; None without one or if the task was stopped before it."""
        stopped = self.stopped_after(task)
        counts = stopped is None or trial < stopped
        return self._valid.get((task, trial, code)) if counts else None

    def valid_records(self, task: str, code: str) -> list[Record]:
        """All valid records of a method on a task, by trial."""
        found = (self.valid_record(task, trial, code) for trial in range(self.protocol.trials))
        return [record for record in found if record is not None]

    def paired_outcomes(
        self, task: str, first: str, second: str, trials: int
    ) -> list[tuple[bool, bool]]:
        """Whether two codes succeeded on the first `trials` trials of a task.

        The list ends before the first trial without both verdicts. Later trials that a fast worker
        has already run must wait, because the sequential test needs a fixed order.
        """
        pairs = []
        for trial in range(trials):
            a, b = (self._valid.get((task, trial, code)) for code in (first, second))
            if a is None or b is None:
                break
            pairs.append((a.succeeded, b.succeeded))
        return pairs

    def stopped_after(self, task: str) -> int | None:
        """After how many trials of each method the stopping rule ended a task; None if it did not.

        Each of the K tasks is tested at level alpha / K (Bonferroni).
        """
        if self.protocol.stopping.rule == "fixed":
            return None
        n_records, stopped = self._stops.get(task, (-1, None))
        if n_records != len(self.records):
            first, second = (self.codes[method] for method in self.protocol.stopping.pair)
            level = self.protocol.alpha / len(self.protocol.tasks)
            pairs = self.paired_outcomes(task, first, second, self.protocol.trials)
            stopped = run_betting_test(pairs).rejected_after(level)
            self._stops[task] = len(self.records), stopped
        return stopped

    def _last_attempt(self, index: int) -> int:
        records = self._by_slot[index]
        return records[-1].attempt if records else -1

    def _check_open(self, slot: Slot) -> None:
        if self.unblinded:
            raise TrialError(f"{self.folder} is unblinded and complete; start a new run")
        if not self.is_pending(slot):
            raise TrialError(f"{slot.task} {slot.trial} of {slot.code} has a verdict already")

    def _check_rubric(self, task: str, verdict: Verdict) -> None:
        steps = len(self.protocol.rubric.get(task, ()))
        if verdict.rubric is not None and not 0 <= verdict.rubric <= steps:
            raise TrialError(f"rubric {verdict.rubric}: {task} has {steps} steps")

    def _check_entry(self, entry: Mapping[str, Any], first: bool) -> None:
        """Raises TrialError for a log entry that this run would not have written next."""
        kind, index, attempt = (entry.get(key) for key in ("entry", "slot", "attempt"))
        if kind not in ENTRY_KINDS:
            raise TrialError(f"entry {show_value(kind)} is none of {', '.join(ENTRY_KINDS)}")
        if (kind == "begin") != first:
            raise TrialError("`begin` is the first line, and no other")
        if kind not in ("start", "trial"):
            return
        if type(index) is not int or not 0 <= index < len(self.slots):
            raise TrialError(f"slot {show_value(index)} is none of the {len(self.slots)} planned")
        for key, planned in self.slots[index]._asdict().items():
            if key != "index" and entry.get(key, planned) != planned:
                found = show_value(entry[key])
                raise TrialError(f"{key} of slot {index} is {planned!r}, not {found}")
        if self.unblinded:
            raise TrialError("no trial follows after the run was unblinded")
        records = self._by_slot[index]
        if records and records[-1].outcome != "invalid":
            raise TrialError(f"slot {index} has a verdict already")
        if kind == "trial" and (type(attempt) is not int or attempt <= self._last_attempt(index)):
            raise TrialError(
                f"attempt {show_value(attempt)} of slot {index} does not follow attempt "
                f"{self._last_attempt(index)}"
            )

    def _write(self, entry: dict[str, Any]) -> None:
        if self._log is None:
            raise TrialError(f"{self.folder} was opened to be read; open it with `resume`")
        self._log.encode(entry)
        if entry["entry"] == "trial":
            _to_record(entry)  # raises before anything unreadable is on disk
        self._log.append(entry)
        self._apply(self._log.entries[-1])

    def _apply(self, entry: dict[str, Any]) -> None:
        """Updates the state of the run by an entry of the log."""
        kind = entry["entry"]
        self.unblinded = self.unblinded or kind == "unblind"
        if kind == "start":
            self._starts[entry["slot"]] += 1
        if kind != "trial":
            return
        record = _to_record(entry)
        self._check_rubric(record.task, record)
        self.records.append(record)
        self._by_slot[record.slot].append(record)
        if record.outcome != "invalid":
            self._valid[record.task, record.trial, record.code] = record


def _entry(kind: str, **values: Any) -> dict[str, Any]:
    return {"entry": kind, "time": time.strftime("%Y-%m-%dT%H:%M:%S"), **values}


def _to_record(entry: dict[str, Any]) -> Record:
    values = {key: value for key, value in entry.items() if key != "entry"}
    return config.build(Record, values, "trial")


def _check_log_exists(folder: Path) -> None:
    """A folder with a protocol alone is a new run; with film strips or recordings it had a log."""
    used = [name for name in ("film_strips", "recordings") if any((folder / name).glob("*"))]
    if used and not (folder / LOG).exists():
        raise TrialError(
            f"{folder} has {used[0]} of trials, but {LOG} is missing: take it from a backup, or "
            "choose another folder"
        )
