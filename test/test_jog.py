"""Leading the arm: the tool goes where it is asked, no limit is passed, and nothing ever jumps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from motion_assertions import assert_inside

from nac_ros.control.guard import Guard
from nac_ros.core.errors import ConfigError
from nac_ros.robot.differential_ik import DifferentialIk
from nac_ros.robot.geometry import BodySpec, LinkSpec
from nac_ros.robot.kinematics import CollisionModel
from nac_ros.robot.spec import load_robot
from nac_ros.teleop.clutch import GuardStatus
from nac_ros.teleop.input_mapping import OperatorInput, load_input_mapping
from nac_ros.teleop.jog import JogController
from nac_ros.teleop.servo_target import CLEAR_M, ServoTarget
from nac_ros.teleop.teleoperator import Teleoperator, TeleoperatorConfig

SPEC = load_robot("vx300s")
IK, COLLISION = DifferentialIk(SPEC), CollisionModel(SPEC, SPEC.body)
DT = 0.01
STICKS = st.lists(st.floats(-1, 1), min_size=6, max_size=6).map(np.array)
SHARES = st.lists(st.floats(0, 1), min_size=7, max_size=7).map(np.array)
WIDE = SPEC.velocity_limit


def somewhere(shares):
    """Joint positions at `shares` of the ranges."""
    return SPEC.position_low + shares * (SPEC.position_high - SPEC.position_low)


@settings(max_examples=60, deadline=None)
@given(SHARES, STICKS)
def test_the_jacobian_is_the_derivative_of_the_tool_s_pose(shares, way):
    here, way = somewhere(shares), np.append(way, 0.3)
    ends = [IK.pose(here + sign * 1e-6 * way) for sign in (-1, 1)]
    moved = (ends[1][:3, 3] - ends[0][:3, 3]) / 2e-6
    spin = (ends[1][:3, :3] - ends[0][:3, :3]) @ IK.pose(here)[:3, :3].T / 2e-6
    turned = np.array([spin[2, 1], spin[0, 2], spin[1, 0]])
    found = IK.jacobian(here) @ way
    np.testing.assert_allclose(found, np.append(moved, turned), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(SHARES, STICKS)
def test_far_from_limits_and_singular_poses_the_tool_does_what_it_is_asked(shares, twist):
    here = near_home(shares, 0.5)
    way = IK.solve(here, 0.1 * twist, -1e3 * WIDE, 1e3 * WIDE)
    np.testing.assert_allclose(IK.jacobian(here) @ way.velocities, 0.1 * twist, atol=1e-6)
    assert not way.joints_at_limit and not way.singular and way.velocities[6] == 0


@settings(max_examples=60, deadline=None)
@given(SHARES, STICKS)
def test_a_joint_at_its_limit_is_held_and_the_rest_goes_on(shares, twist):
    here, low, high = somewhere(shares), -WIDE.copy(), WIDE.copy()
    high[1] = 0.0  # the shoulder is at its upper limit
    way = IK.solve(here, 0.1 * twist, low, high)
    assert (way.velocities <= high + 1e-9).all() and (way.velocities >= low - 1e-9).all()
    free = IK.solve(here, 0.1 * twist, low, WIDE)
    if free.velocities[1] > 1e-6 and not free.joints_at_limit:
        assert "shoulder" in way.joints_at_limit and way.velocities[1] == 0


def test_an_arm_that_is_stretched_out_says_that_it_cannot_go_on():
    straight = np.array([0, 0.3, -np.arctan2(0.3, 0.05955), 0, 0, 0, 0.0])
    left, sizes, _ = np.linalg.svd(IK.jacobian(straight)[:3])
    assert sizes[-1] < 1e-3, "the pose is not singular"
    for shift in (0.0, 0.01, 0.1):
        bent = straight + [0, 0, shift, 0, shift, 0, 0]
        way = IK.solve(bent, np.append(0.1 * left[:, -1], np.zeros(3)), -WIDE, WIDE)
        assert (np.abs(way.velocities) <= WIDE).all()
        assert way.singular == (shift < 0.1)


def test_an_arm_with_fewer_joints_moves_as_asked_and_turns_as_far_as_it_can():
    joints = SPEC.joints[:3] + SPEC.joints[4:5] + SPEC.joints[6:]
    group = replace(SPEC.groups[0], joints=tuple(joint.name for joint in joints))
    links = [link for link in SPEC.body.links if link.joint in group.joints]
    links[-1] = replace(links[-1], parent="elbow", xyz=(0.3, 0.0, 0.0))
    body = BodySpec(links=tuple(links))
    small = replace(SPEC, joints=joints, groups=(group,), body=body)
    tool, here = DifferentialIk(small), np.array([0.2, -0.5, 0.7, 0.6, 0.03])
    twist = np.array([0.05, 0.02, -0.04, 0.0, 0.0, 0.0])
    way = tool.solve(here, twist, -small.velocity_limit, small.velocity_limit)
    np.testing.assert_allclose((tool.jacobian(here) @ way.velocities)[:3], twist[:3], atol=1e-6)


def test_a_tool_that_slides_is_led_as_one_that_turns():
    rail = LinkSpec(joint="waist", parent="base", xyz=(0, 0, 0), axis=(0, 1, 0), kind="prismatic")
    joints = (replace(SPEC.joints[0], unit="m"), *SPEC.joints[1:])
    sliding = replace(SPEC, joints=joints, body=BodySpec(links=(rail,)))
    way = DifferentialIk(sliding).solve(SPEC.home, np.array([0, 0.1, 0, 0, 0, 0]), -WIDE, WIDE)
    np.testing.assert_allclose(way.velocities, [0.1, 0, 0, 0, 0, 0, 0], atol=1e-9)


def test_a_robot_without_a_body_is_led_by_its_joints_alone():
    blind = replace(SPEC, body=None)
    with pytest.raises(ConfigError, match=r"has no `body` .* set the parameter jog to joints"):
        JogController(blind, "tool", "base", (0.1, 0.5, 0.5), 0.1)
    jog = JogController(blind, "joints", "base", (0.1, 0.5, 0.5), 0.1)
    jog.switch_mode()
    assert jog.mode == "joints"


def wish(twist=None, joints=(), gripper=0.0):
    given_twist = np.zeros(6) if twist is None else np.array(twist, float)
    return OperatorInput(given_twist, np.array(joints, float), gripper, True, frozenset())


def led(jog, target, wanted, seconds):
    """Where the target was, `[N, D]`, while an arm follows it at once; and what held it back."""
    rows, why = [target.positions], set()
    for _ in range(round(seconds / DT)):
        why |= set(target.step(jog.candidate_velocities(wanted, target, DT), DT, target.positions))
        why |= set(jog.limited_by)
        rows.append(target.positions)
    return np.array(rows), why


def near_home(shares, width=0.25):
    """A pose where the tool can go some way in any direction."""
    return SPEC.home + width * (shares - 0.5) * SPEC.relative_mask - [0, 0, 0.2, 0, 0, 0, 0.03]


@settings(max_examples=25, deadline=None)
@given(SHARES, STICKS, st.sampled_from(["base", "tool"]))
def test_the_tool_moves_along_the_direction_that_was_asked_for(shares, stick, frame):
    assume(np.linalg.norm(stick[:3]) > 0.3)
    jog, target = (
        JogController(SPEC, "tool", frame, (0.1, 0.5, 0.5), 0.1),
        ServoTarget(SPEC, 0.5, 0.5),
    )
    target.reset(near_home(shares), np.zeros(7))
    before = IK.pose(target.positions)
    rows, why = led(jog, target, wish([*stick[:3], 0, 0, 0]), 0.4)
    assume(not why)
    after = IK.pose(rows[-1])
    moved = after[:3, 3] - before[:3, 3]
    asked = before[:3, :3] @ stick[:3] if frame == "tool" else stick[:3]
    straight = moved @ asked / np.linalg.norm(asked)
    assert straight > 0.3 * 0.1 * np.linalg.norm(asked)
    assert np.linalg.norm(moved - straight * asked / np.linalg.norm(asked)) < 0.02 * straight
    assert np.abs(after[:3, :3] - before[:3, :3]).max() < 0.01, "it turned though it was not asked"


@settings(max_examples=20, deadline=None)
@given(SHARES, STICKS, STICKS, st.sampled_from(["tool", "joints"]), st.floats(-1, 1))
def test_no_jog_leaves_a_limit_or_the_workspace_or_outruns_its_speed(
    shares, twist, joints, kind, gripper
):
    target = ServoTarget(SPEC, 0.5, 0.5)
    jog = JogController(SPEC, kind, "base", (0.5, 2.0, 0.5), 0.1)
    target.reset(somewhere(shares), np.zeros(7))
    start = float(COLLISION.worst_violation(target.positions[None])[0][0])
    rows, _ = led(jog, target, wish(twist, joints, gripper), 1.0)
    assert (rows >= SPEC.position_low).all() and (rows <= SPEC.position_high).all()
    speeds = np.abs(np.diff(rows, axis=0)) / DT
    assert (speeds <= 0.5 * SPEC.velocity_limit + 1e-9).all()
    depths, _ = COLLISION.worst_violation(rows)
    assert depths.max() <= max(start, -CLEAR_M) + 1e-6
    ahead = target.predict(np.array([0.03, 0.1, 9.0]))
    assert (ahead >= SPEC.position_low).all() and (ahead <= SPEC.position_high).all()


def test_the_tool_slides_along_the_table_and_says_what_holds_it_back():
    target = ServoTarget(SPEC, 0.5, 0.5)
    jog = JogController(SPEC, "tool", "base", (0.15, 0.8, 0.5), 0.1)
    low = near_home(np.full(7, 0.5))
    target.reset(low, np.zeros(7))
    led(jog, target, wish([0, 0, -1, 0, 0, 0]), 2.5)
    down = IK.pose(target.positions)[:3, 3]
    assert down[2] == pytest.approx(-0.01 + CLEAR_M, abs=2e-3)
    _, why = led(jog, target, wish([0, 0.7, -1, 0, 0, 0]), 1.0)
    slid = IK.pose(target.positions)[:3, 3]
    assert slid[1] - down[1] > 0.05 and slid[2] == pytest.approx(down[2], abs=2e-3)
    assert "workspace" in why


def test_a_joint_that_reaches_its_limit_comes_to_rest_there_and_is_named():
    target, jog = (
        ServoTarget(SPEC, 0.5, 0.5),
        JogController(SPEC, "joints", "base", (0.1, 0.5, 0.5), 0.2),
    )
    target.reset(SPEC.home, np.zeros(7))
    rows, why = led(jog, target, wish(joints=[0, 0, 0, 0, 0, 1]), 4.0)
    assert rows[-1, 5] == pytest.approx(SPEC.position_high[5], abs=1e-3)
    assert "limit.wrist_rotate" in why and target.velocities[5] == pytest.approx(0, abs=1e-3)
    change = np.abs(np.diff(rows[:, 5], 2)) / DT**2
    assert change.max() <= SPEC.acceleration_limit[5], "it does not hit its limit"


class Rig:
    """Pilot and guard on one clock; the arm is where the guard's set-points are."""

    def __init__(self, mapping="gamepad", **config):
        self.hand = load_input_mapping(mapping)
        self.teleoperator, self.guard = (
            Teleoperator(SPEC, TeleoperatorConfig(**config), self.hand),
            Guard(SPEC),
        )
        self.now, self.rows, self.commands, self.modes = 100.0, [], [], []
        self.axes, self.buttons = np.zeros(6), np.zeros(15, int)
        self.leader = SPEC.home.copy()
        self.guard.update_joint_state(self.now, SPEC.home)
        self.run(0.1)

    def run(self, seconds, silent=False):
        for _ in range(round(seconds / DT)):
            self.now += DT
            if self.guard.setpoint is not None:
                self.guard.update_joint_state(self.now, self.guard.setpoint)
                self.guard.update_reference(self.now, self.guard.setpoint)
            for tick in self.guard.tick(self.now):
                self.rows.append(tick.positions)
                self.teleoperator.update_setpoint(self.now, tick.positions, tick.velocities)
            self.teleoperator.update_guard_status(
                GuardStatus(self.now, self.guard.mode, self.guard.fault)
            )
            if not silent:
                self.teleoperator.update_joy(self.now, self.axes, self.buttons)
                self.teleoperator.update_leader(self.now, SPEC.joint_names, self.leader)
            command = self.teleoperator.tick(self.now, self.now)
            self.obey(command)
        return command

    def obey(self, command):
        if command.mode:
            self.modes.append(command.mode)
            self.guard.set_mode(command.mode)
        if command.chunk is not None:
            self.commands.append(command.chunk)
            self.guard.accept(command.chunk, self.now, "teleop")

    def hold(self, held=1):
        self.buttons[10] = held

    @property
    def place(self):
        return IK.pose(self.guard.setpoint)[:3, 3]


