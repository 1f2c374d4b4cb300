"""Tests whether methods differ: by task, pooled over tasks, and on shared scenes."""

from collections.abc import Collection, Mapping, Sequence
from string import ascii_letters
from typing import NamedTuple, TypeVar

import numpy as np
from scipy.stats import barnard_exact, binomtest, hypergeom

from nac_ros.core.errors import ConfigError
from nac_ros.stats.intervals import check_counts

K = TypeVar("K")
TIE = 1 + 1e-7  # probabilities that differ by rounding alone count as equal


class SuccessCount(NamedTuple):
    """Successes out of trials."""

    successes: int
    trials: int


class DiscordantPairs(NamedTuple):
    """Number of scenes on which exactly one of two methods succeeded."""

    first_only: int
    second_only: int


def barnard_test(first: SuccessCount, second: SuccessCount) -> float:
    """Two-sided p of equal rates of independent trials: exact, unconditional, pooled Wald
    statistic (Barnard 1945, Nature 156:177); more powerful with few trials than Fisher's test."""
    for count in (first, second):
        check_counts(*count)
    table = [
        [first.successes, second.successes],
        [first.trials - first.successes, second.trials - second.successes],
    ]
    return min(float(barnard_exact(table).pvalue), 1.0)


def holm_adjust(p_values: Mapping[K, float]) -> dict[K, float]:
    """Holm's step-down adjustment (Holm 1979, Scand. J. Statist. 6:65): the probability of any
    false rejection among all tests is at most alpha."""
    adjusted, largest = {}, 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[key]))
        adjusted[key] = largest
    return {key: adjusted[key] for key in p_values}


def stratified_test(strata: Sequence[tuple[SuccessCount, SuccessCount]]) -> float:
    """Two-sided p of no difference in any stratum (task): the exact conditional form of the
    Cochran-Mantel-Haenszel test (Mehta, Patel and Gray 1985, JASA 80:969)."""
    if not strata:
        raise ConfigError("a pooled test needs at least one task that both methods played")
    # Given each task's margins, the successes of the first method are hypergeometric. Convolving
    # the tasks gives the distribution of their sum, counted from its smallest possible value; p is
    # the probability of all sums no likelier than the observed one.
    probabilities, observed = np.ones(1), 0
    for first, second in strata:
        check_counts(*first)
        check_counts(*second)
        total, successes = first.trials + second.trials, first.successes + second.successes
        lowest = max(0, successes - second.trials)
        counts = np.arange(lowest, min(successes, first.trials) + 1)
        of_task = hypergeom.pmf(counts, total, successes, first.trials)
        probabilities = np.convolve(probabilities, of_task)
        observed += first.successes - lowest
    as_unlikely = probabilities <= probabilities[observed] * TIE
    return min(float(probabilities[as_unlikely].sum()), 1.0)


def count_discordant(first: Sequence[bool], second: Sequence[bool]) -> DiscordantPairs:
    """Discordant pairs in the outcomes of two methods, scene by scene."""
    if len(first) != len(second):
        raise ConfigError(f"{len(first)} and {len(second)} trials are no pairs")
    first_only = sum(a and not b for a, b in zip(first, second))
    return DiscordantPairs(first_only, sum(b and not a for a, b in zip(first, second)))


def mcnemar_test(pairs: DiscordantPairs) -> float:
    """Two-sided exact p that a discordant pair favours either method with equal chance (McNemar
    1947, Psychometrika 12:153); the pairs of several tasks may be summed."""
    if not sum(pairs):
        return 1.0
    return float(binomtest(pairs.first_only, sum(pairs)).pvalue)


def compact_letter_display(
    names: Sequence[str], different: Collection[frozenset[str]]
) -> dict[str, str]:
    """Letters such that two of `names` share one exactly if their pair is not in `different`;
    earlier names get earlier letters.

    Insert-and-absorb (Piepho 2004, J. Comput. Graph. Stat. 13:456): start with one group of all
    names; each different pair splits every group that holds both into two, one without either
    name; groups inside others are dropped. Raises ConfigError beyond 52 groups.
    """
    groups = [frozenset(names)]
    for pair in different:
        split = [group for group in groups if pair <= group]
        parts = [group - {name} for group in split for name in pair]
        candidates = dict.fromkeys([group for group in groups if group not in split] + parts)
        groups = [group for group in candidates if not any(group < other for other in candidates)]
    ranks = {name: rank for rank, name in enumerate(names)}
    groups.sort(key=lambda group: sorted(ranks[name] for name in group))
    if len(groups) > len(ascii_letters):
        raise ConfigError(f"{len(names)} methods need {len(groups)} letters; compare fewer")
    return {
        name: "".join(letter for letter, group in zip(ascii_letters, groups) if name in group)
        for name in names
    }
