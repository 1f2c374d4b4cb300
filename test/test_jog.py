"""Teleoperation with the real guard: the tool follows, limits are kept, commands never jump."""

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
SPEED = SPEC.velocity_limit


def positions_at(shares):
    """Joint positions at these shares of their ranges."""
    return SPEC.position_low + shares * (SPEC.position_high - SPEC.position_low)


@settings(max_examples=60, deadline=None)
@given(SHARES, STICKS)
def test_the_jacobian_is_the_derivative_of_the_tool_s_pose(shares, motion):
    here, motion = positions_at(shares), np.append(motion, 0.3)
    ends = [IK.pose(here + sign * 1e-6 * motion) for sign in (-1, 1)]
    moved = (ends[1][:3, 3] - ends[0][:3, 3]) / 2e-6
    spin = (ends[1][:3, :3] - ends[0][:3, :3]) @ IK.pose(here)[:3, :3].T / 2e-6
    turned = np.array([spin[2, 1], spin[0, 2], spin[1, 0]])
    found = IK.jacobian(here) @ motion
    np.testing.assert_allclose(found, np.append(moved, turned), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(SHARES, STICKS)
def test_far_from_limits_and_singular_poses_the_tool_has_the_requested_velocity(shares, twist):
    here = near_home(shares, 0.5)
    result = IK.solve(here, 0.1 * twist, -1e3 * SPEED, 1e3 * SPEED)
    np.testing.assert_allclose(IK.jacobian(here) @ result.velocities, 0.1 * twist, atol=1e-6)
    assert not result.joints_at_limit and not result.singular and result.velocities[6] == 0


@settings(max_examples=60, deadline=None)
@given(SHARES, STICKS)
def test_a_joint_at_its_limit_stays_there_and_the_others_continue(shares, twist):
    here, low, high = positions_at(shares), -SPEED.copy(), SPEED.copy()
    high[1] = 0.0  # the shoulder is at its upper limit
    result = IK.solve(here, 0.1 * twist, low, high)
    assert (result.velocities <= high + 1e-9).all() and (result.velocities >= low - 1e-9).all()
    free = IK.solve(here, 0.1 * twist, low, SPEED)
    if free.velocities[1] > 1e-6 and not free.joints_at_limit:
        assert "shoulder" in result.joints_at_limit and result.velocities[1] == 0


def test_an_outstretched_arm_reports_a_singular_pose():
    straight = np.array([0, 0.3, -np.arctan2(0.3, 0.05955), 0, 0, 0, 0.0])
    left, sizes, _ = np.linalg.svd(IK.jacobian(straight)[:3])
    assert sizes[-1] < 1e-3, "the pose is not singular"
    for shift in (0.0, 0.01, 0.1):
        bent = straight + [0, 0, shift, 0, shift, 0, 0]
        result = IK.solve(bent, np.append(0.1 * left[:, -1], np.zeros(3)), -SPEED, SPEED)
        assert (np.abs(result.velocities) <= SPEED).all()
        assert result.singular == (shift < 0.1)


def test_an_arm_with_fewer_joints_moves_as_requested_and_rotates_as_far_as_possible():
    joints = SPEC.joints[:3] + SPEC.joints[4:5] + SPEC.joints[6:]
    group = replace(SPEC.groups[0], joints=tuple(joint.name for joint in joints))
    links = [link for link in SPEC.body.links if link.joint in group.joints]
    links[-1] = replace(links[-1], parent="elbow", xyz=(0.3, 0.0, 0.0))
    body = BodySpec(links=tuple(links))
    small = replace(SPEC, joints=joints, groups=(group,), body=body)
    tool, here = DifferentialIk(small), np.array([0.2, -0.5, 0.7, 0.6, 0.03])
    twist = np.array([0.05, 0.02, -0.04, 0.0, 0.0, 0.0])
    result = tool.solve(here, twist, -small.velocity_limit, small.velocity_limit)
    np.testing.assert_allclose((tool.jacobian(here) @ result.velocities)[:3], twist[:3], atol=1e-6)


def test_a_prismatic_joint_moves_the_tool_like_a_revolute_one():
    rail = LinkSpec(joint="waist", parent="base", xyz=(0, 0, 0), axis=(0, 1, 0), kind="prismatic")
    joints = (replace(SPEC.joints[0], unit="m"), *SPEC.joints[1:])
    sliding = replace(SPEC, joints=joints, body=BodySpec(links=(rail,)))
    result = DifferentialIk(sliding).solve(
        SPEC.home, np.array([0, 0.1, 0, 0, 0, 0]), -SPEED, SPEED
    )
    np.testing.assert_allclose(result.velocities, [0.1, 0, 0, 0, 0, 0, 0], atol=1e-9)


def test_a_robot_without_a_body_can_be_jogged_by_joints_only():
    blind = replace(SPEC, body=None)
    with pytest.raises(ConfigError, match=r"has no `body` .* set the parameter jog to joints"):
        JogController(blind, "tool", "base", (0.1, 0.5, 0.5), 0.1)
    jog = JogController(blind, "joints", "base", (0.1, 0.5, 0.5), 0.1)
    jog.switch_mode()
    assert jog.mode == "joints"


def operator_input(twist=None, joints=(), gripper=0.0):
    given_twist = np.zeros(6) if twist is None else np.array(twist, float)
    return OperatorInput(given_twist, np.array(joints, float), gripper, True, frozenset())


def jogged(jog, target, wanted, seconds):
    """Target positions `[N, D]` while the arm follows without delay, and the limits met."""
    rows, why = [target.positions], set()
    for _ in range(round(seconds / DT)):
        why |= set(target.step(jog.candidate_velocities(wanted, target, DT), DT, target.positions))
        why |= set(jog.limited_by)
        rows.append(target.positions)
    return np.array(rows), why


def near_home(shares, width=0.25):
    """A pose from which the tool can move in any direction."""
    return SPEC.home + width * (shares - 0.5) * SPEC.relative_mask - [0, 0, 0.2, 0, 0, 0, 0.03]


@settings(max_examples=25, deadline=None)
@given(SHARES, STICKS, st.sampled_from(["base", "tool"]))
def test_the_tool_moves_in_the_requested_direction(shares, stick, frame):
    assume(np.linalg.norm(stick[:3]) > 0.3)
    jog, target = (
        JogController(SPEC, "tool", frame, (0.1, 0.5, 0.5), 0.1),
        ServoTarget(SPEC, 0.5, 0.5),
    )
    target.reset(near_home(shares), np.zeros(7))
    before = IK.pose(target.positions)
    rows, why = jogged(jog, target, operator_input([*stick[:3], 0, 0, 0]), 0.4)
    assume(not why)
    after = IK.pose(rows[-1])
    moved = after[:3, 3] - before[:3, 3]
    asked = before[:3, :3] @ stick[:3] if frame == "tool" else stick[:3]
    straight = moved @ asked / np.linalg.norm(asked)
    assert straight > 0.3 * 0.1 * np.linalg.norm(asked)
    assert np.linalg.norm(moved - straight * asked / np.linalg.norm(asked)) < 0.02 * straight
    assert np.abs(after[:3, :3] - before[:3, :3]).max() < 0.01, "it rotated without a request"


@settings(max_examples=20, deadline=None)
@given(SHARES, STICKS, STICKS, st.sampled_from(["tool", "joints"]), st.floats(-1, 1))
def test_jogging_stays_inside_position_workspace_and_speed_limits(
    shares, twist, joints, kind, gripper
):
    target = ServoTarget(SPEC, 0.5, 0.5)
    jog = JogController(SPEC, kind, "base", (0.5, 2.0, 0.5), 0.1)
    target.reset(positions_at(shares), np.zeros(7))
    start = float(COLLISION.worst_violation(target.positions[None])[0][0])
    rows, _ = jogged(jog, target, operator_input(twist, joints, gripper), 1.0)
    assert (rows >= SPEC.position_low).all() and (rows <= SPEC.position_high).all()
    speeds = np.abs(np.diff(rows, axis=0)) / DT
    assert (speeds <= 0.5 * SPEC.velocity_limit + 1e-9).all()
    depths, _ = COLLISION.worst_violation(rows)
    assert depths.max() <= max(start, -CLEAR_M) + 1e-6
    ahead = target.predict(np.array([0.03, 0.1, 9.0]))
    assert (ahead >= SPEC.position_low).all() and (ahead <= SPEC.position_high).all()


def test_the_tool_slides_along_the_table_and_reports_the_limit():
    target = ServoTarget(SPEC, 0.5, 0.5)
    jog = JogController(SPEC, "tool", "base", (0.15, 0.8, 0.5), 0.1)
    low = near_home(np.full(7, 0.5))
    target.reset(low, np.zeros(7))
    jogged(jog, target, operator_input([0, 0, -1, 0, 0, 0]), 2.5)
    down = IK.pose(target.positions)[:3, 3]
    assert down[2] == pytest.approx(-0.01 + CLEAR_M, abs=2e-3)
    _, why = jogged(jog, target, operator_input([0, 0.7, -1, 0, 0, 0]), 1.0)
    slid = IK.pose(target.positions)[:3, 3]
    assert slid[1] - down[1] > 0.05 and slid[2] == pytest.approx(down[2], abs=2e-3)
    assert "workspace" in why


def test_a_joint_that_reaches_its_limit_stops_there_and_is_named():
    target, jog = (
        ServoTarget(SPEC, 0.5, 0.5),
        JogController(SPEC, "joints", "base", (0.1, 0.5, 0.5), 0.2),
    )
    target.reset(SPEC.home, np.zeros(7))
    rows, why = jogged(jog, target, operator_input(joints=[0, 0, 0, 0, 0, 1]), 4.0)
    assert rows[-1, 5] == pytest.approx(SPEC.position_high[5], abs=1e-3)
    assert "limit.wrist_rotate" in why and target.velocities[5] == pytest.approx(0, abs=1e-3)
    change = np.abs(np.diff(rows[:, 5], 2)) / DT**2
    assert change.max() <= SPEC.acceleration_limit[5], "it brakes before its limit"


class TeleopBench:
    """Teleoperator and guard on one clock; the arm follows the set-points without delay."""

    def __init__(self, mapping="gamepad", **config):
        self.mapping = load_input_mapping(mapping)
        self.teleoperator, self.guard = (
            Teleoperator(SPEC, TeleoperatorConfig(**config), self.mapping),
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
            self.apply(command)
        return command

    def apply(self, command):
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


def test_pressing_the_clutch_commands_the_present_position():
    bench = TeleopBench()
    bench.hold()
    bench.run(0.5)
    assert bench.teleoperator.driving and bench.modes == ["teleop"]
    np.testing.assert_allclose(bench.commands[0].actions, np.tile(SPEC.home, (3, 1)), atol=1e-6)
    np.testing.assert_allclose(bench.guard.setpoint, SPEC.home, atol=1e-4)


def test_the_arm_follows_a_stick_and_stops_when_the_clutch_is_released():
    bench = TeleopBench()
    bench.hold()
    bench.run(0.2)
    before = bench.place
    bench.axes[1] = 1.0
    bench.run(0.6)
    bench.hold(0)
    bench.run(0.6)
    assert bench.modes == ["teleop", "hold"] and bench.guard.state == "idle"
    moved = bench.place - before
    assert moved[0] == pytest.approx(0.15 * 0.525, abs=0.02) and np.abs(moved[1:]).max() < 2e-3
    assert_inside(SPEC, np.array(bench.rows), DT)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(STICKS, st.booleans(), st.floats(0.02, 0.3)), min_size=3, max_size=8))