def test_a_press_commands_where_the_arm_is_and_nothing_moves_until_a_stick_does():
    rig = Rig()
    rig.hold()
    rig.run(0.5)
    assert rig.teleoperator.driving and rig.modes == ["teleop"]
    np.testing.assert_allclose(rig.commands[0].actions, np.tile(SPEC.home, (3, 1)), atol=1e-6)
    np.testing.assert_allclose(rig.guard.setpoint, SPEC.home, atol=1e-4)


def test_the_arm_follows_a_stick_and_stops_when_the_clutch_is_let_go():
    rig = Rig()
    rig.hold()
    rig.run(0.2)
    before = rig.place
    rig.axes[1] = 1.0
    rig.run(0.6)
    rig.hold(0)
    rig.run(0.6)
    assert rig.modes == ["teleop", "hold"] and rig.guard.state == "idle"
    moved = rig.place - before
    assert moved[0] == pytest.approx(0.15 * 0.525, abs=0.02) and np.abs(moved[1:]).max() < 2e-3
    assert_inside(SPEC, np.array(rig.rows), DT)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(STICKS, st.booleans(), st.floats(0.02, 0.3)), min_size=3, max_size=8))
def test_whatever_hand_and_clutch_do_commands_never_jump_and_the_arm_keeps_its_limits(moves):
    rig = Rig()
    for stick, held, seconds in moves:
        rig.axes, before = stick, len(rig.commands)
        rig.hold(int(held))
        rig.run(seconds)
        fresh = np.array([c.actions for c in rig.commands[before:]], float)
        if len(fresh) > 1:
            change = np.abs(np.diff(fresh, axis=0)) / DT
            assert (change <= 2.5 * SPEC.velocity_limit).all()
    assert_inside(SPEC, np.array(rig.rows), DT)
    assert not rig.guard.fault


