"""Which method a slot is of, kept from whoever judges it."""

from nac_ros.trials.plan import Slot
from nac_ros.trials.run import Run


class Blind:
    """Knows the methods behind a run's codes."""

    def __init__(self, run: Run):
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
