"""State machine of a session in which an operator runs blind trials and enters their outcomes."""

import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import RLock
from typing import Any, Protocol

from nac_ros.core.errors import DatasetError, NacError, TrialError
from nac_ros.core.files import free_bytes
from nac_ros.trials.protocol import prompts
from nac_ros.trials.run import TrialRun, Verdict
from nac_ros.trials.scene_reference import MAX_MISMATCH, SceneMonitor
from nac_ros.trials.schedule import Slot
from nac_ros.trials.session_state import SessionState, TrialId
from nac_ros.trials.trial_robot import Blocker, RecordingResult, TrialRobot, TrialStatus

MIN_FREE_BYTES = 50_000_000  # for log, images and report
OUTCOMES = ("success", "failure", "invalid")  # that an operator may propose
FollowUp = Callable[[], None]
Operation = Callable[[], FollowUp | None]


class Worker(Protocol):
    """Runs calls one after the other, such as a ThreadPoolExecutor with one thread."""

    def submit(self, call: Callable[[], None], /) -> object: ...


class Blinding:
    """Knows the bundle of each code and hides bundle paths in texts for the operator."""

    def __init__(self, run: TrialRun):
        methods = run.protocol.methods
        self._bundles = {code: methods[method] for method, code in run.codes.items()}

    def bundle(self, slot: Slot) -> str:
        """Path of the slot's bundle; must not be shown."""
        return self._bundles[slot.code]

    def redact(self, text: str) -> str:
        """Replaces bundle paths in the text, the longest first as one may contain another."""
        for code, path in sorted(self._bundles.items(), key=lambda item: -len(item[1])):
            text = text.replace(path, f"the bundle of {code}")
        return text