def test_taking_over_a_moving_arm_begins_where_it_comes_to_rest():
    rig = Rig()
    speed = np.array([1.0, -0.5, 0.3, 0, 0, 0, 0])
    rig.teleoperator.update_setpoint(rig.now, SPEC.home, speed)
    rig.teleoperator.target.reset(SPEC.home, speed)
    way = rig.teleoperator.target.positions - SPEC.home
    stop = np.abs(speed) * (np.abs(speed) / SPEC.acceleration_limit + 0.03) / 2
    np.testing.assert_allclose(np.abs(way), stop * (speed != 0), atol=0.01)
    assert (np.sign(way) == np.sign(speed)).all()


def test_input_that_stops_ends_commands_at_once_and_the_guard_says_why():
    rig = Rig()
    rig.hold()
    rig.run(0.2)
    rig.axes[1] = 1.0
    rig.run(0.4)
    sent = len(rig.commands)
    rig.run(0.8, silent=True)
    assert len(rig.commands) - sent <= 0.1 / DT + 2
    assert rig.guard.hold_reason == "teleop_silent" and not rig.teleoperator.driving
    assert rig.teleoperator.reason.startswith("no valid message on joy for 0.1 s")
    assert_inside(SPEC, np.array(rig.rows), DT)
    rig.run(0.3)
    assert not rig.teleoperator.driving, "the same press does not count again"
    rig.hold(0)
    rig.run(0.1)
    assert rig.guard.mode == "hold"


