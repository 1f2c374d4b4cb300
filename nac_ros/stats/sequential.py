"""A test that may be looked at after every pair of trials, and stopped at any look.

Two methods play the same scenes. Where exactly one of them succeeds, it is either with chance 1/2
if they are equally good. Whoever bets against that with a fair coin's odds gains nothing on
average, so the stake is a test martingale: by Ville's inequality it ever reaches 1 / alpha with
probability alpha at most, however often one looks (Ville 1939; Robbins 1970, Ann. Math. Statist.
41:1397; Ramdas, Gruenwald, Vovk and Shafer 2023, Statist. Sci. 38:576). Before each such scene
the share (gained + 1) / (gained + lost + 2) of the stake is put on the first method: Laplace's
rule of succession, which is the mixture over all chances with equal weight.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, log

from nac_ros.core.errors import ConfigError

MOST = 700.0  # log of the largest stake that a float can tell


@dataclass
class BettingTest:
    """The stake after each pair of trials so far, begun with 1.

    gained, lost: scenes that the first or the second method alone succeeded on
    stakes: the e-process, one value for each pair
    """

    gained: int = 0
    lost: int = 0
    stakes: list[float] = field(default_factory=list)
    _log: float = 0.0

    def add(self, first: bool, second: bool) -> float:
        """The next pair on one scene; the stake afterwards."""
        if first != second:
            won, known = (self.gained if first else self.lost), self.gained + self.lost
            self._log += log(2 * (won + 1) / (known + 2))
            self.gained += first
            self.lost += second
        self.stakes.append(exp(min(self._log, MOST)))
        return self.stakes[-1]

    @property
    def p(self) -> float:
        """Valid at any time: 1 / the largest stake so far."""
        return min(1.0, 1 / max(self.stakes, default=1.0))

    def reached(self, alpha: float) -> int | None:
        """After how many pairs the test rejected at level `alpha`, None if it did not."""
        if not 0 < alpha < 1:
            raise ConfigError(f"alpha must lie between 0 and 1, got {alpha}")
        hits = (n for n, stake in enumerate(self.stakes, 1) if stake >= 1 / alpha)
        return next(hits, None)


def bet(pairs: Iterable[tuple[bool, bool]]) -> BettingTest:
    """All pairs, in the order in which they were played."""
    made = BettingTest()
    for first, second in pairs:
        made.add(first, second)
    return made
