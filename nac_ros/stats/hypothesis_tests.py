"""Whether methods differ: tests of success counts by task, over tasks, and on shared scenes."""

from collections.abc import Collection, Mapping, Sequence
from string import ascii_letters
from typing import NamedTuple, TypeVar

import numpy as np
from scipy.stats import barnard_exact, binomtest, hypergeom

from nac_ros.core.errors import ConfigError

K = TypeVar("K")
TIE = 1 + 1e-7  # probabilities that differ by rounding alone are equal


class Count(NamedTuple):
    """Successes out of trials."""

    successes: int
    trials: int


class Pairs(NamedTuple):
    """Scenes on which one of two methods succeeded and the other did not."""

    gained: int  # only the first
    lost: int  # only the second


def barnard(first: Count, second: Count) -> float:
    """Two-sided p of equal rates, exact and unconditional (Barnard 1945, Nature 156:177; pooled
    Wald statistic): more power with few trials than Fisher's test. For independent trials."""
    _check(first, second)
    table = [
        [first.successes, second.successes],
        [first.trials - first.successes, second.trials - second.successes],
    ]
    return min(float(barnard_exact(table).pvalue), 1.0)


def holm(p_values: Mapping[K, float]) -> dict[K, float]:
    """Adjusted for all being looked at together (Holm 1979, Scand. J. Statist. 6:65): rejecting
    those at most alpha errs anywhere with probability alpha at most."""
    adjusted, largest = {}, 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[key]))
        adjusted[key] = largest
    return {key: adjusted[key] for key in p_values}


def stratified(strata: Sequence[tuple[Count, Count]]) -> float:
    """Two-sided p of no difference in any stratum (task), pooled: the exact conditional form of
    the Cochran-Mantel-Haenszel test (Mehta, Patel and Gray 1985, JASA 80:969).

    Given each task's margins the first method's successes are hypergeometric; their sum over
    tasks is convolved, and results no likelier than the observed one count.
    """
    if not strata:
        raise ConfigError("a pooled test needs at least one task that both methods played")
    chances, observed = np.ones(1), 0
    for first, second in strata:
        _check(first, second)
        total, won = first.trials + second.trials, first.successes + second.successes
        lowest = max(0, won - second.trials)
        counts = np.arange(lowest, min(won, first.trials) + 1)
        chances = np.convolve(chances, hypergeom.pmf(counts, total, won, first.trials))
        observed += first.successes - lowest
    return min(float(chances[chances <= chances[observed] * TIE].sum()), 1.0)


def discordant(first: Sequence[bool], second: Sequence[bool]) -> Pairs:
    """Outcomes of two methods, scene by scene."""
    if len(first) != len(second):
        raise ConfigError(f"{len(first)} and {len(second)} trials are no pairs")
    gained = sum(a and not b for a, b in zip(first, second))
    return Pairs(gained, sum(b and not a for a, b in zip(first, second)))


def mcnemar(pairs: Pairs) -> float:
    """Two-sided exact p that a scene on which one method alone succeeded is either's with equal
    chance (McNemar 1947, Psychometrika 12:153); pairs of several tasks may be added up."""
    if not sum(pairs):
        return 1.0
    return float(binomtest(pairs.gained, sum(pairs)).pvalue)


def letters(names: Sequence[str], different: Collection[frozenset[str]]) -> dict[str, str]:
    """A compact letter display: two of `names` share a letter exactly if the pair is not among
    `different`; earlier names get earlier letters.

    Insert and absorb (Piepho 2004, J. Comput. Graph. Stat. 13:456). Raises ConfigError where more
    letters than the alphabet has are needed.
    """
    groups = [frozenset(names)]
    for pair in different:
        split = [group for group in groups if pair <= group]
        parts = [group - {name} for group in split for name in pair]
        groups = _largest([group for group in groups if group not in split] + parts)
    ranks = {name: rank for rank, name in enumerate(names)}
    groups.sort(key=lambda group: sorted(ranks[name] for name in group))
    if len(groups) > len(ascii_letters):
        raise ConfigError(f"{len(names)} methods need {len(groups)} letters; compare fewer")
    return {
        name: "".join(letter for letter, group in zip(ascii_letters, groups) if name in group)
        for name in names
    }


def _largest(groups: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """Each once, and none that is part of another."""
    unique = list(dict.fromkeys(groups))
    return [group for group in unique if not any(group < other for other in unique)]


def _check(*counts: Count) -> None:
    for k, n in counts:
        if n < 1 or not 0 <= k <= n:
            raise ConfigError(f"{k} successes of {n} trials is no result")
