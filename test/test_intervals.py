"""Confidence intervals: published values, scipy, coverage and symmetry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest

from nac_ros.core.errors import ConfigError
from nac_ros.stats.intervals import clopper_pearson, paired_difference, wilson

results = st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("k", "n", "score", "exact"),
    [
        (8, 10, (0.490, 0.943), (0.444, 0.975)),
        (16, 20, (0.584, 0.919), (0.563, 0.943)),
        (20, 20, (0.839, 1.0), (0.832, 1.0)),
        (0, 20, (0.0, 0.161), (0.0, 0.168)),
        (25, 50, (0.366, 0.634), (0.355, 0.645)),
        (40, 50, (0.670, 0.888), (0.663, 0.900)),
        (45, 50, (0.786, 0.957), None),
        (50, 50, (0.929, 1.0), None),
    ],
)
def test_intervals_match_published_values(k, n, score, exact):
    np.testing.assert_allclose(wilson(k, n), score, atol=5e-4)
    if exact:
        np.testing.assert_allclose(clopper_pearson(k, n), exact, atol=5e-4)


@given(results, st.floats(0.5, 0.999))
def test_intervals_agree_with_scipy(result, confidence):
    k, n = result
    for interval, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        reference = binomtest(k, n).proportion_ci(confidence, method)
        np.testing.assert_allclose(interval(k, n, confidence), reference, atol=1e-9)


@given(results)
def test_an_interval_contains_the_rate_and_mirrors_when_successes_and_failures_swap(result):
    k, n = result
    for interval in (wilson, clopper_pearson):
        low, high = interval(k, n)
        assert 0 <= low <= k / n <= high <= 1
        np.testing.assert_allclose(interval(n - k, n), (1 - high, 1 - low), atol=1e-9)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.77, 0.95])
def test_the_exact_interval_covers_the_true_rate_at_least_95_percent_of_the_time(rate):
    n = 20
    covered = [
        k for k in range(n + 1) if clopper_pearson(k, n).low <= rate <= clopper_pearson(k, n).high
    ]
    assert binom.pmf(covered, n, rate).sum() >= 0.95


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_rejected(k, n):
    for interval in (wilson, clopper_pearson):
        with pytest.raises(ConfigError, match=f"{k} successes of {n}"):
            interval(k, n)


def test_a_confidence_above_1_is_rejected():
    with pytest.raises(ConfigError, match="confidence"):
        wilson(1, 2, 95)


def pairs(both, first, second, neither):
    """Outcomes of two methods on shared scenes."""
    counts = (both, first, second, neither)
    return np.repeat([True, True, False, False], counts), np.repeat(
        [True, False, True, False], counts
    )


@pytest.mark.parametrize("counts", [(36, 12, 2, 0), (180, 12, 6, 2), (45, 2, 3, 0)])
def test_the_paired_interval_ends_where_the_score_test_rejects(counts):
    n, (_, only_first, only_second, same) = sum(counts), counts
    same += counts[0]
    for bound in paired_difference(*pairs(*counts)):

        def negative_log_likelihood(p_second, d=bound):
            chances = np.array([p_second + d, p_second, 1 - 2 * p_second - d]).clip(1e-300)
            return -float(np.log(chances) @ [only_first, only_second, same])

        low, high = max(0, -bound), (1 - bound) / 2
        p_second = minimize_scalar(negative_log_likelihood, bounds=(low, high), method="bounded").x
        spread = np.sqrt(n * (2 * p_second + bound - bound**2))
        assert abs((only_first - only_second - n * bound) / spread) == pytest.approx(
            1.95996, abs=2e-3
        )


def test_the_paired_interval_mirrors_when_methods_swap_and_ends_at_1():
    first, second = pairs(30, 9, 3, 8)
    low, high = paired_difference(first, second)
    assert (-high, -low) == pytest.approx(paired_difference(second, first))
    assert low < 6 / 50 < high
    assert paired_difference([True] * 50, [False] * 50).high == 1.0
    assert paired_difference(*pairs(40, 0, 0, 10)) == pytest.approx((-0.0713, 0.0713), abs=1e-3)
    with pytest.raises(ConfigError, match="3 and 2 trials are no pairs"):
        paired_difference([True] * 3, [True] * 2)


def test_the_paired_interval_has_its_nominal_coverage():
    random, missed = np.random.default_rng(0), 0
    for _ in range(1000):
        draw = random.choice(4, 200, p=[0.85, 0.06, 0.03, 0.06])
        first, second = draw <= 1, (draw == 0) | (draw == 2)
        low, high = paired_difference(first, second)
        missed += not low <= 0.03 <= high
    assert 25 < missed < 75
