"""Every error that nac_ros raises on purpose, and functions that show values in messages.

A message says what was wanted, what value came, and how to fix it.
"""

import itertools
import reprlib


class NacError(Exception):
    """Base class; the command line prints the message and exits with code 2."""


class ConfigError(NacError):
    """A configuration holds an unknown key, a wrong type or a value out of range."""


class UnknownName(NacError):
    """There is no tokenizer, policy, task, robot, camera or preset of that name."""


class BadActions(NacError):
    """Actions of the wrong shape, dtype or value (NaN, inf) reached a tokenizer or a policy."""


class BadObservation(NacError):
    """An observation is incomplete, stale, non-finite or of another shape than expected.

    reason: a short code for counters
    """

    def __init__(self, text: str, reason: str = "observation"):
        super().__init__(text)
        self.reason = reason


class BadInput(NacError):
    """Input of a teleoperation device is incomplete, not finite, or does not fit its mapping."""


class BadTokens(NacError):
    """A token sequence has the wrong length, range, order or dtype; it is never repaired."""


class NotFitted(NacError):
    """A tokenizer was used before `fit` or `load_tokenizer` gave it statistics."""


class BundleError(NacError):
    """A bundle is incomplete, altered, of another version, or fails its golden vectors."""


class DatasetError(NacError):
    """A dataset folder is missing, incomplete or lacks a column."""


class CameraError(NacError):
    """A camera cannot be opened, was disconnected, or delivers other images than configured."""


class SimulationError(NacError):
    """The simulator cannot run (no OpenGL, missing assets), or a scene is impossible."""


class TrialError(NacError):
    """A frozen protocol was changed, a trial log is damaged, or a trial action is not possible."""


class FieldError(ConfigError):
    """A field of a configuration is invalid.

    problem: a predicate such as `must be in 1 .. 9, got 0`, or a sentence
    path: keys and indices that lead from the configuration to the field
    line_path: path to the line that the message names, if it is another one
    """

    def __init__(
        self, problem: str, path: tuple = (), *, owner: str = "", line_path: tuple | None = None
    ):
        self.problem, self.path = problem, path
        self.line_path = path if line_path is None else line_path
        super().__init__(f"{owner}: {self.text}" if owner else self.text)

    def below(self, path: tuple) -> "FieldError":
        """The same error for the configuration that contains this one at `path`."""
        return FieldError(self.problem, path + self.path, line_path=path + self.line_path)

    @property
    def place(self) -> str:
        """The field in Python notation, such as `joints[0].velocity`."""
        text = ""
        for key in self.path:
            text += f"[{key}]" if isinstance(key, int) else f".{show_text(str(key), 40)}"
        return text.removeprefix(".")

    @property
    def text(self) -> str:
        """The field and its problem."""
        if not self.path:
            return self.problem
        return f"{self.place}{' ' if self.problem.startswith('must ') else ': '}{self.problem}"


def show_text(value: object, width: int = 80) -> str:
    """`value` as text for a message: control characters are escaped, and the middle of a text
    longer than `width` is left out."""
    text = _without_middle(str(value), width)
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return _without_middle("".join(shown), width)


def _without_middle(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    return f"{text[: width - width // 3 - 3]}...{text[-(width // 3) :]}"


def show_value(value: object, width: int = 80) -> str:
    """`value` in Python notation for a message: one line of at most about `width` characters.

    The cost is bounded: only the beginning of nested and long content is visited.
    """
    return show_text(_Shortener(width).repr(value), width)


class _Shortener(reprlib.Repr):
    """Shortened Python notation of plain values."""

    def __init__(self, width: int):
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, width, width
        self.maxlist = self.maxtuple = self.maxdict = 6

    def repr1(self, x: object, level: int) -> str:
        if isinstance(x, dict):
            return self.repr_dict(dict(itertools.islice(x.items(), self.maxdict + 1)), level)
        if isinstance(x, bytes):
            return repr(x[: self.maxstring])
        return super().repr1(x, level)

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() > 256:  # too many digits for a message
            return f"a whole number of {x.bit_length()} bits"
        return repr(x)
