"""The number of trials that tells two rates apart, against enumeration by scipy."""

import numpy as np
import pytest
from scipy.stats import barnard_exact, binom

from nac_ros.core.errors import ConfigError
from nac_ros.stats.power import power, power_table, rejected, trials_needed


@pytest.mark.parametrize("trials", [4, 9])
def test_what_is_rejected_is_what_scipys_barnard_rejects(trials):
    for first in range(trials + 1):
        for second in range(trials + 1):
            table = [[first, second], [trials - first, trials - second]]
            expected = barnard_exact(table).pvalue <= 0.05
            assert rejected(trials, 0.05)[first, second] == expected, (first, second)


# one-sided tests at .05 are two-sided ones at .10 where the wrong side has no chance; computed
# with scipy 1.17's barnard_exact over all results
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (0.5, 0.8, (0.40, 0.59, 0.78)),
        (0.6, 0.8, (0.24, 0.33, 0.49)),
        (0.7, 0.9, (0.28, 0.41, 0.60)),
        (0.8, 0.95, (0.20, 0.38, 0.52)),
    ],
)
def test_power_is_that_of_one_sided_tests_computed_by_enumeration(first, second, expected):
    found = [power(first, second, n, alpha=0.1) for n in (10, 20, 30)]
    np.testing.assert_allclose(found, expected, atol=0.016)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_equal_rates_are_told_apart_with_probability_alpha_at_most(rate):
    counts = np.arange(26)
    chances = np.outer(binom.pmf(counts, 25, rate), binom.pmf(counts, 25, rate))
    assert 0.0 < chances[rejected(25, 0.05)].sum() <= 0.05 + 1e-3  # a grid of common rates


def test_the_number_needed_is_the_first_that_has_the_power():
    needed = trials_needed(0.5, 0.9)
    assert power(0.5, 0.9, needed) >= 0.8
    assert max(power(0.5, 0.9, n) for n in range(1, needed)) < 0.8
    assert trials_needed(0.9, 0.5) == needed and trials_needed(0.1, 0.5) == needed
    assert trials_needed(0.50, 0.51) is None
    assert trials_needed(0.0, 1e-170) is None  # whose square is 0


def test_the_table_has_a_row_for_each_two_rates():
    rows = power_table((0.2, 0.7, 0.9))
    assert [(row["p1"], row["p2"]) for row in rows] == [(0.2, 0.7), (0.2, 0.9), (0.7, 0.9)]
    assert all(row["n50"] < row["n80"] < row["n90"] for row in rows)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: power(0.5, 1.2, 10), "p2 is a success rate from 0 to 1, got 1.2"),
        (lambda: power(0.5, 0.6, 0), "trials must be at least 1, got 0"),
        (lambda: power(0.5, 0.6, 5, alpha=0), "alpha must lie between 0 and 1, got 0"),
        (lambda: trials_needed(0.5, 0.5), "no number of trials tells equals apart"),
        (lambda: trials_needed(0.5, 0.6, 1.0), "power must lie between 0 and 1, got 1"),
    ],
)
def test_nonsense_plans_are_refused(call, words):
    with pytest.raises(ConfigError, match=words):
        call()
