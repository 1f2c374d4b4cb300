"""The guard's word: whatever it is told, no set-point passes a limit, also between two of them."""

import os
from dataclasses import replace
from functools import partial
from multiprocessing import Pool

import numpy as np
import pytest
from motion_assertions import Follower, assert_inside
from robots import random_robot

from nac_ros.control.guard import Guard
from nac_ros.control.guard_clock import NANO, GuardClock
from nac_ros.control.types import GuardConfig
from nac_ros.core.types import ActionChunk
from nac_ros.robot.spec import load_robot

ARM = replace(load_robot("vx300s"), body=None)  # the body is test_guard.py's
EPOCH_NS = 1_795_942_000 * NANO  # a system clock of today
OFFSET = 0.02  # [rad or m] that an arm rests beside its set-point at most
NOISE = 2e-5  # [rad or m] of an encoder of 16 bits


def smooth(spec, rng, start):
    """A motion such as a policy plans."""
    t = np.arange(1, 33)[:, None] / 30
    turns = rng.uniform(0.5, 6, spec.action_dim)
    span = spec.position_high - spec.position_low
    swing = np.minimum(span / 6, 2 * spec.velocity_limit / turns)
    return start + rng.uniform(-0.5, 0.5, spec.action_dim) * swing * (1 - np.cos(t * turns))


def noisy(spec, rng, start):
    """The same under noise that no arm could follow."""
    noise = rng.normal(0, 0.15, (32, spec.action_dim))
    return smooth(spec, rng, start) + noise * spec.velocity_limit / 30


def walk(spec, rng, start):
    """Every joint at full speed, this way and that."""
    steps = rng.choice([-1, 0, 1], (32, spec.action_dim)) * spec.velocity_limit / 30
    held = np.repeat(steps[:: rng.integers(1, 9)], 32, 0)[:32]
    return start + held.cumsum(0) * 0.9999


def wall(spec, rng, start):
    """Straight into the position limits at full speed."""
    way = rng.choice([-1, 1], spec.action_dim) * spec.velocity_limit / 30 * 0.9999
    return np.clip(start + way * np.arange(1, 33)[:, None], spec.position_low, spec.position_high)


def elsewhere(spec, rng, start):
    """A smooth motion that begins far away."""
    return smooth(spec, rng, anywhere(spec, rng, 0.4))


def broken(spec, rng, start):
    """Not a motion at all."""
    actions = smooth(spec, rng, start)
    actions[rng.integers(32), rng.integers(spec.action_dim)] = rng.choice([np.nan, np.inf, 1e9])
    return actions


KINDS = (smooth, smooth, noisy, walk, wall, elsewhere, broken)


def anywhere(spec, rng, share):
    """A pose within so much of each range around its middle."""
    span = spec.position_high - spec.position_low
    middle = (spec.position_low + spec.position_high) / 2
    return middle + rng.uniform(-share, share, spec.action_dim) * span


