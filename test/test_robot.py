"""Robots: what their YAML may say, and the YAML files that are shipped."""

from dataclasses import replace

import numpy as np
import pytest
import yaml

from nac_ros import config
from nac_ros.errors import ConfigError, UnknownName
from nac_ros.robot import RobotSpec, config_dir, list_robots, load_robot, robot_of

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
def test_every_shipped_robot_is_sound(name):
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


def test_a_robot_of_one_joint_and_no_camera_is_a_robot(tmp_path):
    path = tmp_path / "sledge.yaml"
    path.write_text(yaml.safe_dump(PLAIN))
    spec = load_robot(path)
    assert (spec.action_dim, spec.units, spec.joint_names) == (1, ("m",), ("slide",))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (changed(joints=[{**JOINT, "position": [1, 0]}]), "joint slide: position limits.*empty"),
        (changed(joints=[{**JOINT, "home": 2}]), "joint slide: home 2.0 is outside 0.0 .. 1.0"),
        (changed(joints=[{**JOINT, "velocity": 0}]), "joint slide: velocity must be above 0"),
        (changed(joints=[{**JOINT, "jerk": -1}]), "joint slide: jerk must be above 0"),
        (changed(joints=[{**JOINT, "unit": "deg"}]), "'deg' is not one of rad, m"),
        (changed(joints=[{**JOINT, "velocty": 1}]), "did you mean 'velocity'"),
        (changed(groups=[]), "name each joint in exactly one group"),
        (changed(groups=[GROUP, GROUP]), "name each joint in exactly one group"),
        (changed(groups=[{**GROUP, "joints": ["slide", "x"]}]), "exactly one group"),
        (changed(groups=[{**GROUP, "kind": "pid"}]), "'pid' is not one of jtc, forward"),
    ],
)
def test_a_robot_that_cannot_be_is_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        config.build(RobotSpec, values, "sledge.yaml")


@pytest.mark.parametrize("name", ["r2d2", "r2d2.yaml", ""])
def test_an_unknown_robot_is_refused_with_the_known_ones(name):
    with pytest.raises(UnknownName, match=r"unknown robot.*vx300s"):
        load_robot(name)


def test_an_unknown_camera_is_refused_with_those_it_has():
    with pytest.raises(UnknownName, match="vx300s has no camera 'top'; it has: scene, wrist"):
        load_robot("vx300s").camera("top")


def test_the_configuration_folder_holds_the_robots():
    assert (config_dir() / "robots/vx300s.yaml").is_file()


def test_a_robot_is_called_like_its_file(tmp_path, monkeypatch):
    (tmp_path / "robots").mkdir()
    text = (config_dir() / "robots/vx300s.yaml").read_text()
    (tmp_path / "robots/myarm.yaml").write_text(text)
    monkeypatch.setattr("nac_ros.robot.config_dir", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"names its robot 'vx300s'; call it 'myarm'"):
        load_robot("myarm")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_limits_and_rates_are_positive_numbers(value):
    spec = load_robot("vx300s")
    with pytest.raises(ConfigError, match="jerk must be above 0"):
        replace(spec.joints[0], jerk=value)
    with pytest.raises(ConfigError, match="guard_rate_hz must be above 0"):
        replace(spec, guard_rate_hz=value)


def test_what_was_learned_of_a_robot_since_a_bundle_was_made_counts():
    today = load_robot("vx300s")
    old = replace(today, body=None)
    assert robot_of(old) == today and robot_of(old).body is not None
    other = replace(old, name="sledge")
    assert robot_of(other) is other
    slower = replace(old, action_rate_hz=10.0)
    assert robot_of(slower) is slower