class OperatorSession:
    """One operator's session on a run.

    Phases: loading -> setup -> running -> verdict -> loading of the next trial, or finished.

    Any thread may call the methods. They raise TrialError at once if an action is not allowed.
    Slow work runs on `worker`; meanwhile `SessionState.operation` names it and every action but
    `abort` and `annotate` is rejected.
    """

    def __init__(
        self,
        run: TrialRun,
        robot: TrialRobot,
        worker: Worker,
        rate_hz: float,
        operator: str = "",
        max_mismatch: float = MAX_MISMATCH,
    ):
        """rate_hz: control periods per second. Raises ConfigError if a method has no bundle."""
        self.run, self.robot = run, robot
        self.scene, self._blinding = SceneMonitor(run.folder, robot), Blinding(run)
        self._worker, self._rate, self._operator = worker, rate_hz, operator
        self._max_mismatch, self._lock = max_mismatch, RLock()
        self._prompts = prompts(run.protocol)
        self._report_path = ""
        with self._lock:
            self._next_trial()

    def start(self, trial: TrialId) -> None:
        """Starts the recording and the policy."""
        with self._lock:
            self._check(trial, "setup")
            if blockers := self._blockers():
                raise TrialError(f"{blockers[0].problem}: {blockers[0].remedy}")
            self._aborted = False
            self._run_in_worker("starting the trial", self._start)

    def propose_outcome(self, trial: TrialId, outcome: str) -> None:
        """Sets the outcome that `commit_verdict` will write; ends a running trial."""
        with self._lock:
            self._check(trial, "running", "verdict")
            if outcome not in OUTCOMES:
                raise TrialError(f"unknown outcome '{outcome}'; known are: {', '.join(OUTCOMES)}")
            if self._aborted and outcome != "invalid":
                raise TrialError("the arm was stopped: this trial can only be aborted or invalid")
            self._set(proposed_outcome=outcome)
            if self._state.phase == "running":
                self._end_trial("")

    def set_rubric_steps(self, trial: TrialId, steps: int) -> None:
        """Sets how many steps of the task's rubric were reached."""
        with self._lock:
            self._check(trial, "running", "verdict")
            if not 0 <= steps <= (known := len(self._state.rubric)):
                raise TrialError(f"{steps} steps: {self._state.task} has {known} rubric steps")
            self._set(steps_reached=steps)

    def annotate(
        self, trial: TrialId, *, reason: str | None = None, note: str | None = None
    ) -> None:
        """Sets the reason of an invalid trial or a free note; None keeps the text."""
        with self._lock:
            self._check(trial, "setup", "running", "verdict", while_busy=True)
            texts = {"reason": reason, "note": note}
            self._set(**{key: text.strip() for key, text in texts.items() if text is not None})

    def commit_verdict(self, trial: TrialId) -> None:
        """Writes the verdict to disk and loads the next trial."""
        with self._lock:
            self._check(trial, "verdict")
            if not self._state.proposed_outcome:
                raise TrialError("choose success, failure or invalid first")
            if self._state.proposed_outcome == "invalid" and not self._state.reason:
                raise TrialError("an invalid trial needs a reason, such as 'the cable was caught'")
            self._run_in_worker("writing the verdict", self._write_verdict)

    def abort(self, reason: str = "the operator stopped the arm") -> None:
        """Stops the arm at once, in every phase and during every operation."""
        self.robot.abort()  # first, before the lock could make it wait
        with self._lock:
            phase, operation = self._state.phase, self._state.operation
            self._aborted = self._aborted or phase == "setup"  # the trial may be starting
            if phase == "running" and not operation:
                self._aborted = True
                self._set(proposed_outcome="aborted")
                self._end_trial(reason)

    def reset_guard(self) -> None:
        """Clears the guard's fault after a person has looked; rejected while a trial runs."""
        with self._lock:
            if self._state.phase == "running" or self._state.operation:
                raise TrialError(f"wait: {self._state.operation or 'a trial runs, end it first'}")
            self._run_in_worker("resetting the guard", self.robot.reset_guard)

    def retry(self) -> None:
        """Loads the trial again, after an error or when the policy was lost."""
        with self._lock:
            if self._state.phase in ("loading", "setup") and not self._state.operation:
                self._load_trial()

    def save_reference(self, trial: TrialId) -> None:
        """Saves the newest image as the reference of this start position."""
        with self._lock:
            self._check(trial, "setup")
            self.scene.save_reference()

    def unblind(self) -> None:
        """Reveals the methods behind the codes and writes the report, once all trials are done."""
        with self._lock:
            if self._state.phase != "finished" or self._state.operation:
                raise TrialError("not all trials have a verdict yet; complete them first")
            self._run_in_worker("writing the report", self._unblind)

    def tick(self) -> None:
        """Call it several times a second: ends a trial after its last step, compares the scene."""
        with self._lock:
            running, phase = self._is_running(), self._state.phase
            if running and self.robot.status().steps >= self.run.protocol.max_steps:
                self._end_trial("step limit reached")
        if phase == "setup":
            self.scene.update()

    def state(self) -> SessionState:
        """Everything that the operator is shown."""
        with self._lock:
            status = self.robot.status() if self._is_running() else self._status
            messages = (*self.scene.errors, *self.robot.messages())
            methods = self.run.unblind() if self.run.unblinded else {}
            return replace(
                self._state,
                n_completed=sum(not self.run.is_pending(slot) for slot in self.run.slots),
                seconds=status.seconds,
                steps=status.steps,
                blockers=tuple(self._blockers()),
                messages=tuple(map(self._blinding.redact, messages)),
                image_ages=tuple(self.robot.image_ages().items()),
                has_reference=self.scene.has_reference,
                mismatch=self.scene.mismatch,
                methods_by_code=tuple(methods.items()),
                report_path=self._report_path,
            )

    def _next_trial(self, last_verdict: str = "", detected_outcome: str = "") -> None:
        """Selects the next pending trial and starts loading it."""
        protocol, self._slot = self.run.protocol, next(self.run.pending(), None)
        self._recording: RecordingResult | None = None
        self._aborted, self._status = False, TrialStatus()
        self.scene.select(self._slot)
        self._state = SessionState(
            phase="finished",
            n_trials=len(self.run.slots),
            max_mismatch=self._max_mismatch,
            last_verdict=last_verdict,
            detected_outcome=detected_outcome,
        )
        if (slot := self._slot) is None:
            return
        self._set(
            trial_id=TrialId(slot.index, self.run.attempts(slot)),
            task=slot.task,
            trial=slot.trial,
            start_position=slot.start_position,
            code=slot.code,
            prompt=self._prompts[slot.task],
            success_criterion=protocol.criteria[slot.task].success,
            failure_criterion=protocol.criteria[slot.task].failure,
            rubric=protocol.rubric.get(slot.task, ()),
            max_steps=protocol.max_steps,
            max_seconds=protocol.max_steps / self._rate,
        )
        self._load_trial()

    def _load_trial(self) -> None:
        self._set(phase="loading")
        self._run_in_worker("loading the method", self._prepare)

    def _prepare(self) -> None:
        assert self._slot is not None
        self.robot.prepare(self._blinding.bundle(self._slot), self._slot)
        self._set(phase="setup")

    def _start(self) -> FollowUp | None:
        slot, attempt = self._slot, self._state.trial_id.attempt
        assert slot is not None
        self.run.log_start(slot)
        trial = f"{slot.task}, trial {slot.trial}, {slot.code}, attempt {attempt}"
        note = f"{trial}; protocol {self.run.sha256[:12]}"
        try:
            if self.robot.image_ages() and not self.scene.has_reference:
                self.scene.save_reference()
            self.robot.start(slot, {"operator": self._operator, "note": note})
        except NacError:
            self._set(trial_id=TrialId(slot.index, self.run.attempts(slot)))
            raise
        with self._lock:
            self._set(phase="running")
            return self.abort if self._aborted else None

    def _end_trial(self, reason: str) -> None:
        self._set(end_reason=reason)
        self._run_in_worker("stopping the arm", self._stop)

    def _stop(self) -> None:
        try:
            self.robot.stop()
        finally:
            self._status = self.robot.status()
            self._set(phase="verdict")

    def _write_verdict(self) -> FollowUp:
        slot, state = self._slot, self._state
        assert slot is not None
        if self._recording is None:  # otherwise an attempt failed after the recording was complete
            try:
                recording = self.robot.finish_recording(state.proposed_outcome)
                self._recording = recording._replace(path=self.run.relative(recording.path))
            except NacError as error:
                self._recording = RecordingResult("")
                self._set(note=f"{state.note}; no recording: {error}".lstrip("; "))
        verdict = Verdict(
            outcome=state.proposed_outcome,
            reason=state.reason or state.end_reason,
            rubric=state.steps_reached,
            recording=self._recording.path,
            jerk=self._recording.jerk,
            sparc=self._recording.sparc,
            operator=self._operator,
            note=self._state.note,
            **vars(self._status),
        )
        record = self.run.log_verdict(slot, verdict)
        last_verdict = f"{slot.task} trial {slot.trial}, {slot.code}: {record.outcome}"
        return partial(self._next_trial, last_verdict, self.robot.detected_outcome())

    def _unblind(self) -> None:
        from nac_ros.trials.report import write_report  # imports matplotlib

        self.run.unblind()
        path, _ = write_report(self.run)
        self._report_path = str(path)

    def _is_running(self) -> bool:
        return self._state.phase == "running" and not self._state.operation

    def _set(self, **changes: Any) -> None:
        with self._lock:
            self._state = replace(self._state, **changes)

    def _run_in_worker(self, name: str, operation: Operation) -> None:
        self._set(operation=name, error="")
        self._worker.submit(partial(self._work, operation))

    def _work(self, operation: Operation) -> None:
        """Runs an operation in the worker, then the follow-up that it returns with the lock."""
        error_text, follow_up = "", None
        try:
            follow_up = operation()
        except NacError as error:
            error_text = self._blinding.redact(str(error))
        except Exception as error:  # shown to the operator; the worker must survive it
            error_text = f"{type(error).__name__}: {error}; see the log"
            traceback.print_exc()
        finally:
            self._set(operation="", error=error_text)
        if follow_up is not None:
            with self._lock:
                follow_up()

    def _check(self, trial: TrialId, *phases: str, while_busy: bool = False) -> None:
        """Raises TrialError unless an action for this trial is allowed now."""
        state = self._state
        if trial != state.trial_id:
            raise TrialError("this action was for another trial; nothing was changed")
        if state.phase not in phases:
            wanted = " or ".join(phases)
            raise TrialError(f"not possible now: it needs phase {wanted}, it is {state.phase}")
        if state.operation and not while_busy:
            raise TrialError(f"wait: {state.operation}")

    def _blockers(self) -> list[Blocker]:
        found = list(self.robot.blockers())
        try:
            if free_bytes(self.run.folder) < MIN_FREE_BYTES:
                found.append(Blocker("the disk of the log is full", "free some space on it"))
        except DatasetError as error:
            found.append(Blocker("no verdict can be written", str(error)))
        redact = self._blinding.redact
        return [Blocker(redact(one.problem), redact(one.remedy), one.action) for one in found]
