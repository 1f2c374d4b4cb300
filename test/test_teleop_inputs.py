"""Teleoperation inputs without ROS: mappings, keyboard on a real terminal, leader, clutch."""

import os
import pty
import termios
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nac_ros.core import config
from nac_ros.core.config import config_dir
from nac_ros.core.errors import BadInput, ConfigError, UnknownName
from nac_ros.robot.spec import load_robot
from nac_ros.teleop.clutch import CONFIRM_S, ButtonDebouncer, Clutch, GuardStatus
from nac_ros.teleop.input_mapping import InputMapping, LeaderJoint, load_input_mapping
from nac_ros.teleop.keyboard import CLUTCH_S, HELD_S, Keyboard
from nac_ros.teleop.leader_arm import LeaderArm

SPEC = load_robot("vx300s")
MAPPINGS = sorted(path.stem for path in (config_dir() / "teleop").glob("*.yaml"))
PAD = load_input_mapping("gamepad")


def pad(axes=None, *buttons):
    """Axes and buttons of a gamepad with some of them moved."""
    values, down = np.zeros(6), np.zeros(15, int)
    for axis, value in (axes or {}).items():
        values[axis] = value
    down[list(buttons)] = 1
    return values, down


@pytest.mark.parametrize("name", MAPPINGS)
def test_every_shipped_mapping_loads_and_commands_nothing_at_rest(name):
    mapping = load_input_mapping(name)
    operator = mapping.read(np.zeros(mapping.n_axes), np.zeros(mapping.n_buttons, int))
    assert not operator.twist.any() and not operator.joints.any() and operator.gripper == 0
    assert not operator.clutch and not operator.pressed
    assert "stop" in mapping.buttons or name == "spacemouse"


@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6))
def test_axes_become_shares_of_full_speed_and_the_dead_zone_reads_zero(axes):
    operator = PAD.read(axes, np.zeros(15, int))
    assert (np.abs(operator.twist) <= 1).all() and (np.abs(operator.joints) <= 1).all()
    for axis, direction in ((1, 0), (0, 1), (3, 2), (2, 5)):
        value = axes[axis]
        if abs(value) <= PAD.dead_zone:
            assert operator.twist[direction] == 0
        elif abs(value) > PAD.dead_zone + 1e-6:
            assert np.sign(operator.twist[direction]) == np.sign(value)


def test_sticks_of_a_gamepad_move_the_tool_and_buttons_are_actions():
    operator = PAD.read(*pad({1: 1.0, 3: -1.0}, 10, 2, 3))
    np.testing.assert_allclose(operator.twist, [1, 0, -1, 0, 0, 0])
    assert operator.clutch and operator.gripper == 1 and operator.pressed == {"success"}


@pytest.mark.parametrize(
    ("axes", "buttons", "text"),
    [
        (np.zeros(2), np.zeros(15), "has 2 axes, the mapping reads 4"),
        (np.zeros(6), np.zeros(3), "has 3 buttons, the mapping reads 15"),
        ([0, np.nan, 0, 0, 0, 0], np.zeros(15), "axis 1 is not finite"),
        ([0, 0, 0, 0, 0, np.inf], np.zeros(15), "axis 5 is not finite"),
    ],
)
def test_a_message_that_does_not_fit_the_mapping_is_rejected_in_one_sentence(axes, buttons, text):
    with pytest.raises(BadInput, match=text):
        PAD.read(axes, buttons)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"buttons": {"strat": 1}}, "no button for 'strat'; known are: start"),
        ({"buttons": {"start": -1}}, "counted from 0"),
        ({"axes": {"up": {"axis": 1}}}, "no axis for 'up'; known are: x, y"),
        ({"axes": {"x": {"axs": 1}}}, "unknown key 'axs'; did you mean 'axis'"),
        ({"dead_zone": 1.0}, "dead_zone must be in 0 .. 0.9"),
        ({"clutch": -1}, r"clutch must be in 0 \.\. 999, got -1"),
        ({"leader": {"gripper": {"name": "g", "scale": float("nan")}}}, "scale must be a finite"),
        ({"leader": {"gripper": {"name": "g\n", "scale": 1.0}}}, "name must be 1 to 64"),
        ({"axes": {"x": {"axis": 10**9}}}, r"axes.x.axis must be in -1 \.\. 999"),
        ({"source": "keyboard"}, "names no `keys`"),
        ({"keys": {"w": {"axis": 1, "button": 2}}}, "either `axis` or `button`"),
        ({"leader": {"gripper": {"name": "g", "range": [1, 1]}}}, "range .* is empty"),
    ],
)
def test_an_invalid_mapping_is_rejected(values, text):
    with pytest.raises(ConfigError, match=text):
        config.build(InputMapping, {"source": "joy", "clutch": 0, **values}, "pad.yaml")


def test_an_unknown_mapping_is_rejected_with_the_known_ones():
    with pytest.raises(UnknownName, match="gamepad, keyboard, leader, spacemouse"):
        load_input_mapping("wheel")


