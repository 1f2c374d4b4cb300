"""Tests of success counts against scipy, statsmodels where it is, and published results."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import barnard_exact, fisher_exact, hypergeom

from nac_ros.core.errors import ConfigError
from nac_ros.stats.hypothesis_tests import (
    Count,
    Pairs,
    barnard,
    discordant,
    holm,
    letters,
    mcnemar,
    stratified,
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
    return [(Count(*first), Count(*second)) for first, second in rows]


@pytest.mark.parametrize(
    ("first", "second"), [((9, 10), (3, 10)), ((8, 20), (14, 17)), ((1, 5), (5, 5))]
)
def test_barnard_has_successes_and_failures_where_scipy_wants_them(first, second):
    table = [[first[0], second[0]], [first[1] - first[0], second[1] - second[0]]]
    expected = barnard_exact(table).pvalue
    assert barnard(Count(*first), Count(*second)) == pytest.approx(expected)
    assert barnard(Count(*second), Count(*first)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("won", [0, 10])
def test_methods_that_never_or_always_succeed_are_not_different(won):
    assert barnard(Count(won, 10), Count(won, 10)) == 1.0
    assert stratified([(Count(won, 10), Count(won, 10))]) == pytest.approx(1.0)


def test_holm_is_the_step_down_rule_worked_by_hand():
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(found) == ["a", "b", "c", "d"] and holm({}) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_holm_rejects_what_its_definition_rejects(p_values, alpha):
    found = holm(dict(enumerate(p_values)))
    ranked = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, index in enumerate(ranked):
        if (len(ranked) - rank) * p_values[index] > alpha:
            break
        assert found[index] <= alpha
    else:
        return
    assert all(found[i] > alpha for i in ranked[rank:])


def test_the_pooled_test_gives_the_published_p_of_the_rabbits():
    assert stratified(strata(RABBITS)) == pytest.approx(0.03994, abs=5e-6)


@given(st.integers(1, 25), st.integers(1, 25), st.data())
@settings(max_examples=60)
def test_with_one_task_the_pooled_test_is_fishers(n1, n2, data):
    k1, k2 = data.draw(st.integers(0, n1)), data.draw(st.integers(0, n2))
    expected = fisher_exact([[k1, n1 - k1], [k2, n2 - k2]]).pvalue
    assert stratified([(Count(k1, n1), Count(k2, n2))]) == pytest.approx(expected, rel=1e-6)


def test_the_pooled_test_counts_every_result_no_likelier_than_the_observed_one():
    rows = strata([((3, 4), (1, 4)), ((2, 3), (1, 5))])
    margins = [(a.trials + b.trials, a.successes + b.successes, a.trials) for a, b in rows]
    chances: dict[int, float] = {}
    for counts in product(range(5), range(4)):
        chance = np.prod([hypergeom.pmf(k, *m) for k, m in zip(counts, margins)])
        chances[sum(counts)] = chances.get(sum(counts), 0.0) + chance
    expected = sum(p for p in chances.values() if p <= chances[5] * (1 + 1e-9))
    assert stratified(rows) == pytest.approx(expected)


def test_the_pooled_test_finds_what_no_single_task_shows():
    rows = strata([((7, 10), (4, 10))] * 8)
    assert min(barnard(*row) for row in rows) > 0.15
    assert stratified(rows) < 0.01
    with pytest.raises(ConfigError, match="at least one task"):
        stratified([])


def test_tests_agree_with_statsmodels():
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p_values = [0.01, 0.04, 0.03, 0.005, 0.2, 0.2]
    _, expected, _, _ = multitest.multipletests(p_values, method="holm")
    np.testing.assert_allclose(list(holm(dict(enumerate(p_values))).values()), expected)
    rows = strata(
        [((600, 1000), (580, 1000)), ((700, 1200), (655, 1200)), ((300, 900), (290, 950))]
    )
    stacked = [
        np.array([[a.successes, a.trials - a.successes], [b.successes, b.trials - b.successes]])
        for a, b in rows
    ]
    large = tables.StratifiedTable(stacked).test_null_odds(correction=True).pvalue
    assert stratified(rows) == pytest.approx(large, rel=0.02)  # normal, so for large counts
    for gained, lost in ((12, 3), (5, 5), (1, 7)):
        exact = tables.mcnemar([[20, gained], [lost, 8]], exact=True).pvalue
        assert mcnemar(Pairs(gained, lost)) == pytest.approx(exact)


def test_mcnemar_counts_scenes_on_which_one_method_alone_succeeded():
    first = [True, True, True, True, True, True, False, True]
    second = [True, False, False, False, False, False, False, False]
    pairs = discordant(first, second)
    assert pairs == (6, 0)
    assert mcnemar(pairs) == pytest.approx(2 * 0.5**6)
    assert mcnemar(Pairs(0, 0)) == 1.0 and mcnemar(Pairs(4, 4)) == 1.0
    with pytest.raises(ConfigError, match="3 and 2 trials are no pairs"):
        discordant([True] * 3, [True] * 2)


def test_letters_are_those_of_a_chain_worked_by_hand():
    different = [frozenset(pair) for pair in (("oat", "bin"), ("nac", "bin"), ("nac", "fast"))]
    assert letters(["nac", "oat", "fast", "bin"], different) == {
        "nac": "a", "oat": "ab", "fast": "bc", "bin": "c",
    }  # fmt: skip
    assert letters(["nac", "oat"], []) == {"nac": "a", "oat": "a"}


@given(st.integers(1, 7), st.data())
def test_two_methods_share_a_letter_exactly_if_they_do_not_differ(n, data):
    names = [f"m{i}" for i in range(n)]
    pairs = [frozenset(pair) for pair in combinations(names, 2)]
    different = {pair for pair in pairs if data.draw(st.booleans())}
    shown = letters(names, different)
    assert all(shown.values()) and "a" in shown[names[0]]
    for pair in pairs:
        first, second = (set(shown[name]) for name in pair)
        assert bool(first & second) == (pair not in different)


@pytest.mark.parametrize("bad", [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(bad):
    with pytest.raises(ConfigError, match=f"{bad[0]} successes of {bad[1]} trials is no result"):
        barnard(Count(*bad), Count(1, 2))
