"""Robot files: valid ranges, errors with file and line, and the shipped robots."""

import copy
import dataclasses
from dataclasses import replace
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import yaml
from robot_fuzz import drive

from nac_ros.core import config
from nac_ros.core.config import config_dir
from nac_ros.core.errors import ConfigError, UnknownName
from nac_ros.robot.geometry import BodySpec, BoxSpec, CapsuleSpec, LinkSpec, PointSpec
from nac_ros.robot.spec import (
    MAX_RAMP_S,
    CameraSpec,
    ControllerGroup,
    Intrinsics,
    JointSpec,
    RobotSpec,
    current_spec_of,
    list_robots,
    load_robot,
)

JOINT = {
    "name": "slide",
    "unit": "m",
    "position": [0, 1],
    "velocity": 1,
    "acceleration": 2,
    "jerk": 3,
    "home": 0.5,
}
GROUP = {"name": "arm", "kind": "jtc", "topic": "arm/joint_trajectory", "joints": ["slide"]}
PLAIN = {"name": "sledge", "joints": [JOINT], "cameras": [], "groups": [GROUP]}


def changed(**changes):
    return {**PLAIN, **changes}


@pytest.mark.parametrize("name", list_robots())
def test_every_shipped_robot_file_is_valid(name):
    spec = load_robot(name)
    assert spec.name == name
    assert spec.action_dim == len(set(spec.joint_names)) > 0
    assert (spec.position_low < spec.position_high).all()
    assert ((spec.position_low <= spec.home) & (spec.home <= spec.position_high)).all()
    assert spec.relative_mask.shape == spec.velocity_limit.shape == (spec.action_dim,)
    assert spec.guard_rate_hz >= spec.action_rate_hz > 0
    topics = [camera.topic for camera in spec.cameras] + [group.topic for group in spec.groups]
    assert len(set(topics)) == len(topics)
    assert not any(topic.startswith("/") for topic in (*topics, spec.joint_states_topic))


@pytest.mark.parametrize("name", list_robots())
def test_a_robot_written_as_yaml_is_read_back_equal(name, tmp_path):
    spec = load_robot(name)
    path = tmp_path / "copy.yaml"
    path.write_text(yaml.safe_dump(config.to_plain(spec), sort_keys=False))
    assert load_robot(path) == spec


def test_the_viperx_has_six_joints_and_a_gripper_that_stays_absolute():
    spec = load_robot("vx300s")
    assert spec.units == ("rad",) * 6 + ("m",)
    assert spec.joint_names[-1] == "gripper"
    np.testing.assert_array_equal(spec.relative_mask, [True] * 6 + [False])
    assert [camera.name for camera in spec.cameras] == ["scene", "wrist"]
    assert spec.action_rate_hz == 30.0
    assert spec.guard_rate_hz == 100.0


def test_a_robot_with_one_joint_and_no_camera_is_valid(tmp_path):
    path = tmp_path / "sledge.yaml"
    path.write_text(yaml.safe_dump(PLAIN))
    spec = load_robot(path)
    assert (spec.action_dim, spec.units, spec.joint_names) == (1, ("m",), ("slide",))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            changed(joints=[{**JOINT, "position": [1, 0]}]),
            r"joints\[0\]\.position must .*low at least 0.0001 below high, got 1.0 .. 0.0",
        ),
        (
            changed(joints=[{**JOINT, "home": 2}]),
            r"joints\[0\]\.home must .* 2.0 is outside 0.0 .. 1.0",
        ),
        (
            changed(joints=[{**JOINT, "velocity": 0}]),
            r"joints\[0\]\.velocity must be in 1e-05 .. 100 rad/s",
        ),
        (
            changed(joints=[{**JOINT, "jerk": -1}]),
            r"joints\[0\]\.jerk must be in 1e-07 .. 1e\+07 rad/s\^3.* -1",
        ),
        (changed(joints=[{**JOINT, "unit": "deg"}]), "'deg' is not one of rad, m"),
        (changed(joints=[{**JOINT, "velocty": 1}]), "did you mean 'velocity'"),
        (changed(groups=[]), "name each joint in exactly one group"),
        (changed(groups=[GROUP, GROUP]), "name each joint in exactly one group"),
        (changed(groups=[{**GROUP, "joints": ["slide", "x"]}]), "exactly one group"),
        (changed(groups=[{**GROUP, "kind": "pid"}]), "'pid' is not one of jtc, forward"),
    ],
)
def test_an_invalid_robot_is_rejected(values, message):
    with pytest.raises(ConfigError, match=message):
        config.build(RobotSpec, values, "sledge.yaml")


@pytest.mark.parametrize("name", ["r2d2", "r2d2.yaml", ""])
def test_an_unknown_robot_is_rejected_with_the_known_ones(name):
    with pytest.raises(UnknownName, match=r"unknown robot.*vx300s"):
        load_robot(name)