def test_commands_never_jump_and_limits_hold_for_any_input(moves):
    bench = TeleopBench()
    for stick, held, seconds in moves:
        bench.axes, before = stick, len(bench.commands)
        bench.hold(int(held))
        bench.run(seconds)
        fresh = np.array([c.actions for c in bench.commands[before:]], float)
        if len(fresh) > 1:
            change = np.abs(np.diff(fresh, axis=0)) / DT
            assert (change <= 2.5 * SPEC.velocity_limit).all()
    assert_inside(SPEC, np.array(bench.rows), DT)
    assert not bench.guard.fault


def test_a_takeover_of_a_moving_arm_starts_where_it_comes_to_rest():
    bench = TeleopBench()
    speed = np.array([1.0, -0.5, 0.3, 0, 0, 0, 0])
    bench.teleoperator.update_setpoint(bench.now, SPEC.home, speed)
    bench.teleoperator.target.reset(SPEC.home, speed)
    motion = bench.teleoperator.target.positions - SPEC.home
    stop = np.abs(speed) * (np.abs(speed) / SPEC.acceleration_limit + 0.03) / 2
    np.testing.assert_allclose(np.abs(motion), stop * (speed != 0), atol=0.01)
    assert (np.sign(motion) == np.sign(speed)).all()


def test_lost_input_ends_commands_at_once_and_the_guard_reports_it():
    bench = TeleopBench()
    bench.hold()
    bench.run(0.2)
    bench.axes[1] = 1.0
    bench.run(0.4)
    sent = len(bench.commands)
    bench.run(0.8, silent=True)
    assert len(bench.commands) - sent <= 0.1 / DT + 2
    assert bench.guard.hold_reason == "teleop_silent" and not bench.teleoperator.driving
    assert bench.teleoperator.reason.startswith("no valid message on joy for 0.1 s")
    assert_inside(SPEC, np.array(bench.rows), DT)
    bench.run(0.3)
    assert not bench.teleoperator.driving, "the same press does not count again"
    bench.hold(0)
    bench.run(0.1)
    assert bench.guard.mode == "hold"


