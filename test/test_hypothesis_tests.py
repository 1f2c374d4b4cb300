"""Hypothesis tests against scipy, statsmodels (if installed) and published results."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import barnard_exact, fisher_exact, hypergeom

from nac_ros.core.errors import ConfigError
from nac_ros.stats.hypothesis_tests import (
    DiscordantPairs,
    SuccessCount,
    barnard_test,
    compact_letter_display,
    count_discordant,
    holm_adjust,
    mcnemar_test,
    stratified_test,
)

# Rabbits that were given penicillin at once or after 1.5 h, (cured, treated) at five doses: the
# example of R's mantelhaen.test, which finds p = 0.03994 (exact = TRUE)
RABBITS = [
    ((0, 6), (0, 5)),
    ((3, 6), (0, 6)),
    ((6, 6), (2, 6)),
    ((5, 6), (6, 6)),
    ((2, 2), (5, 5)),
]


def strata(rows):
    return [(SuccessCount(*first), SuccessCount(*second)) for first, second in rows]


@pytest.mark.parametrize(
    ("first", "second"), [((9, 10), (3, 10)), ((8, 20), (14, 17)), ((1, 5), (5, 5))]
)
def test_barnard_matches_scipy_and_is_symmetric(first, second):
    table = [[first[0], second[0]], [first[1] - first[0], second[1] - second[0]]]
    expected = barnard_exact(table).pvalue
    assert barnard_test(SuccessCount(*first), SuccessCount(*second)) == pytest.approx(expected)
    assert barnard_test(SuccessCount(*second), SuccessCount(*first)) == pytest.approx(
        expected, rel=1e-3
    )


@pytest.mark.parametrize("successes", [0, 10])
def test_p_is_1_if_both_methods_always_fail_or_always_succeed(successes):
    assert barnard_test(SuccessCount(successes, 10), SuccessCount(successes, 10)) == 1.0
    assert stratified_test(
        [(SuccessCount(successes, 10), SuccessCount(successes, 10))]
    ) == pytest.approx(1.0)


def test_holm_matches_a_hand_computed_example():
    found = holm_adjust({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(found) == ["a", "b", "c", "d"] and holm_adjust({}) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_holm_rejects_the_same_hypotheses_as_its_definition(p_values, alpha):
    found = holm_adjust(dict(enumerate(p_values)))
    ranked = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, index in enumerate(ranked):
        if (len(ranked) - rank) * p_values[index] > alpha:
            break
        assert found[index] <= alpha
    else:
        return
    assert all(found[i] > alpha for i in ranked[rank:])


def test_the_stratified_test_matches_the_published_p_of_the_rabbit_example():
    assert stratified_test(strata(RABBITS)) == pytest.approx(0.03994, abs=5e-6)


@given(st.integers(1, 25), st.integers(1, 25), st.data())
@settings(max_examples=60)
def test_with_one_task_the_stratified_test_equals_fishers_exact_test(n1, n2, data):
    k1, k2 = data.draw(st.integers(0, n1)), data.draw(st.integers(0, n2))
    expected = fisher_exact([[k1, n1 - k1], [k2, n2 - k2]]).pvalue
    assert stratified_test([(SuccessCount(k1, n1), SuccessCount(k2, n2))]) == pytest.approx(
        expected, rel=1e-6
    )


def test_the_stratified_test_sums_all_results_no_likelier_than_the_observed_one():
    rows = strata([((3, 4), (1, 4)), ((2, 3), (1, 5))])
    margins = [(a.trials + b.trials, a.successes + b.successes, a.trials) for a, b in rows]
    chances: dict[int, float] = {}
    for counts in product(range(5), range(4)):
        chance = np.prod([hypergeom.pmf(k, *m) for k, m in zip(counts, margins)])
        chances[sum(counts)] = chances.get(sum(counts), 0.0) + chance
    expected = sum(p for p in chances.values() if p <= chances[5] * (1 + 1e-9))
    assert stratified_test(rows) == pytest.approx(expected)


def test_the_stratified_test_detects_a_difference_that_no_single_task_shows():
    rows = strata([((7, 10), (4, 10))] * 8)
    assert min(barnard_test(*row) for row in rows) > 0.15
    assert stratified_test(rows) < 0.01
    with pytest.raises(ConfigError, match="at least one task"):
        stratified_test([])


def test_tests_agree_with_statsmodels():
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p_values = [0.01, 0.04, 0.03, 0.005, 0.2, 0.2]
    _, expected, _, _ = multitest.multipletests(p_values, method="holm")
    np.testing.assert_allclose(list(holm_adjust(dict(enumerate(p_values))).values()), expected)
    rows = strata(
        [((600, 1000), (580, 1000)), ((700, 1200), (655, 1200)), ((300, 900), (290, 950))]
    )
    stacked = [
        np.array([[a.successes, a.trials - a.successes], [b.successes, b.trials - b.successes]])
        for a, b in rows
    ]
    large = tables.StratifiedTable(stacked).test_null_odds(correction=True).pvalue
    assert stratified_test(rows) == pytest.approx(large, rel=0.02)  # normal, so for large counts
    for first_only, second_only in ((12, 3), (5, 5), (1, 7)):
        exact = tables.mcnemar([[20, first_only], [second_only, 8]], exact=True).pvalue
        assert mcnemar_test(DiscordantPairs(first_only, second_only)) == pytest.approx(exact)


def test_mcnemar_counts_scenes_on_which_exactly_one_method_succeeded():
    first = [True, True, True, True, True, True, False, True]
    second = [True, False, False, False, False, False, False, False]
    pairs = count_discordant(first, second)
    assert pairs == (6, 0)
    assert mcnemar_test(pairs) == pytest.approx(2 * 0.5**6)
    assert (
        mcnemar_test(DiscordantPairs(0, 0)) == 1.0 and mcnemar_test(DiscordantPairs(4, 4)) == 1.0
    )
    with pytest.raises(ConfigError, match="3 and 2 trials are no pairs"):
        count_discordant([True] * 3, [True] * 2)


def test_letters_match_a_hand_computed_example():
    different = [frozenset(pair) for pair in (("oat", "bin"), ("nac", "bin"), ("nac", "fast"))]
    letters = compact_letter_display(["nac", "oat", "fast", "bin"], different)
    assert letters == {"nac": "a", "oat": "ab", "fast": "bc", "bin": "c"}
    assert compact_letter_display(["nac", "oat"], []) == {"nac": "a", "oat": "a"}


@given(st.integers(1, 7), st.data())
def test_two_methods_share_a_letter_exactly_if_they_do_not_differ(n, data):
    names = [f"m{i}" for i in range(n)]
    pairs = [frozenset(pair) for pair in combinations(names, 2)]
    different = {pair for pair in pairs if data.draw(st.booleans())}
    shown = compact_letter_display(names, different)
    assert all(shown.values()) and "a" in shown[names[0]]
    for pair in pairs:
        first, second = (set(shown[name]) for name in pair)
        assert bool(first & second) == (pair not in different)


@pytest.mark.parametrize("bad", [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_rejected(bad):
    with pytest.raises(ConfigError, match=f"{bad[0]} successes of {bad[1]} trials is no result"):
        barnard_test(SuccessCount(*bad), SuccessCount(1, 2))
