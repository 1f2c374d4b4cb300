"""What a page talks to: the sitting, or why there is none yet."""

import time
from collections.abc import Callable, Mapping
from threading import Lock

import numpy as np

from nac_ros.core.errors import NacError, TrialError
from nac_ros.trials.operator_session import OperatorSession
from nac_ros.trials.session_state import SessionState, TrialId
from nac_ros.trials.trial_robot import TrialRobot

MEND = "mend that, then press R (try again)"


class ConsoleController:
    """Begins the sitting as soon as that is possible; the arm can be stopped before, too.

    max_unwatched_s: a trial ends once no page has looked on for so long
    """

    def __init__(
        self, begin: Callable[[], OperatorSession], arm: TrialRobot, max_unwatched_s: float,
        clock: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self._begin, self._arm, self._lock = begin, arm, Lock()
        self._max_unwatched_s, self._clock, self._watched = max_unwatched_s, clock, clock()
        self.session: OperatorSession | None = None
        self._trouble = ""
        self.open()

    def open(self) -> None:
        """Tries to begin; what keeps it from that is shown."""
        with self._lock:
            if self.session is not None:
                return
            try:
                self.session, self._trouble = self._begin(), ""
            except (NacError, OSError) as error:
                self._trouble = f"the run cannot be begun: {error}; {MEND}"

    def close(self) -> None:
        """Lets others go on with the run."""
        if self.session is not None:
            self.session.run.close()

    def watch(self) -> None:
        """A page is open, and somebody may stop the arm from it."""
        self._watched = self._clock()

    def tick(self) -> None:
        """To be called some times a second."""
        session = self.session
        if session is None:
            return
        session.tick()
        silence = self._clock() - self._watched
        if silence <= self._max_unwatched_s:
            return
        view = session.view()
        if view.phase == "running" and not view.busy:
            session.abort(f"no page was open for {silence:.1f} s, so nobody could stop the arm")

    def view(self) -> SessionState:
        """What is shown."""
        if self.session is not None:
            return self.session.view()
        return SessionState(
            phase="closed",
            trouble=self._trouble,
            missing=tuple(self._arm.missing()),
            ages=tuple(self._arm.ages().items()),
        )

    def cameras(self) -> list[str]:
        """Names, the one whose pictures places are compared by first."""
        return list(self._arm.ages())

    def picture(self, camera: str) -> np.ndarray | None:
        """The newest one of a camera there is."""
        return self._arm.picture(camera) if camera in self._arm.ages() else None

    def reference(self) -> np.ndarray | None:
        """What the scene is to look like; raises TrialError."""
        return None if self.session is None else self.session.scene.reference()

    def abort(self) -> None:
        """Stops the arm at once."""
        (self.session or self._arm).abort()

    def act(self, deed: str, at: TrialId) -> None:
        """One order of the page; raises NacError with what is wrong with it."""
        if self.session is None:
            if deed == "retry":
                self.open()
            return
        session = self.session
        if deed.startswith("rubric:"):
            session.reach(at, int(deed.removeprefix("rubric:")))
            return
        deeds: Mapping[str, Callable[[], None]] = {
            "start": lambda: session.start(at),
            "write": lambda: session.write(at),
            "keep": lambda: session.keep_reference(at),
            "release": session.release,
            "retry": session.retry,
            "unblind": session.unblind,
            **{o: lambda o=o: session.propose(at, o) for o in ("success", "failure", "invalid")},
        }
        if deed not in deeds:
            raise TrialError(f"'{deed}' is no order; known are: {', '.join(deeds)}")
        deeds[deed]()
