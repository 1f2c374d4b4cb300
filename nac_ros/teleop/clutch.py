"""The clutch: who drives the arm while it is held, and who does when it is let go.

It is told the time, and knows the guard by what that says of itself.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

TELEOP, HOLD = "teleop", "hold"
CONFIRM_S = 1.0  # the guard answers within milliseconds, on a busy machine later
GUARD_MAX_AGE_S = 2.5  # it reports once a second
LET_GO = "let the clutch go and press it again"


@dataclass(frozen=True)
class GuardStatus:
    """What the guard said at `stamp` [s]: its mode, fault and newest rejection, '' for none.

    settling: whether it does not follow yet, for the controllers' set-point is still on its way
    """

    stamp: float = -np.inf
    mode: str = ""
    fault: str = ""
    rejection: str = ""
    settling: bool = False

    def blocking_reason(self, now: float) -> str:
        """Why nobody can take over at `now` [s], or ''."""
        if not now - self.stamp <= GUARD_MAX_AGE_S:
            return "the guard says nothing on diagnostics; is it running and active?"
        if self.fault:
            return f"the guard stopped, {self.fault}; call guard/reset first"
        return "" if self.mode else "the guard is not active"


class Clutch:
    """From a button and the guard's words to the mode that the guard is to have.

    A press counts only after the button was seen released. What ends a takeover other than the
    hand hands back to nobody: the arm holds, and moves again only by another press.

    engaged: whether it is held and the guard was asked; confirmed: whether the guard obeys
    reason: why it is held and yet nothing moves, or ''; takeovers: how many there were
    """

    def __init__(self, mode_after_release: Literal["previous", "hold"]):
        self._hand_back = mode_after_release
        self.takeovers = 0
        self.reset()

    def reset(self) -> None:
        """As if nothing had been pressed yet."""
        self.engaged, self.confirmed, self.reason = False, False, ""
        self._released, self._abandoned = False, False
        self._before, self._asked = HOLD, 0.0

    def update(self, now: float, held: bool, doubt: str, guard: GuardStatus) -> str:
        """The mode to ask the guard for, or ''.

        held: as the newest message has it; doubt: why the hand cannot be followed, or ''
        """
        if self.engaged:
            return self._drive(now, held, doubt, guard)
        if doubt:
            self.reason = f"{doubt}; {LET_GO}" if self._abandoned else doubt
            return ""
        if not held:
            return self._let_go()
        if not self._released:
            if LET_GO not in self.reason:
                self.reason = f"the clutch was pressed before everything was there; {LET_GO}"
            return ""
        return self._press(now, guard)

    def disengage(self) -> str:
        """Ends the takeover, for a node that is deactivated; the mode to ask for, or ''."""
        asked = HOLD if self.engaged or self._abandoned else ""
        self.reset()
        return asked

    def _let_go(self) -> str:
        left, self._abandoned = self._abandoned, False
        self._released, self.reason = True, ""
        return HOLD if left else ""

    def _press(self, now: float, guard: GuardStatus) -> str:
        if why := guard.blocking_reason(now):
            self._released, self.reason = False, f"{why}; then {LET_GO}"
            return ""
        self._before = HOLD if guard.mode == TELEOP else guard.mode
        self.engaged, self.confirmed, self._asked = True, False, now
        self.reason, self._released = "", False
        self.takeovers += 1
        return TELEOP

    def _drive(self, now: float, held: bool, doubt: str, guard: GuardStatus) -> str:
        if doubt := doubt or guard.blocking_reason(now):
            return self._abandon(doubt)
        if not held:
            self.engaged, self.confirmed, self._released = False, False, True
            return HOLD if self._hand_back == "hold" else self._before
        if guard.mode == TELEOP:
            follows = guard.stamp >= self._asked and not guard.settling
            self.confirmed = self.confirmed or follows
            return ""
        if not self.confirmed and now - self._asked <= CONFIRM_S:
            return ""
        if self.confirmed and guard.mode != HOLD:  # the clutch wins, and hands back to the newest
            self._before, self.confirmed, self._asked = guard.mode, False, now
            return TELEOP
        said = f": {guard.rejection}" if guard.rejection and not self.confirmed else ""
        return self._abandon(f"the guard is in mode {guard.mode}, not in teleop{said}")

    def _abandon(self, why: str) -> str:
        """Nothing more is sent, so the arm stops; the mode stays until the clutch is let go."""
        self.engaged, self.confirmed, self._abandoned = False, False, True
        self.reason = f"{why}; {LET_GO}"
        return ""


class ButtonDebouncer:
    """Presses of buttons, each counted once however its contact bounces."""

    def __init__(self, debounce_s: float):
        self._debounce_s = debounce_s
        self._down: dict[str, float] = {}  # when each was seen pressed last [s]
        self._known: set[str] = set()  # buttons that were seen released

    def update(self, now: float, pressed: Collection[str], names: Collection[str]) -> list[str]:
        """Those of `names` that were pressed just now, after a release of at least the bounce."""
        new = []
        for name in names:
            if name not in pressed:
                self._known.add(name)
                continue
            rested = now - self._down.get(name, -np.inf) >= self._debounce_s
            if name in self._known and rested:
                new.append(name)
            self._known.discard(name)
            self._down[name] = now
        return new