class Sequence:
    """A guard, its clock, a controller, and an arm that rests beside the controller's set-point,
    under random chunks, orders, pauses, clock jumps and moves by other means.

    Whether the controller reports its set-point is drawn as well.
    """

    def __init__(self, spec, seed):
        self.spec, self.rng = spec, np.random.default_rng(seed)
        self.guard = Guard(spec, GuardConfig(blend_s=self.rng.choice([0.05, 0.1, 0.3])))
        self.clock, self.steady, self.set_by = GuardClock(0.2), 20.0, 0.0
        self.reports = self.rng.random() < 0.4
        most = np.minimum(OFFSET, 0.9 * spec.max_offset)
        self.offset = most * self.rng.uniform(-1, 1, spec.action_dim)
        self.ticks, self.cuts, self.sent, self.running = [], [], [], 0
        self.skew = 0.0  # of the controller's clock from the guard's while it moves [s]
        self.read_clock()
        start = anywhere(spec, self.rng, 0.45)
        self.follower, self.arrival = Follower(spec, start, self.now), self.now
        self.step(0.0)
        self.guard.set_mode("policy")

    def read_clock(self):
        clock_ns = EPOCH_NS + round((self.steady + self.set_by) * NANO)
        if self.clock.read(clock_ns, self.steady):
            self.guard.handle_clock_jump()
        self.now = self.clock.seconds(clock_ns)

    def play(self):
        for _ in range(self.rng.integers(3, 8)):
            self.order()
            if self.guard.mode == "hold" and self.rng.random() < 0.7:
                self.start()
            self.step(0.01)
            while self.guard.hold_reason == "settling" and self.rng.random() < 0.999:
                self.step(0.01)
            self.offer()
            for _ in range(self.rng.integers(1, 45)):
                self.step(self.pause())
        rests = self.now
        while not self.guard.is_at_rest(rests):
            rests += 0.1
        self.follower.run(rests + 2.0)
        return self

    def offer(self):
        kind = KINDS[self.rng.integers(len(KINDS))]
        actions = kind(self.spec, self.rng, self.guard.setpoint).astype(np.float32)
        stamp = self.now - self.rng.choice([0.0, 0.0, 0.02, 0.1])
        names, tokens = self.spec.joint_names, np.empty(0, np.int64)
        self.guard.accept(ActionChunk(stamp, 30.0, names, actions, tokens), self.now)

    def order(self):
        """Now and then something other than a chunk."""
        guard, what = self.guard, self.rng.integers(20)
        if what == 0:
            guard.stop()
        if what in (0, 1, 2):
            self.start()
        if what == 3:
            guard.set_mode("hold")
        if what == 4:
            guard.set_speed_scale(float(self.rng.choice([0.1, 0.5, 1.0])))
        if what == 5:
            guard.approach()
        if what == 6:
            jump = float(self.rng.choice([-3600.0, -0.1, 0.1, 1.0, 3600.0]))
            self.set_by, self.skew = self.set_by + jump, self.skew + jump
        if what in (7, 8, 9):
            self.come_to_rest()
            self.move() if what == 7 else self.deactivate() if what == 8 else None
            self.start()

    def start(self):
        rested, before = self.guard.is_at_rest(self.now), self.guard.setpoint
        self.guard.reset()
        self.guard.set_mode("policy")
        if rested and (self.guard.setpoint != before).any():
            self.cuts.append(len(self.ticks))  # it begins elsewhere

    def come_to_rest(self):
        self.guard.set_mode("hold")
        rested = 0
        while rested < 5:  # as long as a trajectory may be under way
            self.step(0.01)
            rested += self.guard.is_at_rest(self.now)

    def move(self):
        """The arm is moved by other means, its controller activated anew where it is by then."""
        far = self.rng.random() < 0.5
        place = anywhere(self.spec, self.rng, 0.45)
        if not far:
            place = self.follower.run(self.now) + self.rng.choice([-1, 1]) * self.offset
        place = np.clip(place, self.spec.position_low, self.spec.position_high)
        self.follower.activate(place, self.now)
        for _ in range(15):
            self.step(0.01)

    def deactivate(self):
        self.guard.restart()
        self.step(0.01)

    def pause(self):
        """A timer's period: jitter, at times a late call, rarely a long sleep."""
        period = self.guard.period + self.rng.uniform(-0.002, 0.002)
        late = self.rng.uniform(0.003, 0.03)
        return self.rng.choice([period, late, 0.09, 0.3], p=[0.9, 0.08, 0.015, 0.005])

    def step(self, seconds):
        guard, self.steady = self.guard, self.steady + seconds
        self.read_clock()
        reference = self.follower.run(self.now)
        noise = self.rng.normal(0, NOISE, self.spec.action_dim)
        guard.update_joint_state(self.now, reference + self.offset + noise)
        if self.reports:
            guard.update_reference(self.now, reference)
        if not guard.generator.commanded:  # it commands nothing yet, and says where it would begin
            self.cuts.append(len(self.ticks))
        self.ticks += guard.tick(self.now)
        self.running += guard.hold_reason == ""
        motion = guard.trajectory_update(self.now)
        if motion is not None and guard.fault != "tick_gap":  # as the node sends
            self.arrival = max(self.arrival, self.now + self.rng.uniform(0, 0.029))  # in order
            self.sent.append(motion)
            self.follower.send(replace(motion, stamp=motion.stamp + self.skew), self.arrival)
        if guard.is_at_rest(self.now):
            self.skew = 0.0


def check(spec, seed):
    """How many ticks of a sequence the arm followed chunks, none of which passed a limit."""
    sequence = Sequence(spec, seed).play()
    follower, ticks = sequence.follower, sequence.ticks
    for piece in follower.pieces:
        assert_inside(spec, piece, follower.step)
    assert (np.diff(follower.positions[-200:], axis=0) == 0).all(), "it came to rest by itself"
    stamps = np.array([tick.stamp for tick in ticks])
    commands = np.stack([tick.positions for tick in ticks])
    assert (np.diff(stamps) > 0).all()
    even = np.abs(np.diff(stamps) - sequence.guard.period) < 1e-6
    for piece in np.split(commands, sorted({*(np.flatnonzero(~even) + 1), *sequence.cuts})):
        assert_inside(spec, piece, sequence.guard.period)
    return sequence.running


def check_random_robot(seed):
    return check(random_robot(np.random.default_rng([seed, 1])), seed)


@pytest.mark.timeout(600)
def test_no_sequence_of_chunks_and_orders_passes_a_limit():
    running = [check(ARM, seed) for seed in range(500)]
    assert np.mean(np.array(running) > 20) > 0.5, "most sequences moved the arm"


@pytest.mark.timeout(600)
def test_no_sequence_passes_a_limit_of_robots_at_random():
    running = [check_random_robot(seed) for seed in range(300)]
    assert np.mean(np.array(running) > 20) > 0.4, "most sequences moved the arm"


@pytest.mark.parametrize("seed", [20_210, 20_374])
def test_what_once_passed_a_limit_in_ten_thousand_does_not_any_more(seed):
    check_random_robot(seed)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("check_one", [partial(check, ARM), check_random_robot])
def test_no_sequence_passes_a_limit_in_ten_thousand(check_one):
    seeds = range(10_000, 10_000 + int(os.environ.get("SEQUENCES", "10000")))
    with Pool() as pool:
        for _ in pool.imap_unordered(check_one, seeds, 50):
            pass
