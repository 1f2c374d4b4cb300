"""Dead-man clutch: teleoperation has control while it is held; defines the guard mode afterwards.

The clutch has no clock and no connection to the guard: time and guard status are arguments.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

import numpy as np

TELEOP, HOLD = "teleop", "hold"
CONFIRM_S = 1.0  # time for the guard to answer; milliseconds are usual, more on a loaded machine
GUARD_MAX_AGE_S = 2.5  # the guard publishes its status once a second
RELEASE_AND_PRESS = "release the clutch and press it again"


@dataclass(frozen=True)
class GuardStatus:
    """Status of the guard received at `stamp` [s]: mode, fault and newest rejection, '' for none.

    settling: the guard does not follow commands yet because the controller's set-point is missing
    """

    stamp: float = -np.inf
    mode: str = ""
    fault: str = ""
    rejection: str = ""
    settling: bool = False

    def blocking_reason(self, now: float) -> str:
        """Why teleoperation cannot take control at `now` [s], or ''."""
        if not now - self.stamp <= GUARD_MAX_AGE_S:
            return "no guard status on diagnostics; is the guard running and active?"
        if self.fault:
            return f"the guard has the fault {self.fault}; call guard/reset first"
        return "" if self.mode else "the guard is not active"


class ClutchState(Enum):
    """State of the clutch.

    LOCKED: not seen released yet, so a press does not count
    READY: released; the next press takes control
    REQUESTED: held; the guard was asked for mode teleop and has not confirmed it
    DRIVING: held; the guard follows teleoperation
    ABORTED: still held after a fault ended the takeover; its release asks the guard for hold
    """

    LOCKED = auto()
    READY = auto()
    REQUESTED = auto()
    DRIVING = auto()
    ABORTED = auto()


class Clutch:
    """Turns the clutch button and the guard's status into the guard mode to request.

    A press counts only after a release. A takeover that a fault ends is never passed on to a
    policy: the arm holds until the clutch is released and pressed again.

    reason: why the arm does not move although the clutch is held, or ''; takeovers: their count
    """

    def __init__(self, mode_after_release: Literal["previous", "hold"]):
        self._mode_after_release = mode_after_release
        self.takeovers = 0
        self.reset()

    def reset(self) -> None:
        """Forgets every press."""
        self._state, self.reason = ClutchState.LOCKED, ""
        self._previous_mode, self._requested_at = HOLD, 0.0

    @property
    def engaged(self) -> bool:
        """Whether the clutch is held and teleoperation has, or has requested, control."""
        return self._state in (ClutchState.REQUESTED, ClutchState.DRIVING)

    @property
    def confirmed(self) -> bool:
        """Whether the guard follows teleoperation."""
        return self._state is ClutchState.DRIVING

    def update(self, now: float, held: bool, problem: str, guard: GuardStatus) -> str:
        """The mode to request from the guard at `now` [s], or ''.

        held: the button in the newest message; problem: why the input cannot be used, or ''
        """
        if self.engaged:
            return self._update_engaged(now, held, problem, guard)
        aborted = self._state is ClutchState.ABORTED
        if problem:
            self.reason = f"{problem}; {RELEASE_AND_PRESS}" if aborted else problem
            return ""
        if not held:
            self._state, self.reason = ClutchState.READY, ""
            return HOLD if aborted else ""
        if self._state is ClutchState.READY:
            return self._press(now, guard)
        if RELEASE_AND_PRESS not in self.reason:
            self.reason = f"the clutch was pressed before all inputs arrived; {RELEASE_AND_PRESS}"
        return ""

    def disengage(self) -> str:
        """Ends the takeover when the node is deactivated; returns the mode to request, or ''."""
        mode = HOLD if self.engaged or self._state is ClutchState.ABORTED else ""
        self.reset()
        return mode

    def _press(self, now: float, guard: GuardStatus) -> str:
        if reason := guard.blocking_reason(now):
            self._state, self.reason = ClutchState.LOCKED, f"{reason}; then {RELEASE_AND_PRESS}"
            return ""
        self._previous_mode = HOLD if guard.mode == TELEOP else guard.mode
        self.takeovers += 1
        return self._request(now)

    def _request(self, now: float) -> str:
        self._state, self._requested_at, self.reason = ClutchState.REQUESTED, now, ""
        return TELEOP

    # While the clutch is held and neither the input nor the guard has a problem:
    #
    # guard mode | REQUESTED                            | DRIVING
    # teleop     | -> DRIVING once the guard follows    | stays
    # hold       | waits CONFIRM_S, then -> ABORTED     | -> ABORTED: hold wins over the clutch
    # another    | waits CONFIRM_S, then -> ABORTED     | -> REQUESTED: the clutch wins over a
    #            |                                      |    policy, which gets the arm afterwards
    def _update_engaged(self, now: float, held: bool, problem: str, guard: GuardStatus) -> str:
        if problem := problem or guard.blocking_reason(now):
            return self._abort(problem)
        if not held:
            self._state = ClutchState.READY
            return HOLD if self._mode_after_release == "hold" else self._previous_mode
        if guard.mode == TELEOP:
            if guard.stamp >= self._requested_at and not guard.settling:
                self._state = ClutchState.DRIVING
            return ""
        if not self.confirmed and now - self._requested_at <= CONFIRM_S:
            return ""
        if self.confirmed and guard.mode != HOLD:
            self._previous_mode = guard.mode
            return self._request(now)
        cause = f": {guard.rejection}" if guard.rejection and not self.confirmed else ""
        return self._abort(f"the guard is in mode {guard.mode}, not in teleop{cause}")

    def _abort(self, reason: str) -> str:
        """Stops sending, so the guard stops the arm; its mode changes only after the release."""
        self._state = ClutchState.ABORTED
        self.reason = f"{reason}; {RELEASE_AND_PRESS}"
        return ""


class ButtonDebouncer:
    """Counts each press of a button once, although its contact bounces."""

    def __init__(self, debounce_s: float):
        self._debounce_s = debounce_s
        self._pressed_at: dict[str, float] = {}  # button -> time it was last seen pressed [s]
        self._released: set[str] = set()

    def update(self, now: float, pressed: Collection[str], names: Collection[str]) -> list[str]:
        """Buttons of `names` pressed since the last call, after `debounce_s` without contact.

        A button that is pressed in the first message does not count before it was released.
        """
        new = []
        for name in names:
            if name not in pressed:
                self._released.add(name)
                continue
            settled = now - self._pressed_at.get(name, -np.inf) >= self._debounce_s
            if name in self._released and settled:
                new.append(name)
            self._released.discard(name)
            self._pressed_at[name] = now
        return new