def test_a_message_that_is_no_number_does_not_keep_the_arm():
    rig = Rig()
    rig.hold()
    rig.run(0.2)
    rig.axes = np.full(6, np.nan)
    rig.run(0.3)
    assert not rig.teleoperator.driving and rig.teleoperator.rejections["joy"] == 30
    assert "axis 0 is not finite" in rig.teleoperator.reason


def test_a_guard_that_is_slow_is_not_run_away_from():
    rig = Rig(linear_speed=1.0, speed=1.0)
    rig.guard.set_speed_scale(0.05)
    rig.hold()
    rig.run(0.2)
    rig.axes[0] = 1.0
    rig.run(1.5)
    assert (
        "behind" in rig.teleoperator.limited_by and rig.teleoperator.limited_ticks["behind"] > 50
    )
    lead = np.abs(rig.teleoperator.target.positions - rig.guard.setpoint) / SPEC.velocity_limit
    assert lead.max() <= 0.31


def test_a_tick_that_comes_late_moves_nothing_and_judges_nobody():
    rig = Rig()
    rig.hold()
    rig.axes[1] = 1.0
    rig.run(0.5)
    before = rig.teleoperator.target.positions
    rig.now += 0.5
    assert rig.teleoperator.tick(rig.now, rig.now) == (None, "", ())
    np.testing.assert_array_equal(rig.teleoperator.target.positions, before)
    rig.teleoperator.update_joy(rig.now, rig.axes, rig.buttons)
    rig.teleoperator.update_setpoint(rig.now, SPEC.home, 0 * WIDE)
    rig.teleoperator.update_guard_status(GuardStatus(rig.now, "teleop"))
    assert rig.teleoperator.tick(rig.now + DT, rig.now + DT).chunk is not None


