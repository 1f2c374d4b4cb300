"""Configurations are built from plain values, or rejected with path, value and remedy."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nac_ros.core.config import (
    NAME,
    build,
    check_fields,
    config_dir,
    load_yaml,
    number_field,
    text_field,
    to_plain,
)
from nac_ros.core.errors import ConfigError, show_text, show_value


@dataclass(frozen=True, kw_only=True)
class Wheel:
    radius: float
    spokes: int = 12


@dataclass(frozen=True, kw_only=True)
class Cart:
    name: str
    wheels: tuple[Wheel, ...] = ()
    size: tuple[float, float] = (1.0, 2.0)
    colour: Literal["red", "blue"] = "red"
    load: float | None = None
    prices: dict[str, int] = field(default_factory=dict)
    open: bool = True

    def __post_init__(self) -> None:
        if self.load is not None and self.load < 0:
            raise ConfigError(f"load {self.load} kg must not be negative")


carts = st.builds(
    Cart,
    name=st.text(max_size=8),
    wheels=st.lists(
        st.builds(Wheel, radius=st.floats(0, 9), spokes=st.integers(0, 99)), max_size=3
    ).map(tuple),
    size=st.tuples(st.floats(0, 9), st.floats(0, 9)),
    colour=st.sampled_from(["red", "blue"]),
    load=st.none() | st.floats(0, 9),
    prices=st.dictionaries(st.text(max_size=4), st.integers(0, 9), max_size=3),
    open=st.booleans(),
)


@given(carts)
def test_plain_values_build_the_same_configuration_again(cart):
    assert build(Cart, to_plain(cart)) == cart
    assert build(Cart, yaml.safe_load(yaml.safe_dump(to_plain(cart)))) == cart


def test_integers_are_accepted_for_floats():
    assert build(Wheel, {"radius": 1}) == Wheel(radius=1.0)


def test_a_number_that_yaml_reads_as_text_is_a_number(tmp_path):
    (tmp_path / "cart.yaml").write_text("name: x\nwheels: [{radius: 1e-3}]\n")
    values = load_yaml(tmp_path / "cart.yaml")
    assert build(Cart, values, "cart").wheels[0].radius == 1e-3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "whels": []}, "unknown key 'whels'; did you mean 'wheels'"),
        ({"name": "x", "qqq": 1}, "unknown key 'qqq'; known are: colour, load, name"),
        ({"name": "x", "wheels": [{"radius": 1, "spoke": 2}]}, r"wheels\[0\].*'spokes'"),
        ({"name": "x", "wheels": [{"radius": "big"}]}, r"wheels\[0\].radius: wanted float"),
        ({"name": "x", "wheels": 3}, "cart.wheels: wanted a list, got 3"),
        ({"name": "x", "size": [1]}, "cart.size: wanted 2 values, got 1"),
        ({"name": "x", "colour": "green"}, "'green' is not one of red, blue"),
        ({"name": "x", "open": 1}, "cart.open: wanted bool, got 1"),
        ({"name": "x", "wheels": [{"radius": 1, "spokes": True}]}, "spokes: wanted int"),
        ({"name": "x", "prices": [1]}, "cart.prices: wanted a mapping"),
        ({"name": "x", "prices": {"a": "b"}}, "cart.prices.a: wanted int, got 'b'"),
        ({"name": "x", "load": -1}, "load -1.0 kg must not be negative"),
        ({}, "cart: .*name"),
        ([1], "cart: wanted a mapping, got list"),
    ],
)
def test_an_invalid_value_is_rejected_with_its_path(values, message):
    with pytest.raises(ConfigError, match=message):
        build(Cart, values, "cart")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no configuration file at .*none\.yaml"):
        load_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "not valid YAML"), ("- 1\n", "holds a list; wanted a mapping"), ("", "NoneType")],
)
def test_a_file_that_is_no_mapping_is_rejected(tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_yaml(path)


@pytest.mark.parametrize("path", sorted(config_dir().rglob("*.yaml")), ids=lambda p: p.name)
def test_every_yaml_of_the_project_is_a_mapping_without_repeated_keys(path):
    def no_repeats(loader, node, deep=False):
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(set(keys)) == len(keys), f"{path}: a key occurs twice among {keys}"
        return dict(zip(keys, (loader.construct_object(v, deep=True) for _, v in node.value)))

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("tag:yaml.org,2002:map", no_repeats)
    assert isinstance(yaml.load(path.read_text(), Loader), dict)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name: a\nname: b\n", r"key 'name' occurs twice, line 2, column 1"),
        (b"prices: {apple: 1, pear: 2, apple: 3}\n", r"key 'apple' occurs twice, line 1"),
        (b"name: [a\nopen: {", r"not valid YAML: expected ',' or '\]', but got ':', line 2"),
        (b"name: caf\xe9\n", r"cart\.yaml is no text in UTF-8"),
        (b"[" * 5000, r"cart\.yaml is nested too deeply"),
    ],
)
def test_a_file_that_is_no_plain_yaml_is_rejected_in_one_line(tmp_path, content, words):
    path = tmp_path / "cart.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value)


def test_merged_keys_are_no_duplicates(tmp_path):
    path = tmp_path / "cart.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert load_yaml(path)["b"] == {"x": 3, "y": 2}


def test_a_missing_key_and_a_key_that_is_no_text_are_named():
    with pytest.raises(ConfigError, match=r"^cart: key 'name' is missing; it has no default$"):
        build(Cart, {"open": True}, "cart")
    with pytest.raises(
        ConfigError, match=r"^cart\.prices: key False is no text; put it in quotes"
    ):
        build(Cart, {"name": "a", "prices": {False: 1}}, "cart")


def bomb(levels):
    """Nested lists of eight aliases each: 9 * 8**levels values in a few lines."""
    text = "[x, x, x, x, x, x, x, x, x]"
    for level in range(levels):
        text = f"[&a{level} {text}, {', '.join([f'*a{level}'] * 8)}]"
    return text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            f"name: x\nwheels: {bomb(9)}\n",
            "more than 20000 values after its aliases are expanded.*line 2",
        ),
        ("name: x\nwheels: &a [*a]\n", "an alias inside its own anchor.*line 2"),
        ("a: &a {x: 1}\n" + "".join(f"b{n}: {{<<: [*a, *a]}}\n" for n in range(4000)), "20000"),
        ("- 1\n" * 20_001, "more than 20000 values"),
        ("name: " + "x" * (1 << 20), "is longer than 1024 KiB"),
        ("a: " + "{a: " * 20 + "1" + "}" * 20, "nested too deeply; wanted .* at most 20 levels"),
        ("a: !!python/object/apply:os.system ['touch x']", "could not determine a constructor"),
        ("name: x\na: \x07\n", r"the character U\+0007 is not allowed, line 2"),
        ("name: x\na: 2001-99-99\n", "'2001-99-99' cannot be read as timestamp, line 2"),
        ("a: !!timestamp x", "'x' cannot be read as timestamp"),
        ("a: !!int ''", "'' cannot be read as int"),
        ("a: " + "9" * 5000, "cannot be read as int"),
        ("a: *" + "x" * 5000, "found undefined alias"),
    ],
    ids=lambda value: value[:20],
)
def test_a_file_beyond_the_limits_is_rejected_before_it_is_built(tmp_path, text, words):
    path = tmp_path / "cart.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_yaml(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_numbers_that_yaml_1_1_would_read_as_others_are_text(tmp_path):
    path = tmp_path / "cart.yaml"
    path.write_text("name: x\nwheels: [{radius: 0400}, {radius: 1:30}]\n")
    assert load_yaml(path)["wheels"] == [{"radius": "0400"}, {"radius": "1:30"}]
    with pytest.raises(ConfigError, match=r"line 2: wheels\[0\].radius: wanted float, got '0400'"):
        build(Cart, load_yaml(path), "cart.yaml")


def test_the_line_of_a_field_is_named_through_aliases_and_lists(tmp_path):
    path = tmp_path / "cart.yaml"
    path.write_text(
        "name: x\nwheels:\n  - &w\n    radius: 1\n  - *w\n  - radius: 2\n    spokes: many\n"
    )
    values = load_yaml(path)
    lines = {("name",): 1, ("wheels", 0, "radius"): 4, ("wheels", 2, "spokes"): 7, ("no",): 1}
    assert {path: values.line_of(path) for path in lines} == lines
    with pytest.raises(ConfigError, match=r"^cart.yaml, line 7: wheels\[2\].spokes: wanted int"):
        build(Cart, values, "cart.yaml")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, "1e999"])
def test_numbers_that_are_not_finite_are_rejected(value):
    with pytest.raises(ConfigError, match=r"cart.*load"):
        build(Cart, {"name": "x", "load": value}, "cart")


def test_a_value_is_shown_in_one_short_line_with_bounded_cost():
    nested = ["x"] * 9
    for _ in range(60):
        nested = [nested] * 9  # 9**61 values
    for value in (nested, {"a": nested}, "\n\x1b[2J" * 10_000, 10**4999, b"x" * 10**6):
        assert len(show_value(value)) < 130 and show_value(value).isprintable()
    assert show_value("a\nb") == r"'a\nb'" and show_value(1.5) == "1.5"
    assert show_text("a\x1bb") == r"a\x1bb" and show_text("abc" * 99, 20).startswith(
        "abcabcabcab..."
    )


def test_elements_and_texts_of_a_field_are_checked():
    @dataclass(frozen=True, kw_only=True)
    class Gear:
        teeth: tuple[int, ...] = number_field((), 1, 99, unit="teeth")
        names: tuple[str, ...] = text_field((), NAME, 0, 2)

        def __post_init__(self):
            check_fields(self)

    assert Gear(teeth=(1, 99), names=("a",)).teeth == (1, 99)
    with pytest.raises(
        ConfigError, match=r"^gear: teeth\[1\] must be in 1 \.\. 99 teeth, got 100$"
    ):
        build(Gear, {"teeth": [1, 100]}, "gear")
    with pytest.raises(ConfigError, match=r"Gear: names must have 0 to 2 elements, got 3"):
        Gear(names=("a", "b", "c"))
    with pytest.raises(ConfigError, match=r"Gear: names\[0\] must be 1 to 64 letters"):
        Gear(names=("a b",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "has no mapping `ros__parameters` below `/\\*\\*/guard`; add it"),
        ("/**/guard: {ros__parameters: 1}", "has no mapping `ros__parameters`"),
        ("/**/guard: {ros__parameters: {robot: [a]}}", "names no robot"),
        ("/**/guard: &a [*a]", "an alias inside its own anchor"),
    ],
)
def test_an_invalid_parameter_file_is_rejected(tmp_path, monkeypatch, text, words):
    graph = pytest.importorskip("nac_ros.ros.node_graph")
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes/guard.yaml").write_text(text)
    monkeypatch.setattr(graph, "config_dir", lambda: tmp_path)
    with pytest.raises(ConfigError, match=words):
        graph.default_robot("guard")
