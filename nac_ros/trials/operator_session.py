"""Which method a slot is of, kept from whoever judges it."""

import time
import traceback
from collections.abc import Callable
from functools import partial
from threading import RLock
from typing import Protocol, get_args

from nac_ros.core.errors import DatasetError, NacError, TrialError
from nac_ros.core.files import free_bytes
from nac_ros.trials.protocol import prompts
from nac_ros.trials.run import TrialRun, Verdict
from nac_ros.trials.scene_reference import MAX_MISMATCH, Scene
from nac_ros.trials.schedule import Slot
from nac_ros.trials.session_state import NO_TRIAL, Phase, SessionState, TrialId
from nac_ros.trials.trial_robot import Blocker, RecordingResult, TrialRobot, TrialStatus


class Blind:
    """Knows the methods behind a run's codes."""

    def __init__(self, run: TrialRun):
        methods = run.protocol.methods
        self._sources = {code: methods[method] for method, code in run.codes.items()}

    def source(self, slot: Slot) -> str:
        """Bundle of a slot's method; not to be shown."""
        return self._sources[slot.code]

    def words(self, text: str) -> str:
        """The same without what would tell a method."""
        for code, source in sorted(self._sources.items(), key=lambda item: -len(item[1])):
            text = text.replace(source, f"the bundle of {code}")
        return text


ROOM = 50_000_000  # [bytes] for log, pictures and report
OUTCOMES = ("success", "failure", "invalid")  # that an operator may propose
Step = Callable[[], Callable[[], None] | None]


class Worker(Protocol):
    """Does one thing after the other, such as a ThreadPoolExecutor with one thread."""

    def submit(self, call: Callable[[], None], /) -> object: ...


