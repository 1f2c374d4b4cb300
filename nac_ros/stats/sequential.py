"""Anytime-valid comparison of two methods on the same scenes, by betting.

Only scenes on which exactly one method succeeds count. If the methods are equally good, it is
either with probability 1/2, so betting on the outcome at fair odds gains nothing on average: the
wealth is a test martingale. By Ville's inequality it reaches 1 / alpha with probability at most
alpha, however often one looks, so the test may be evaluated after every pair and stopped at any
time (Ville 1939; Robbins 1970, Ann. Math. Statist. 41:1397; Ramdas, Gruenwald, Vovk and Shafer
2023, Statist. Sci. 38:576). The share (n_first + 1) / (n_first + n_second + 2) of the wealth is
bet on the first method: Laplace's rule of succession, the uniform mixture over all probabilities.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, log

from nac_ros.core.errors import ConfigError

MAX_LOG_WEALTH = 700.0  # exp() of more overflows a float


@dataclass
class BettingTest:
    """State of the test; the wealth starts at 1.

    first_only, second_only: scenes on which only that method succeeded
    wealth: e-process, one value per pair
    """

    first_only: int = 0
    second_only: int = 0
    wealth: list[float] = field(default_factory=list)
    _log_wealth: float = 0.0

    def add(self, first: bool, second: bool) -> float:
        """Adds the outcomes on the next scene; returns the wealth after it."""
        if first != second:
            wins = self.first_only if first else self.second_only
            share = (wins + 1) / (self.first_only + self.second_only + 2)
            self._log_wealth += log(2 * share)
            self.first_only += first
            self.second_only += second
        self.wealth.append(exp(min(self._log_wealth, MAX_LOG_WEALTH)))
        return self.wealth[-1]

    @property
    def p(self) -> float:
        """Anytime-valid p-value: 1 / the largest wealth so far."""
        return min(1.0, 1 / max(self.wealth, default=1.0))

    def rejected_after(self, alpha: float) -> int | None:
        """Number of pairs after which the test rejected at level `alpha`, or None."""
        if not 0 < alpha < 1:
            raise ConfigError(f"alpha must lie between 0 and 1, got {alpha}")
        rejections = (n for n, wealth in enumerate(self.wealth, 1) if wealth >= 1 / alpha)
        return next(rejections, None)


def run_betting_test(pairs: Iterable[tuple[bool, bool]]) -> BettingTest:
    """The test after all pairs, in the order of the trials."""
    test = BettingTest()
    for first, second in pairs:
        test.add(first, second)
    return test
