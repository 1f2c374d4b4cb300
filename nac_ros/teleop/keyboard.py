"""A terminal's keys as the axes and buttons of a device; the terminal is given back as it was."""

import os
import select
import sys
import termios
import tty
from typing import Any

import numpy as np

from nac_ros.core.errors import ConfigError
from nac_ros.teleop.input_mapping import InputMapping

# Terminals repeat a key that is held 10 to 30 times a second, and tell nothing of its release.
HELD_S = 0.15  # a key counts as held for so long after it came
CLUTCH_S = 2.0  # the clutch, after any key came
NAMES = {" ": "space", "\t": "tab", "\n": "enter", "\x1b": "escape"}


class Keyboard:
    """Keys of a terminal, without echo and without waiting for the end of a line.

    The clutch's key takes the clutch; a key that the mapping does not name lets it go at once.
    """

    def __init__(self, hand: InputMapping, handle: int | None = None):
        """handle: of the terminal, by default standard input; raises ConfigError for a file."""
        self._hand = hand
        self._handle = sys.stdin.fileno() if handle is None else handle
        self._seen: dict[str, float] = {}  # key -> when it came last [s]
        self._clutch_until = -np.inf
        self.lost = False
        if not os.isatty(self._handle):
            raise ConfigError(
                "the keyboard needs a terminal: start the node in one, by `ros2 run` and not by a "
                "launch file"
            )
        self._before: list[Any] | None = termios.tcgetattr(self._handle)
        tty.setcbreak(self._handle)

    def __enter__(self) -> "Keyboard":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the terminal back as it was; may be called again."""
        if self._before is not None and not self.lost:
            termios.tcsetattr(self._handle, termios.TCSADRAIN, self._before)
        self._before = None

    def poll(self, now: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Axes and buttons at `now` [s], None once the terminal is gone."""
        for key in self._keys():
            self._take(key, now)
        return None if self.lost else self._state(now)

    def _keys(self) -> str:
        came = ""
        while not self.lost and select.select([self._handle], [], [], 0)[0]:
            try:
                part = os.read(self._handle, 1024)
            except OSError:  # what a terminal says that was closed at its other end
                part = b""
            self.lost = not part
            came += part.decode(errors="replace")
        return came

    def _take(self, letter: str, now: float) -> None:
        key = NAMES.get(letter, letter)
        spec = self._hand.keys.get(key)
        if spec is None:
            self._clutch_until = -np.inf
            self._seen.clear()
            return
        self._seen[key] = now
        if spec.button == self._hand.clutch or now <= self._clutch_until:
            self._clutch_until = now + CLUTCH_S

    def _state(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        axes = np.zeros(self._hand.n_axes)
        buttons = np.zeros(self._hand.n_buttons, int)
        for key, when in self._seen.items():
            spec = self._hand.keys[key]
            if now - when > HELD_S:
                continue
            if spec.axis >= 0:
                axes[spec.axis] += spec.value
            else:
                buttons[spec.button] = 1
        buttons[self._hand.clutch] = now <= self._clutch_until
        return axes, buttons