def test_an_unknown_camera_is_rejected_with_the_known_ones():
    with pytest.raises(UnknownName, match="vx300s has no camera 'top'; it has: scene, wrist"):
        load_robot("vx300s").camera("top")


def test_the_configuration_folder_has_the_robots():
    assert (config_dir() / "robots/vx300s.yaml").is_file()


def test_a_robot_has_the_name_of_its_file(tmp_path, monkeypatch):
    (tmp_path / "robots").mkdir()
    text = (config_dir() / "robots/vx300s.yaml").read_text()
    (tmp_path / "robots/myarm.yaml").write_text(text)
    monkeypatch.setattr("nac_ros.core.config.config_dir", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"robot name 'vx300s'; change it to 'myarm'"):
        load_robot("myarm")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_limits_and_rates_are_positive_numbers(value):
    spec = load_robot("vx300s")
    with pytest.raises(ConfigError, match=r"jerk must be in 1e-07 \.\. 1e\+07 rad/s"):
        replace(spec.joints[0], jerk=value)
    with pytest.raises(ConfigError, match=r"guard_rate_hz must be in 10 \.\. 1000 Hz"):
        replace(spec, guard_rate_hz=value)


def test_the_present_robot_file_replaces_a_recorded_robot_with_the_same_interface():
    today = load_robot("vx300s")
    old = replace(today, body=None)
    assert current_spec_of(old) == today and current_spec_of(old).body is not None
    other = replace(old, name="sledge")
    assert current_spec_of(other) is other
    slower = replace(old, action_rate_hz=10.0)
    assert current_spec_of(slower) is slower


def put(content, path, value):
    """A copy of plain content with `value` at `path`."""
    content = copy.deepcopy(content)
    owner = content
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    return content


SHIPPED = yaml.safe_load((config_dir() / "robots/vx300s.yaml").read_text())
J, C, B = ("joints", 0), ("cameras", 0), ("body",)
OUT_OF_RANGE = [
    (("name",), "vx300s\n[FATAL] x", r"name must be 1 to 64 letters.*\\n\[FATAL\] x"),
    (("joints",), [], "joints must have 1 to 64 elements, got 0"),
    (("cameras",), [SHIPPED["cameras"][0]] * 17, "cameras must have 0 to 16 elements, got 17"),
    ((*J, "name"), "waist\n[FATAL] x", r"joints\[0\].name must be 1 to 64 letters"),
    ((*J, "name"), "x" * 100_000, r"joints\[0\].name must be .*xxx\.\.\.xxx"),
    ((*J, "name"), "shoulder", r"joints\[1\]: 'shoulder' occurs twice"),
    ((*J, "position"), [-1e300, 1e300], r"position\[0\] must be in -1000 \.\. 1000 rad or m"),
    ((*J, "position"), [0.0, 1e-9], "position must be .* low at least 0.0001 below high"),
    ((*J, "position", 1), float("inf"), r"position\[1\] must be a finite number, got inf"),
    ((*J, "velocity"), 1e300, "velocity must be in 1e-05 .. 100 rad/s or m/s, got 1e.300"),
    ((*J, "acceleration"), 1e-300, "acceleration must be in 1e-06 .. 10000 rad/s"),
    ((*J, "acceleration"), 0.1, "acceleration must be at least 0.157079, got 0.1: .* 31.4 s"),
    ((*J, "jerk"), 10**400, "jerk: wanted float, got a whole number of 1329 bits"),
    ((*J, "home"), float("nan"), "home must be a finite number, got nan"),
    ((*J, "home"), 3.2, "home must be within the position limits, 3.2 is outside"),
    ((*C, "name"), "a-b", "name must be 1 to 64 letters, digits or '_'"),
    ((*C, "name"), "wrist", r"cameras\[1\]: 'wrist' occurs twice"),
    ((*C, "width"), -96, r"cameras\[0\].width must be in 1 \.\. 8192 pixels, got -96"),
    ((*C, "height"), 10**9, "height must be in 1 .. 8192 pixels"),
    ((*C, "rate_hz"), 0.0, "rate_hz must be in 0.1 .. 1000 Hz, got 0.0"),
    ((*C, "max_age_s"), 60.0, "max_age_s must be in 0.005 .. 5 s"),
    ((*C, "topic"), "wrist/image_raw", r"cameras\[1\].topic: the topic .* is used twice"),
    ((*C, "device"), "/dev/\x1b[2J", "device must be at most 256 printable characters"),
    (("joint_states_topic",), "a b//c", "joint_states_topic must be a relative ROS topic"),
    (("joint_states_topic",), "/joint_states", "must be a relative ROS topic"),
    (("joint_states_topic",), "a/1b", "no part beginning with a digit"),
    (("groups", 0, "topic"), "../x", r"groups\[0\].topic must be a relative ROS topic"),
    (("groups", 0, "name"), "", r"groups\[0\].name must be 1 to 64 printable"),
    (("groups", 0, "joints", 0), "elbow", "groups.*name each joint in exactly one group"),
    (("guard_rate_hz",), 1e9, r"guard_rate_hz must be in 10 \.\. 1000 Hz, got 1000000000"),
    (("guard_rate_hz",), 1e-3, "guard_rate_hz must be in 10"),
    (("action_rate_hz",), 120.0, "action_rate_hz must be at most guard_rate_hz, 100 Hz, got 120"),
    (("joint_states_max_age_s",), 60.0, "joint_states_max_age_s must be in 0.002 .. 2 s"),
    ((*B, "margin_m"), -5.0, r"body.margin_m must be in 0 \.\. 0\.5 m, got -5"),
    ((*B, "capsules", 0, "start", 0), float("nan"), r"start\[0\] must be a finite number"),
    ((*B, "capsules", 0, "start", 0), 1e9, r"capsules\[0\].start\[0\] must be in -10 \.\. 10 m"),
    ((*B, "capsules", 0, "radius"), float("nan"), r"capsules\[0\].radius must be a finite"),
    ((*B, "capsules", 0, "radius"), 0.0, r"radius must be in 0\.001 \.\. 2 m"),
    ((*B, "capsules", 0, "name"), "shoulder", r"capsules\[1\]: 'shoulder' occurs twice"),
    ((*B, "workspace", "high"), [float("nan")] * 3, r"workspace.high\[0\] must be a finite"),
    ((*B, "workspace", "high", 2), -0.5, r"workspace.high\[2\] must be above low"),
    (
        (*B, "links", 1, "parent"),
        "elbow",
        r"links\[1\].parent: the parent .* not one of: base, waist",
    ),
    ((*B, "links", 1, "joint"), "waist", r"links\[1\].joint: the link 'waist' is listed before"),
    ((*B, "links", 1, "kind"), "prismatic", r"links\[1\].kind: a prismatic link has a joint in m"),
    ((*B, "links", 1, "axis"), [0.0, 0.0, 0.0], r"links\[1\].axis: the axis .* length 1"),
    (
        (*B, "pairs", 0),
        ["base", "base"],
        r"pairs\[0\]: the capsule 'base' cannot collide with itself",
    ),
    ((*B, "points", 0, "xyz", 0), float("inf"), r"points\[0\].xyz\[0\] must be a finite"),
]


