"""Sequential test by betting: error rate, power and arithmetic."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nac_ros.core.errors import ConfigError
from nac_ros.stats.sequential import BettingTest, run_betting_test

EXPERIMENTS, TRIALS = 2000, 200


def rejections(first_rates, second_rates, shared, seed):
    """Share of experiments of TRIALS pairs that ever reject at .05, evaluated after each pair.

    shared: share of scenes on which both methods draw the same random number
    """
    random = np.random.default_rng(seed)
    count = 0
    for _ in range(EXPERIMENTS):
        luck = random.random((2, TRIALS))
        luck[1] = np.where(random.random(TRIALS) < shared, luck[0], luck[1])
        pairs = zip(luck[0] < first_rates, luck[1] < second_rates)
        count += (
            run_betting_test((bool(a), bool(b)) for a, b in pairs).rejected_after(0.05) is not None
        )
    return count / EXPERIMENTS


@pytest.mark.parametrize(("rate", "shared"), [(0.5, 0.0), (0.8, 0.0), (0.5, 0.6)])
def test_equal_methods_are_rejected_in_at_most_6_percent_of_2000_experiments(rate, shared):
    assert rejections(rate, rate, shared, seed=7) <= 0.06


def test_rates_that_drift_together_are_not_rejected():
    drifting = np.linspace(0.2, 0.9, TRIALS)
    assert rejections(drifting, drifting, 0.0, seed=8) <= 0.06


def test_clearly_different_methods_are_rejected_long_before_the_last_trial():
    random = np.random.default_rng(9)
    ends = []
    for _ in range(200):
        first, second = random.random(TRIALS) < 0.9, random.random(TRIALS) < 0.5
        test = run_betting_test((bool(a), bool(b)) for a, b in zip(first, second))
        assert test.first_only > test.second_only
        ends.append(test.rejected_after(0.05) or TRIALS + 1)
    assert np.mean(np.array(ends) <= TRIALS) > 0.99
    assert np.median(ends) < TRIALS / 4


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_the_wealth_is_the_likelihood_ratio_of_the_uniform_mixture_to_a_fair_coin(pairs):
    test = run_betting_test(pairs)
    n = test.first_only + test.second_only
    last = test.wealth[-1] if pairs else 1.0
    assert last == pytest.approx(2**n / ((n + 1) * comb(n, test.first_only)), rel=1e-9)
    assert len(test.wealth) == len(pairs)
    assert test.p == min(1.0, 1 / max([1.0, *test.wealth]))


@given(st.integers(0, 30), st.integers(0, 30))
def test_under_a_fair_coin_the_expected_next_wealth_is_the_present_one(n_first, n_second):
    pairs = [(True, False)] * n_first + [(False, True)] * n_second
    here = run_betting_test(pairs).wealth[-1] if pairs else 1.0
    after = [run_betting_test([*pairs, one]).wealth[-1] for one in ((True, False), (False, True))]
    assert np.mean(after) == pytest.approx(here)


def test_scenes_with_equal_outcomes_do_not_change_the_wealth():
    test = BettingTest()
    assert [test.add(True, False), test.add(True, True), test.add(False, False)] == [1.0] * 3
    assert test.add(True, False) == pytest.approx(4 / 3)


def test_p_never_rises_and_an_invalid_level_is_rejected():
    test = run_betting_test([(True, False)] * 9 + [(False, True)] * 9)
    assert test.p == pytest.approx(1 / max(test.wealth)) and test.wealth[-1] < max(test.wealth)
    assert (
        test.rejected_after(0.05) == 8
    )  # 2^8 / 9 = 28 is the first beyond 20; 2^7 / 8 = 16 is not
    assert test.rejected_after(0.01) is None
    with pytest.raises(ConfigError, match="alpha must lie between 0 and 1, got 5"):
        test.rejected_after(5)
