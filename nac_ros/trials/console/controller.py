"""Connects the web page with the operator session, or with the robot before there is one."""

import time
from collections.abc import Callable
from threading import Lock

import numpy as np

from nac_ros.core.errors import NacError, TrialError
from nac_ros.trials.operator_session import OUTCOMES, OperatorSession
from nac_ros.trials.session_state import SessionState, TrialId
from nac_ros.trials.trial_robot import TrialRobot


class ConsoleController:
    """Opens the session as soon as that is possible; the arm can be stopped before that, too.

    open_session: returns a session or raises NacError
    max_unwatched_s: a running trial is aborted if no page has sent a heartbeat for this time [s]
    """

    def __init__(
        self,
        open_session: Callable[[], OperatorSession],
        robot: TrialRobot,
        max_unwatched_s: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._open_session, self._robot, self._lock = open_session, robot, Lock()
        self._max_unwatched_s, self._clock, self._heartbeat = max_unwatched_s, clock, clock()
        self.session: OperatorSession | None = None
        self._error = ""
        self.open()

    def open(self) -> None:
        """Tries to open the session; `state` shows the error if it fails."""
        with self._lock:
            if self.session is not None:
                return
            try:
                self.session, self._error = self._open_session(), ""
            except (NacError, OSError) as error:
                self._error = (
                    f"the run cannot be opened: {error}; correct this, then press R (try again)"
                )

    def close(self) -> None:
        """Lets other processes continue the run."""
        if self.session is not None:
            self.session.run.close()

    def heartbeat(self) -> None:
        """Called by every open page, once a second."""
        self._heartbeat = self._clock()

    def tick(self) -> None:
        """Call it several times a second: lets time pass for the session, and aborts a trial that
        no page watches."""
        session = self.session
        if session is None:
            return
        session.tick()
        silence = self._clock() - self._heartbeat
        if silence <= self._max_unwatched_s:
            return
        state = session.state()
        if state.phase == "running" and not state.operation:
            session.abort(f"no page was open for {silence:.1f} s, so nobody could stop the arm")

    def state(self) -> SessionState:
        """Everything that the page shows."""
        if self.session is not None:
            return self.session.state()
        return SessionState(
            phase="no_run",
            error=self._error,
            blockers=tuple(self._robot.blockers()),
            image_ages=tuple(self._robot.image_ages().items()),
        )

    def cameras(self) -> list[str]:
        """Camera names; scenes are compared by the first one."""
        return list(self._robot.image_ages())

    def latest_image(self, camera: str) -> np.ndarray | None:
        """RGB uint8 `[H, W, 3]`; None before the first image or for an unknown camera."""
        return self._robot.latest_image(camera) if camera in self._robot.image_ages() else None

    def reference(self) -> np.ndarray | None:
        """Reference image of the current start position; raises TrialError if damaged."""
        return None if self.session is None else self.session.scene.reference()

    def abort(self) -> None:
        """Stops the arm at once."""
        (self.session or self._robot).abort()

    def act(self, action: str, trial: TrialId) -> None:
        """Performs an action of the page; raises NacError if it is not allowed."""
        session = self.session
        if session is None:
            if action == "retry":
                self.open()
            return
        if action.startswith("rubric:"):
            session.set_rubric_steps(trial, int(action.removeprefix("rubric:")))
            return
        if action in OUTCOMES:
            session.propose_outcome(trial, action)
            return
        actions: dict[str, Callable[[], None]] = {
            "start": lambda: session.start(trial),
            "save": lambda: session.commit_verdict(trial),
            "save_reference": lambda: session.save_reference(trial),
            "reset_guard": session.reset_guard,
            "retry": session.retry,
            "unblind": session.unblind,
        }
        if action not in actions:
            known = ", ".join([*actions, *OUTCOMES, "rubric:N"])
            raise TrialError(f"unknown action '{action}'; known are: {known}")
        actions[action]()