@pytest.mark.parametrize(("path", "value", "message"), OUT_OF_RANGE)
def test_a_field_out_of_range_is_rejected_with_file_line_field_and_value(
    path, value, message, tmp_path
):
    file = tmp_path / "arm.yaml"
    file.write_text(yaml.safe_dump(put(SHIPPED, path, value)))
    with pytest.raises(ConfigError, match=rf"^arm\.yaml, line \d+: .*{message}") as caught:
        load_robot(file)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 600


def test_the_error_has_the_line_of_the_field(tmp_path):
    text = (config_dir() / "robots/vx300s.yaml").read_text()
    lines = text.splitlines()
    number = next(n for n, line in enumerate(lines, 1) if "name: elbow," in line)
    lines[number - 1] = lines[number - 1].replace("jerk: 400.0", "jerk: -1")
    (tmp_path / "arm.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=rf"^arm\.yaml, line {number}: joints\[2\]\.jerk must"):
        load_robot(tmp_path / "arm.yaml")


@pytest.mark.parametrize(
    "cls",
    (RobotSpec, JointSpec, CameraSpec, Intrinsics, ControllerGroup)
    + (BodySpec, LinkSpec, CapsuleSpec, PointSpec, BoxSpec),
)
def test_every_field_of_a_robot_has_a_range_or_a_choice(cls):
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        parts = {part for part in get_args(hint) if part is not type(None)} or {hint}
        chosen = get_origin(hint) is Literal or hint is bool
        nested = get_origin(hint) is not tuple and all(map(dataclasses.is_dataclass, parts))
        assert field.metadata or chosen or nested, f"{cls.__name__}.{field.name} takes anything"


@pytest.mark.parametrize("guard_rate_hz", [10.0, 1000.0])
@pytest.mark.parametrize("velocity", [1e-4, 100.0])
@pytest.mark.parametrize("ramp_s", [1e-2, MAX_RAMP_S])
def test_a_robot_at_the_ends_of_the_ranges_can_be_guarded(guard_rate_hz, velocity, ramp_s):
    acceleration = velocity / ramp_s
    limits = {"velocity": velocity, "acceleration": acceleration, "jerk": acceleration / ramp_s}
    rates = {"guard_rate_hz": guard_rate_hz, "action_rate_hz": 10.0}
    drive(config.build(RobotSpec, changed(joints=[{**JOINT, **limits}], **rates)))
