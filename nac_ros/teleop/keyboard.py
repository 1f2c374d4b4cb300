"""Keyboard of a terminal as a teleoperation device with axes and buttons."""

import os
import select
import sys
import termios
import tty
from typing import Any

import numpy as np

from nac_ros.core.errors import ConfigError
from nac_ros.teleop.input_mapping import InputMapping

# A terminal repeats a held key 10 to 30 times a second and reports no release.
HELD_S = 0.15  # a key counts as held for this time after each press
CLUTCH_S = 2.0  # the clutch stays held for this time after any mapped key
NAMES = {" ": "space", "\t": "tab", "\n": "enter", "\x1b": "escape"}


class Keyboard:
    """Reads a terminal without echo and without waiting for the end of a line.

    The clutch's key engages the clutch; a key that is not in the mapping releases it at once.
    lost: whether the terminal was closed
    """

    def __init__(self, mapping: InputMapping, handle: int | None = None):
        """handle: file descriptor of the terminal, default standard input.

        Raises ConfigError if it is no terminal.
        """
        self._mapping = mapping
        self._handle = sys.stdin.fileno() if handle is None else handle
        self._pressed_at: dict[str, float] = {}  # key -> time of its last press [s]
        self._clutch_until = -np.inf
        self.lost = False
        if not os.isatty(self._handle):
            raise ConfigError(
                "the keyboard needs a terminal: start the node in one with `ros2 run`, not from a "
                "launch file"
            )
        self._saved_mode: list[Any] | None = termios.tcgetattr(self._handle)
        tty.setcbreak(self._handle)

    def close(self) -> None:
        """Restores the mode of the terminal; may be called again."""
        if self._saved_mode is not None and not self.lost:
            termios.tcsetattr(self._handle, termios.TCSADRAIN, self._saved_mode)
        self._saved_mode = None

    def poll(self, now: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Axes and buttons at `now` [s], None once the terminal is closed."""
        for key in self._read_keys():
            self._press(key, now)
        return None if self.lost else self._state(now)

    def _read_keys(self) -> str:
        keys = ""
        while not self.lost and select.select([self._handle], [], [], 0)[0]:
            try:
                part = os.read(self._handle, 1024)
            except OSError:  # the other end of the terminal was closed
                part = b""
            self.lost = not part
            keys += part.decode(errors="replace")
        return keys

    def _press(self, letter: str, now: float) -> None:
        key = NAMES.get(letter, letter)
        spec = self._mapping.keys.get(key)
        if spec is None:
            self._clutch_until = -np.inf
            self._pressed_at.clear()
            return
        self._pressed_at[key] = now
        if spec.button == self._mapping.clutch or now <= self._clutch_until:
            self._clutch_until = now + CLUTCH_S

    def _state(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        axes = np.zeros(self._mapping.n_axes)
        buttons = np.zeros(self._mapping.n_buttons, int)
        held = [key for key, pressed_at in self._pressed_at.items() if now - pressed_at <= HELD_S]
        for spec in (self._mapping.keys[key] for key in held):
            if spec.axis >= 0:
                axes[spec.axis] += spec.value
            else:
                buttons[spec.button] = 1
        buttons[self._mapping.clutch] = now <= self._clutch_until
        return axes, buttons