JOINTS = {
    "waist": LeaderJoint(name="j1", scale=-1.0, offset=0.1),
    "gripper": LeaderJoint(name="jaw", range=(1.0, 0.0)),
}
LED = ("j1", *SPEC.joint_names[1:6], "jaw")


def test_leader_joints_are_scaled_and_shifted_and_the_gripper_range_is_mapped():
    leader = LeaderArm(SPEC, JOINTS)
    values = [0.3, 0.1, 0.2, 0.3, 0.4, 0.5, 0.25]
    wanted = [-0.2, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75 * 0.072]
    np.testing.assert_allclose(leader.read(LED, values), wanted)
    np.testing.assert_allclose(leader.read(LED[::-1], values[::-1]), wanted)
    assert leader.has_range.tolist() == [False] * 6 + [True]


@pytest.mark.parametrize(
    ("names", "values", "text"),
    [
        (SPEC.joint_names, np.zeros(7), "lacks j1, jaw; it holds waist"),
        (LED, [0, 0, np.nan, 0, 0, 0, 0], "joint elbow is not finite"),
        ((), (), "holds no joint"),
    ],
)
def test_a_joint_state_that_does_not_fit_the_leader_is_rejected(names, values, text):
    with pytest.raises(BadInput, match=text):
        LeaderArm(SPEC, JOINTS).read(names, values)


def test_a_mapping_of_a_joint_that_the_robot_lacks_is_rejected():
    with pytest.raises(ConfigError, match="no joint 'knee'; it has: waist"):
        LeaderArm(SPEC, {"knee": LeaderJoint(name="knee")})


@pytest.fixture
def terminal():
    """File descriptors of a real terminal: the keyboard end and the program end."""
    typed, read = pty.openpty()
    yield typed, read
    for handle in (typed, read):
        try:
            os.close(handle)
        except OSError:  # closed by the test
            continue


def test_keys_act_as_axes_and_buttons_while_they_repeat(terminal):
    typed, read = terminal
    mapping = load_input_mapping("keyboard")
    with closing(Keyboard(mapping, read)) as keyboard:
        os.write(typed, b" ws1")
        operator = mapping.read(*keyboard.poll(10.0))
        assert operator.clutch and operator.twist[0] == 0 and operator.pressed == {"start"}
        os.write(typed, b"w")
        assert mapping.read(*keyboard.poll(11.0)).twist[0] == 1
        operator = mapping.read(*keyboard.poll(11.0 + HELD_S + 0.01))
        assert operator.clutch and not operator.twist.any() and not operator.pressed
        assert mapping.read(*keyboard.poll(11.0 + CLUTCH_S)).clutch
        assert not mapping.read(*keyboard.poll(11.1 + CLUTCH_S)).clutch


def test_a_motion_key_does_not_engage_the_clutch(terminal):
    typed, read = terminal
    mapping = load_input_mapping("keyboard")
    with closing(Keyboard(mapping, read)) as keyboard:
        os.write(typed, b"w")
        assert not mapping.read(*keyboard.poll(1.0)).clutch


@pytest.mark.parametrize("key", [b"q", b"\n", b"\x1b[A"])
def test_any_other_key_releases_the_clutch_at_once(terminal, key):
    typed, read = terminal
    mapping = load_input_mapping("keyboard")
    with closing(Keyboard(mapping, read)) as keyboard:
        os.write(typed, b" w")
        assert mapping.read(*keyboard.poll(1.0)).clutch
        os.write(typed, key)
        operator = mapping.read(*keyboard.poll(1.1))
        assert not operator.clutch and not operator.twist.any()


def test_the_mode_of_the_terminal_is_restored_after_an_error(terminal):
    _, read = terminal
    before = termios.tcgetattr(read)

    def fail():
        with closing(Keyboard(load_input_mapping("keyboard"), read)) as keyboard:
            assert termios.tcgetattr(read) != before and keyboard.poll(0.0) is not None
            raise BadInput("an error")

    with pytest.raises(BadInput):
        fail()
    assert termios.tcgetattr(read) == before


def test_a_closed_terminal_is_lost_and_a_file_is_rejected(terminal, tmp_path):
    typed, read = terminal
    mapping = load_input_mapping("keyboard")
    keyboard = Keyboard(mapping, read)
    os.close(typed)
    assert keyboard.poll(0.0) is None and keyboard.lost
    keyboard.close()
    with (tmp_path / "x").open("w") as file, pytest.raises(ConfigError, match="needs a terminal"):
        Keyboard(mapping, file.fileno())


def test_a_press_counts_once_although_the_contact_bounces():
    debouncer, seen = ButtonDebouncer(0.05), []
    for now, down in ((0, 0), (1, 1), (1.01, 0), (1.02, 1), (1.03, 0), (1.5, 0), (2, 1), (2.1, 1)):
        seen += debouncer.update(now, {"start"} if down else set(), ("start", "stop"))
    assert seen == ["start", "start"]


