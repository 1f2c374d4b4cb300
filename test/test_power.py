"""Power of Barnard's test against enumeration with scipy."""

import numpy as np
import pytest
from scipy.stats import barnard_exact, binom

from nac_ros.core.errors import ConfigError
from nac_ros.stats.power import power, power_table, rejection_region, trials_needed


@pytest.mark.parametrize("trials", [4, 9])
def test_the_rejection_region_matches_scipys_barnard_test(trials):
    for first in range(trials + 1):
        for second in range(trials + 1):
            table = [[first, second], [trials - first, trials - second]]
            expected = barnard_exact(table).pvalue <= 0.05
            assert rejection_region(trials, 0.05)[first, second] == expected, (first, second)


# One-sided tests at .05 equal two-sided tests at .10 if the wrong side is practically impossible;
# computed with barnard_exact of scipy 1.17 over all results.
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (0.5, 0.8, (0.40, 0.59, 0.78)),
        (0.6, 0.8, (0.24, 0.33, 0.49)),
        (0.7, 0.9, (0.28, 0.41, 0.60)),
        (0.8, 0.95, (0.20, 0.38, 0.52)),
    ],
)
def test_power_matches_one_sided_tests_computed_by_enumeration(first, second, expected):
    found = [power(first, second, n, alpha=0.1) for n in (10, 20, 30)]
    np.testing.assert_allclose(found, expected, atol=0.016)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_equal_rates_are_rejected_with_probability_of_at_most_alpha(rate):
    counts = np.arange(26)
    chances = np.outer(binom.pmf(counts, 25, rate), binom.pmf(counts, 25, rate))
    assert (
        0.0 < chances[rejection_region(25, 0.05)].sum() <= 0.05 + 1e-3
    )  # the common rate is maximized on a grid


def test_trials_needed_is_the_smallest_number_with_the_power():
    needed = trials_needed(0.5, 0.9)
    assert power(0.5, 0.9, needed) >= 0.8
    assert max(power(0.5, 0.9, n) for n in range(1, needed)) < 0.8
    assert trials_needed(0.9, 0.5) == needed and trials_needed(0.1, 0.5) == needed
    assert trials_needed(0.50, 0.51) is None
    assert trials_needed(0.0, 1e-170) is None  # the square underflows to 0


def test_the_table_has_a_row_for_each_pair_of_rates():
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
def test_invalid_arguments_are_rejected(call, words):
    with pytest.raises(ConfigError, match=words):
        call()