def test_an_axis_that_is_not_finite_ends_the_takeover():
    bench = TeleopBench()
    bench.hold()
    bench.run(0.2)
    bench.axes = np.full(6, np.nan)
    bench.run(0.3)
    assert not bench.teleoperator.driving and bench.teleoperator.rejections["joy"] == 30
    assert "axis 0 is not finite" in bench.teleoperator.reason


def test_the_target_stays_near_an_arm_that_is_slow():
    bench = TeleopBench(linear_speed=1.0, speed=1.0)
    bench.guard.set_speed_scale(0.05)
    bench.hold()
    bench.run(0.2)
    bench.axes[0] = 1.0
    bench.run(1.5)
    assert (
        "behind" in bench.teleoperator.limited_by
        and bench.teleoperator.limited_ticks["behind"] > 50
    )
    lead = np.abs(bench.teleoperator.target.positions - bench.guard.setpoint) / SPEC.velocity_limit
    assert lead.max() <= 0.31


def test_a_late_tick_moves_nothing_and_ends_no_takeover():
    bench = TeleopBench()
    bench.hold()
    bench.axes[1] = 1.0
    bench.run(0.5)
    before = bench.teleoperator.target.positions
    bench.now += 0.5
    assert bench.teleoperator.tick(bench.now, bench.now) == (None, "", ())
    np.testing.assert_array_equal(bench.teleoperator.target.positions, before)
    bench.teleoperator.update_joy(bench.now, bench.axes, bench.buttons)
    bench.teleoperator.update_setpoint(bench.now, SPEC.home, 0 * SPEED)
    bench.teleoperator.update_guard_status(GuardStatus(bench.now, "teleop"))
    assert bench.teleoperator.tick(bench.now + DT, bench.now + DT).chunk is not None


