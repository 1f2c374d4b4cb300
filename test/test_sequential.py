"""The test that may be looked at any time: its error, its power, its arithmetic."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nac_ros.core.errors import ConfigError
from nac_ros.stats.sequential import BettingTest, bet

EXPERIMENTS, TRIALS = 2000, 200


def rejections(first_rates, second_rates, shared, seed):
    """Share of experiments of TRIALS pairs that ever reject at .05 when looked at after each;
    shared: share of scenes on which both methods meet the same luck."""
    random = np.random.default_rng(seed)
    count = 0
    for _ in range(EXPERIMENTS):
        luck = random.random((2, TRIALS))
        luck[1] = np.where(random.random(TRIALS) < shared, luck[0], luck[1])
        pairs = zip(luck[0] < first_rates, luck[1] < second_rates)
        count += bet((bool(a), bool(b)) for a, b in pairs).reached(0.05) is not None
    return count / EXPERIMENTS


@pytest.mark.parametrize(("rate", "shared"), [(0.5, 0.0), (0.8, 0.0), (0.5, 0.6)])
def test_equal_methods_are_told_apart_by_error_in_at_most_6_percent_of_2000_experiments(
    rate, shared
):
    assert rejections(rate, rate, shared, seed=7) <= 0.06


def test_rates_that_drift_together_cause_no_error():
    drifting = np.linspace(0.2, 0.9, TRIALS)
    assert rejections(drifting, drifting, 0.0, seed=8) <= 0.06


def test_clearly_different_methods_are_told_apart_long_before_the_last_trial():
    random = np.random.default_rng(9)
    ends = []
    for _ in range(200):
        first, second = random.random(TRIALS) < 0.9, random.random(TRIALS) < 0.5
        made = bet((bool(a), bool(b)) for a, b in zip(first, second))
        assert made.gained > made.lost
        ends.append(made.reached(0.05) or TRIALS + 1)
    assert np.mean(np.array(ends) <= TRIALS) > 0.99
    assert np.median(ends) < TRIALS / 4


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_the_stake_is_the_likelihood_of_all_chances_with_equal_weight_over_a_fair_coins(pairs):
    made = bet(pairs)
    n = made.gained + made.lost
    last = made.stakes[-1] if pairs else 1.0
    assert last == pytest.approx(2**n / ((n + 1) * comb(n, made.gained)), rel=1e-9)
    assert len(made.stakes) == len(pairs)
    assert made.p == min(1.0, 1 / max([1.0, *made.stakes]))


@given(st.integers(0, 30), st.integers(0, 30))
def test_under_a_fair_coin_the_next_stake_is_the_present_one_on_average(gained, lost):
    pairs = [(True, False)] * gained + [(False, True)] * lost
    here = bet(pairs).stakes[-1] if pairs else 1.0
    after = [bet([*pairs, one]).stakes[-1] for one in ((True, False), (False, True))]
    assert np.mean(after) == pytest.approx(here)


def test_scenes_on_which_both_or_none_succeed_change_nothing():
    made = BettingTest()
    assert [made.add(True, False), made.add(True, True), made.add(False, False)] == [1.0] * 3
    assert made.add(True, False) == pytest.approx(4 / 3)


def test_the_p_never_rises_and_a_nonsense_level_is_refused():
    made = bet([(True, False)] * 9 + [(False, True)] * 9)
    assert made.p == pytest.approx(1 / max(made.stakes)) and made.stakes[-1] < max(made.stakes)
    assert made.reached(0.05) == 8  # 2^8 / 9 = 28 is the first beyond 20; 2^7 / 8 = 16 is not
    assert made.reached(0.01) is None
    with pytest.raises(ConfigError, match="alpha must lie between 0 and 1, got 5"):
        made.reached(5)