class OperatorSession:
    """The state of a sitting; orders may come from any thread, and say at once what is wrong with
    them (TrialError). What takes long is done by the worker meanwhile, see `View.busy`."""

    def __init__(
        self, run: TrialRun, arm: TrialRobot, worker: Worker, rate_hz: float, operator: str = "",
        max_mismatch: float = MAX_MISMATCH, clock: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        """rate_hz: of control periods; raises ConfigError for methods that are no bundles."""
        self.run, self.arm = run, arm
        self.scene, self._blind = Scene(run.folder, arm, clock), Blind(run)
        self._worker, self._rate, self._operator = worker, rate_hz, operator
        self._max_mismatch, self._lock = max_mismatch, RLock()
        self._prompts = prompts(run.protocol)
        self._busy = self._trouble = self._last = self._judge = self._report = ""
        with self._lock:
            self._enter()

    def start(self, at: TrialId) -> None:
        """The recorder records, the policy drives."""
        with self._lock:
            self._check(at, "reset")
            if missing := self._missing():
                raise TrialError(f"{missing[0].what}: {missing[0].mend}")
            self._aborted = False
            self._do("starting", self._start)

    def propose(self, at: TrialId, outcome: str) -> None:
        """How it went, until `write` says that this stands; ends a trial that runs."""
        with self._lock:
            self._check(at, "running", "judging")
            if outcome not in OUTCOMES:
                raise TrialError(f"'{outcome}' is no outcome; known are: {', '.join(OUTCOMES)}")
            if self._aborted and outcome != "invalid":
                raise TrialError("the arm was stopped, so the trial is aborted, or invalid")
            self._proposed = outcome
            if self._phase == "running":
                self._end("")

    def reach(self, at: TrialId, steps: int) -> None:
        """How many steps of the rubric were reached."""
        with self._lock:
            self._check(at, "running", "judging")
            if not 0 <= steps <= len(self._rubric()):
                raise TrialError(f"{self._task()} has {len(self._rubric())} rubric steps")
            self._reached = steps

    def tell(self, at: TrialId, *, reason: str | None = None, note: str | None = None) -> None:
        """Why a trial is invalid; anything else to be remembered of it."""
        with self._lock:
            self._check(at, "reset", "running", "judging", busy=True)
            self._reason = self._reason if reason is None else reason.strip()
            self._note = self._note if note is None else note.strip()

    def write(self, at: TrialId) -> None:
        """The verdict stands; it is on disk before the next trial is shown."""
        with self._lock:
            self._check(at, "judging")
            if not self._proposed:
                raise TrialError("say first whether it is a success, a failure or invalid")
            if self._proposed == "invalid" and not self._reason:
                raise TrialError("an invalid trial needs a reason, such as 'the cable was caught'")
            self._do("writing the verdict down", self._write)

    def abort(self, why: str = "the operator stopped the arm") -> None:
        """Stops the arm at once, whatever else is going on."""
        self.arm.abort()  # before anything that could make it wait
        with self._lock:
            self._aborted = self._aborted or self._phase == "reset"  # it may be starting
            if self._phase == "running" and not self._busy:
                self._aborted, self._proposed = True, "aborted"
                self._end(why)

    def release(self) -> None:
        """Ends the guard's fault, once a person has looked; not while a trial runs."""
        with self._lock:
            if self._phase == "running" or self._busy:
                raise TrialError(f"wait: {self._busy or 'a trial runs, end it first'}")
            self._do("resetting the guard", self.arm.release)

    def retry(self) -> None:
        """Prepares again what could not be prepared, or was lost since."""
        with self._lock:
            if self._phase in ("preparing", "reset") and not self._busy:
                self._phase = "preparing"
                self._do("loading the method", self._prepare)

    def keep_reference(self, at: TrialId) -> None:
        """The scene as it is now is what the place is compared with from now on."""
        with self._lock:
            self._check(at, "reset")
            self.scene.keep()

    def unblind(self) -> None:
        """Once all is judged: codes get their names, and the report is written."""
        with self._lock:
            if self._phase != "done" or self._busy:
                raise TrialError("there are trials to be judged yet")
            self._do("writing the report", self._unblind)

    def tick(self) -> None:
        """To be called some times a second: ends a trial that ran out of steps, looks at the
        scene."""
        with self._lock:
            limit, phase = self.run.protocol.limits.steps, self._phase
            if phase == "running" and not self._busy and self.arm.told().steps >= limit:
                self._end("the steps ran out")
        if phase == "reset":
            self.scene.look()

    def view(self) -> SessionState:
        """All that is shown."""
        with self._lock:
            facts = {} if self._slot is None else self._facts(self._slot)
            names = self.run.unblind().items() if self.run.unblinded else ()
            return SessionState(
                phase=self._phase, busy=self._busy, trouble=self._trouble, turn=self._turn,
                judged=sum(not self.run.wants(slot) for slot in self.run.slots),
                trials=len(self.run.slots), missing=tuple(self._missing()),
                words=tuple(map(self._blind.words, (*self.scene.trouble, *self.arm.words()))),
                ages=tuple(self.arm.ages().items()),
                max_mismatch=self._max_mismatch, last=self._last, judge=self._judge,
                names=tuple(names), report=self._report, **facts,
            )  # fmt: skip

    def _facts(self, slot: Slot) -> dict:
        """What is shown of the trial."""
        criterion, told = self.run.protocol.criteria[slot.task], self._told
        if self._phase == "running" and not self._busy:
            told = self.arm.told()
        limit = self.run.protocol.limits.steps
        return {
            "task": slot.task, "trial": slot.trial, "place": slot.place, "code": slot.code,
            "prompt": self._prompts[slot.task], "success": criterion.success,
            "failure": criterion.failure, "rubric": self._rubric(), "reached": self._reached,
            "proposed": self._proposed, "reason": self._reason, "note": self._note,
            "ended": self._ended, "seconds": told.seconds, "steps": told.steps,
            "max_steps": limit, "max_seconds": limit / self._rate,
            "has_reference": self.scene.known, "mismatch": self.scene.mismatch,
        }  # fmt: skip

    def _enter(self) -> None:
        """The next trial, nothing said of it yet."""
        self._slot = slot = next(self.run.pending(), None)
        self._phase: Phase = "done" if slot is None else "preparing"
        self._turn = NO_TRIAL if slot is None else TrialId(slot.index, self.run.attempts(slot))
        self._proposed = self._reason = self._note = self._ended = ""
        self._reached: int | None = None
        self._recording: RecordingResult | None = None
        self._aborted, self._told = False, TrialStatus()
        self.scene.turn_to(slot)
        if slot is not None:
            self._do("loading the method", self._prepare)

    def _prepare(self) -> None:
        assert self._slot is not None
        self.arm.prepare(self._blind.source(self._slot), self._slot)
        with self._lock:
            self._phase = "reset"

    def _start(self) -> Callable[[], None] | None:
        slot = self._slot
        assert slot is not None
        self.run.start(slot)
        try:
            if self.arm.ages() and not self.scene.known:
                self.scene.keep()
            facts = f"{slot.task}, trial {slot.trial}, {slot.code}, attempt {self._turn.attempt}"
            run = f"protocol {self.run.sha256[:12]}"
            self.arm.start(slot, {"operator": self._operator, "note": f"{facts}; {run}"})
        except NacError:
            with self._lock:
                self._turn = TrialId(slot.index, self.run.attempts(slot))
            raise
        with self._lock:
            self._phase = "running"
            return self.abort if self._aborted else None

    def _end(self, why: str) -> None:
        self._ended = why
        self._do("stopping the arm", self._stop)

    def _stop(self) -> None:
        try:
            self.arm.stop()
        finally:
            told = self.arm.told()
            with self._lock:
                self._phase, self._told = "judging", told

    def _write(self) -> Callable[[], None]:
        slot, told = self._slot, self._told
        assert slot is not None
        if self._recording is None:
            try:
                kept = self.arm.keep(self._proposed)
                self._recording = kept._replace(place=self.run.inside(kept.place))
            except NacError as error:
                self._recording = RecordingResult("")
                self._note = f"{self._note}; no recording: {error}".lstrip("; ")
        verdict = Verdict(
            outcome=self._proposed, reason=self._reason or self._ended, steps=told.steps,
            seconds=told.seconds, rubric=self._reached, clips=told.clips, plan_ms=told.plan_ms,
            jumps=told.jumps, jerk=self._recording.jerk, sparc=self._recording.sparc,
            holds=told.holds, refusals=told.refusals, interventions=told.interventions,
            recording=self._recording.place, operator=self._operator, note=self._note,
        )  # fmt: skip
        record = self.run.judge(slot, verdict)
        with self._lock:
            self._last = f"{slot.task} trial {slot.trial}, {slot.code}: {record.outcome}"
            self._judge = self.arm.judged()
        return self._enter

    def _unblind(self) -> None:
        from nac_ros.trials.report import write_report  # and plots

        self.run.unblind()
        path, _ = write_report(self.run)
        self._report = str(path)

    def _do(self, what: str, step: Step) -> None:
        self._busy, self._trouble = what, ""
        self._worker.submit(partial(self._work, step))

    def _work(self, step: Step) -> None:
        trouble, then = "", None
        try:
            then = step()
        except NacError as error:
            trouble = self._blind.words(str(error))
        except Exception as error:  # the worker must not die unheard
            trouble = f"{type(error).__name__}: {error}; see the log"
            traceback.print_exc()
        finally:
            with self._lock:
                self._busy, self._trouble = "", trouble
        if then is not None:
            with self._lock:
                then()

    def _check(self, at: TrialId, *phases: str, busy: bool = False) -> None:
        """Raises TrialError unless an order is for this trial as it stands."""
        if at != self._turn:
            raise TrialError("that was meant for another trial, and nothing was done")
        if self._phase not in phases:
            known = ", ".join(p for p in get_args(Phase) if p in phases)
            raise TrialError(f"now is no time for that: wanted {known}, it is {self._phase}")
        if self._busy and not busy:
            raise TrialError(f"wait: {self._busy}")

    def _missing(self) -> list[Blocker]:
        found = list(self.arm.missing())
        try:
            if free_bytes(self.run.folder) < ROOM:
                found.append(Blocker("the disk of the log is full", "make room on it"))
        except DatasetError as error:
            found.append(Blocker(f"no verdict can be written: {error}", "mend that"))
        return [one._replace(what=self._blind.words(one.what)) for one in found]

    def _rubric(self) -> tuple[str, ...]:
        return self.run.protocol.rubric.get(self._task(), ())

    def _task(self) -> str:
        return "" if self._slot is None else self._slot.task
