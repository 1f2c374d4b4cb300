"""Datasets can be joined only if joints, order, units and rates are the same."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.compatibility import check_compatible, same_rate

JOINTS = ("waist", "elbow", "gripper")


def description(root: str, **changes) -> SimpleNamespace:
    facts = {"names": JOINTS, "state_names": JOINTS, "units": ("rad", "rad", "m"), "fps": 30}
    return SimpleNamespace(root=Path(root), **(facts | changes))


def test_equal_datasets_are_compatible():
    check_compatible([])
    check_compatible([description("a")])
    check_compatible([description("a"), description("b"), description("c", fps=30.0)])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"names": JOINTS[::-1]}, r"c has action dimensions \(gripper, elbow, waist\).*one order"),
        ({"state_names": JOINTS[::-1]}, r"c has state dimensions \(gripper.*one order"),
        ({"names": JOINTS[:2], "units": ("rad",) * 2}, r"\(waist, elbow\).*--action-key"),
        ({"units": ("deg", "deg", "m")}, r"c has units \(deg, deg, m\).*convert one"),
        ({"units": ("", "", "")}, r"units \(unknown, unknown, unknown\).*meta/info\.json"),
        ({"names": ("action.0", "action.1", "action.2")}, "add the names"),
        ({"fps": 10}, "c has a rate of 10 Hz, a has a rate of 30 Hz.*resample"),
        ({"fps": 29.97}, "c has a rate of 29.97 Hz"),
        ({"fps": 0}, "c has no known rate"),
    ],
)
def test_a_difference_is_reported_with_value_and_remedy(changes, sentence):
    sets = [description("a"), description("b"), description("c", **changes)]
    with pytest.raises(DatasetError, match=sentence) as caught:
        check_compatible(sets)
    assert "\n" not in str(caught.value)


def test_a_given_rate_replaces_the_rates_of_the_datasets():
    check_compatible([description("a", fps=0), description("b", fps=50)], rate_hz=20)


def test_dimensions_without_names_are_compatible():
    a, b = (tuple(f"{key}.{i}" for i in range(3)) for key in ("action", "actions"))
    check_compatible([description("a", names=a), description("b", names=b)])


def test_rounded_fractional_rates_are_equal():
    assert same_rate(29.97, 30000 / 1001) and not same_rate(29.97, 30)
