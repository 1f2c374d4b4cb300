"""Whether a line of a log belongs to its run; what the run would not have written is refused."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nac_ros.errors import TrialError, show_value
from nac_ros.trials.plan import Slot

KINDS = ("begin", "resume", "start", "trial", "unblind")


class Order:
    """Looks at the entries of a log one after the other, in their order."""

    def __init__(self, slots: Sequence[Slot]):
        self._slots = slots
        self._kinds: Counter[str] = Counter()
        self._attempts: dict[int, int] = {}
        self._valid: set[int] = set()

    def check(self, entry: Mapping[str, Any]) -> None:
        """Raises TrialError for one that cannot come next."""
        kind = entry.get("entry")
        if kind not in KINDS:
            raise TrialError(f"entry {show_value(kind)} is none of {', '.join(KINDS)}")
        if (kind == "begin") == bool(self._kinds):
            raise TrialError("`begin` is the first line, and no other")
        self._kinds[kind] += 1
        if kind in ("start", "trial"):
            self._check_turn(kind, entry)

    def _check_turn(self, kind: str, entry: Mapping[str, Any]) -> None:
        index, attempt = entry.get("slot"), entry.get("attempt")
        if type(index) is not int or not 0 <= index < len(self._slots):
            raise TrialError(f"slot {show_value(index)} is none of the plan's {len(self._slots)}")
        for key, planned in self._slots[index]._asdict().items():
            if key != "index" and entry.get(key, planned) != planned:
                found = show_value(entry[key])
                raise TrialError(f"{key} of slot {index} is {planned!r}, not {found}")
        if self._kinds["unblind"]:
            raise TrialError("nothing is played after the run was unblinded")
        if index in self._valid:
            raise TrialError(f"slot {index} was judged before")
        if kind == "start":
            return
        if type(attempt) is not int or attempt <= self._attempts.get(index, -1):
            raise TrialError(f"attempt {show_value(attempt)} of slot {index} was judged before")
        self._attempts[index] = attempt
        if entry.get("outcome") != "invalid":
            self._valid.add(index)