def test_a_relative_leader_adds_its_way_and_an_absolute_one_is_met_slowly():
    away = SPEC.home + 0.5 * SPEC.relative_mask * [1, 1, -1, 1, -1, 1, 0]
    for leader_mode, wanted in (("relative", SPEC.home), ("absolute", away)):
        rig = Rig("leader", leader_mode=leader_mode, approach_speed=0.1)
        rig.teleoperator.leader._joints = [
            replace(j, range=None) for j in rig.teleoperator.leader._joints
        ]
        rig.teleoperator.leader.has_range[:] = False
        rig.leader = away.copy()
        rig.hold()
        rig.run(0.3)
        slow = np.abs(np.diff(rig.rows[-20:], axis=0)).max() / DT
        assert slow <= 0.1 * 0.5 * WIDE.max() + 1e-3
        rig.run(4.0)
        np.testing.assert_allclose(rig.guard.setpoint[:6], wanted[:6], atol=2e-3)
        rig.leader = rig.leader + [0.2, 0, 0, 0, 0, 0, 0]
        rig.run(1.0)
        np.testing.assert_allclose(rig.guard.setpoint[0], wanted[0] + 0.2, atol=2e-3)
        assert_inside(SPEC, np.array(rig.rows), DT)


def test_a_leader_s_gripper_stands_where_the_leader_s_stands():
    rig = Rig("leader")
    rig.leader = np.append(SPEC.home[:6], 0.5)  # half open, in the leader's unit
    rig.hold()
    rig.run(3.0)
    assert rig.guard.setpoint[6] == pytest.approx(0.036, abs=1e-3)
    np.testing.assert_allclose(rig.guard.setpoint[:6], SPEC.home[:6], atol=1e-4)


def test_buttons_ask_for_what_they_say_also_without_the_clutch():
    rig = Rig()
    rig.buttons[[6, 3]] = 1
    assert set(rig.run(DT).actions) == {"start", "success"}
    assert rig.run(0.5).actions == ()
    rig.buttons[7] = 1
    rig.run(DT)
    assert rig.teleoperator.jog.mode == "joints"


def test_one_button_closes_the_gripper_and_opens_it_again():
    rig = Rig("spacemouse")
    rig.buttons[0] = 1
    rig.run(0.2)
    for place in (0.0, 0.072):
        rig.buttons[1] = 1
        rig.run(0.05)
        rig.buttons[1] = 0
        rig.run(2.0)
        assert rig.guard.setpoint[6] == pytest.approx(place, abs=1e-3)