def test_a_button_that_is_down_at_the_start_does_not_count_as_pressed():
    debouncer = ButtonDebouncer(0.05)
    assert debouncer.update(0.0, {"start"}, ("start",)) == []
    assert debouncer.update(1.0, set(), ("start",)) == []
    assert debouncer.update(2.0, {"start"}, ("start",)) == ["start"]


class ClutchBench:
    """A clutch and a simulated guard, stepped every 10 ms."""

    def __init__(self, mode="policy", mode_after_release="previous"):
        self.clutch, self.now = Clutch(mode_after_release), 100.0
        self.mode, self.fault, self.obeys, self.asked = mode, "", True, []
        self.settling = False

    def run(self, held, problem="", steps=3):
        for _ in range(steps):
            self.now += 0.01
            status = GuardStatus(self.now, self.mode, self.fault, "", self.settling)
            if asked := self.clutch.update(self.now, held, problem, status):
                self.asked.append(asked)
                self.mode = asked if self.obeys else self.mode
        return self.clutch


@pytest.mark.parametrize(
    ("mode", "mode_after_release", "after"),
    [
        ("policy", "previous", "policy"),
        ("hold", "previous", "hold"),
        ("policy", "hold", "hold"),
        ("teleop", "previous", "hold"),
    ],
)
def test_the_clutch_takes_control_and_returns_it(mode, mode_after_release, after):
    bench = ClutchBench(mode, mode_after_release)
    bench.run(held=False)
    assert bench.run(held=True).confirmed and bench.mode == "teleop"
    assert not bench.run(held=False).engaged
    assert bench.asked == ["teleop", after] and bench.mode == after


def test_teleoperation_is_confirmed_only_after_the_guard_has_settled():
    bench = ClutchBench("hold")
    bench.run(held=False)
    bench.settling = True
    assert bench.run(held=True, steps=200).engaged and not bench.clutch.confirmed
    bench.settling = False
    assert bench.run(held=True).confirmed and bench.asked == ["teleop"]


def test_a_clutch_that_is_held_at_the_start_does_not_engage():
    bench = ClutchBench()
    assert not bench.run(held=True, steps=50).engaged and not bench.asked
    assert "release the clutch" in bench.clutch.reason
    assert not bench.run(held=True, problem="no valid message on leader yet").engaged
    assert bench.clutch.reason == "no valid message on leader yet"
    assert not bench.run(held=True).engaged and "release the clutch" in bench.clutch.reason
    bench.run(held=False)
    assert bench.run(held=True).engaged


def test_lost_input_leaves_the_guard_in_hold_and_needs_a_new_press():
    bench = ClutchBench()
    bench.run(held=False)
    bench.run(held=True)
    assert not bench.run(held=True, problem="no valid message on joy for 0.1 s").engaged
    assert bench.clutch.reason.startswith("no valid message on joy for 0.1 s; release the clutch")
    assert not bench.run(held=True).engaged and bench.asked == ["teleop"]
    bench.run(held=False)
    assert bench.asked == ["teleop", "hold"], "the policy does not resume"
    assert bench.run(held=True).engaged


def test_the_clutch_overrides_a_policy_but_not_hold():
    bench = ClutchBench("hold")
    bench.run(held=False)
    bench.run(held=True)
    bench.mode = "policy"
    assert bench.run(held=True).engaged and bench.mode == "teleop"
    bench.mode = "hold"
    assert (
        not bench.run(held=True).engaged and "in mode hold, not in teleop" in bench.clutch.reason
    )
    assert bench.asked == ["teleop", "teleop"]


def test_a_guard_fault_prevents_a_takeover_and_ends_one():
    bench = ClutchBench()
    bench.fault = "stopped"
    bench.run(held=False)
    assert not bench.run(held=True).engaged and "call guard/reset first" in bench.clutch.reason
    bench.run(held=False)
    bench.fault = ""
    assert bench.run(held=True).engaged
    bench.fault = "heartbeat_lost"
    assert not bench.run(held=True).engaged and "heartbeat_lost" in bench.clutch.reason


def test_a_guard_that_does_not_switch_or_is_silent_is_reported():
    bench = ClutchBench()
    bench.run(held=False)
    bench.obeys = False
    assert bench.run(held=True).engaged and not bench.clutch.confirmed
    assert not bench.run(held=True, steps=round(CONFIRM_S / 0.01) + 2).engaged
    assert "the guard is in mode policy, not in teleop" in bench.clutch.reason
    silent = Clutch("previous")
    silent.update(1.0, False, "", GuardStatus())
    assert silent.update(2.0, True, "", GuardStatus()) == ""
    assert "no guard status on diagnostics" in silent.reason


def test_deactivation_leaves_the_guard_in_hold():
    bench = ClutchBench()
    bench.run(held=False)
    assert bench.clutch.disengage() == "", "it was not engaged"
    bench.run(held=False)
    bench.run(held=True)
    assert bench.clutch.disengage() == "hold" and not bench.clutch.engaged