def test_a_relative_leader_adds_its_motion_and_an_absolute_one_is_approached_slowly():
    away = SPEC.home + 0.5 * SPEC.relative_mask * [1, 1, -1, 1, -1, 1, 0]
    for leader_mode, wanted in (("relative", SPEC.home), ("absolute", away)):
        bench = TeleopBench("leader", leader_mode=leader_mode, approach_speed=0.1)
        bench.teleoperator.leader._joints = [
            replace(j, range=None) for j in bench.teleoperator.leader._joints
        ]
        bench.teleoperator.leader.has_range[:] = False
        bench.leader = away.copy()
        bench.hold()
        bench.run(0.3)
        slow = np.abs(np.diff(bench.rows[-20:], axis=0)).max() / DT
        assert slow <= 0.1 * 0.5 * SPEED.max() + 1e-3
        bench.run(4.0)
        np.testing.assert_allclose(bench.guard.setpoint[:6], wanted[:6], atol=2e-3)
        bench.leader = bench.leader + [0.2, 0, 0, 0, 0, 0, 0]
        bench.run(1.0)
        np.testing.assert_allclose(bench.guard.setpoint[0], wanted[0] + 0.2, atol=2e-3)
        assert_inside(SPEC, np.array(bench.rows), DT)


def test_the_gripper_takes_the_position_of_the_leader_s_gripper():
    bench = TeleopBench("leader")
    bench.leader = np.append(SPEC.home[:6], 0.5)  # half open, in the leader's unit
    bench.hold()
    bench.run(3.0)
    assert bench.guard.setpoint[6] == pytest.approx(0.036, abs=1e-3)
    np.testing.assert_allclose(bench.guard.setpoint[:6], SPEC.home[:6], atol=1e-4)


def test_buttons_work_without_the_clutch():
    bench = TeleopBench()
    bench.buttons[[6, 3]] = 1
    assert set(bench.run(DT).actions) == {"start", "success"}
    assert bench.run(0.5).actions == ()
    bench.buttons[7] = 1
    bench.run(DT)
    assert bench.teleoperator.jog.mode == "joints"


def test_one_button_closes_and_opens_the_gripper():
    bench = TeleopBench("spacemouse")
    bench.buttons[0] = 1
    bench.run(0.2)
    for place in (0.0, 0.072):
        bench.buttons[1] = 1
        bench.run(0.05)
        bench.buttons[1] = 0
        bench.run(2.0)
        assert bench.guard.setpoint[6] == pytest.approx(place, abs=1e-3)
