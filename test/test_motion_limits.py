"""Random sequences of chunks, requests, pauses and clock jumps: the motion keeps every limit."""

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

ARM = replace(load_robot("vx300s"), body=None)  # the workspace is tested in test_guard.py
EPOCH_NS = 1_795_942_000 * NANO  # of a present system clock
OFFSET = 0.02  # [rad or m] largest distance of the resting arm from its set-point
NOISE = 2e-5  # [rad or m] of a 16-bit encoder


def smooth(spec, rng, start):
    """A smooth motion like that of a policy."""
    t = np.arange(1, 33)[:, None] / 30
    turns = rng.uniform(0.5, 6, spec.action_dim)
    span = spec.position_high - spec.position_low
    swing = np.minimum(span / 6, 2 * spec.velocity_limit / turns)
    return start + rng.uniform(-0.5, 0.5, spec.action_dim) * swing * (1 - np.cos(t * turns))


def noisy(spec, rng, start):
    """A smooth motion with more noise than an arm can follow."""
    noise = rng.normal(0, 0.15, (32, spec.action_dim))
    return smooth(spec, rng, start) + noise * spec.velocity_limit / 30


def walk(spec, rng, start):
    """Every joint at full speed in random directions."""
    steps = rng.choice([-1, 0, 1], (32, spec.action_dim)) * spec.velocity_limit / 30
    held = np.repeat(steps[:: rng.integers(1, 9)], 32, 0)[:32]
    return start + held.cumsum(0) * 0.9999


def wall(spec, rng, start):
    """Into the position limits at full speed."""
    way = rng.choice([-1, 1], spec.action_dim) * spec.velocity_limit / 30 * 0.9999
    return np.clip(start + way * np.arange(1, 33)[:, None], spec.position_low, spec.position_high)


def elsewhere(spec, rng, start):
    """A smooth motion that begins far from the arm."""
    return smooth(spec, rng, anywhere(spec, rng, 0.4))


def broken(spec, rng, start):
    """A motion with one invalid value."""
    actions = smooth(spec, rng, start)
    actions[rng.integers(32), rng.integers(spec.action_dim)] = rng.choice([np.nan, np.inf, 1e9])
    return actions


KINDS = (smooth, smooth, noisy, walk, wall, elsewhere, broken)


def anywhere(spec, rng, share):
    """A random pose; share: largest distance from the middle of each range, as a share of it."""
    span = spec.position_high - spec.position_low
    middle = (spec.position_low + spec.position_high) / 2
    return middle + rng.uniform(-share, share, spec.action_dim) * span


class Sequence:
    """A guard, its clock, a controller, and an arm with an offset from the controller's set-point,
    under random chunks, requests, pauses, clock jumps and moves by other means.

    The controller reports its set-point in 40 % of the sequences.
    """

    def __init__(self, spec, seed):
        self.spec, self.rng = spec, np.random.default_rng(seed)
        self.guard = Guard(spec, GuardConfig(blend_s=self.rng.choice([0.05, 0.1, 0.3])))
        self.clock, self.steady, self.set_by = GuardClock(0.2), 20.0, 0.0
        self.reports = self.rng.random() < 0.4
        most = np.minimum(OFFSET, 0.9 * spec.max_offset)
        self.offset = most * self.rng.uniform(-1, 1, spec.action_dim)
        self.ticks, self.cuts, self.sent, self.running = [], [], [], 0
        self.skew = 0.0  # of the controller's clock against the guard's during motion [s]
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

    def run(self):
        for _ in range(self.rng.integers(3, 8)):
            self.request()
            if self.guard.mode == "hold" and self.rng.random() < 0.7:
                self.start()
            self.step(0.01)
            while self.guard.hold_reason == "settling" and self.rng.random() < 0.999:
                self.step(0.01)
            self.send_chunk()
            for _ in range(self.rng.integers(1, 45)):
                self.step(self.pause())
        rests = self.now
        while not self.guard.is_at_rest(rests):
            rests += 0.1
        self.follower.run(rests + 2.0)
        return self

    def send_chunk(self):
        kind = KINDS[self.rng.integers(len(KINDS))]
        actions = kind(self.spec, self.rng, self.guard.setpoint).astype(np.float32)
        stamp = self.now - self.rng.choice([0.0, 0.0, 0.02, 0.1])
        names, tokens = self.spec.joint_names, np.empty(0, np.int64)
        self.guard.accept(ActionChunk(stamp, 30.0, names, actions, tokens), self.now)

    def request(self):
        """At random a request other than a chunk."""
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
            self.stop_and_wait()
            self.move() if what == 7 else self.deactivate() if what == 8 else None
            self.start()

    def start(self):
        rested, before = self.guard.is_at_rest(self.now), self.guard.setpoint
        self.guard.reset()
        self.guard.set_mode("policy")
        if rested and (self.guard.setpoint != before).any():
            self.cuts.append(len(self.ticks))  # motion begins at another position

    def stop_and_wait(self):
        self.guard.set_mode("hold")
        rested = 0
        while rested < 5:  # as long as a trajectory may be in transit
            self.step(0.01)
            rested += self.guard.is_at_rest(self.now)

    def move(self):
        """The arm is moved by other means, and its controller activated again at the new pose."""
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
        """A period of the timer: jitter, sometimes a late call, rarely a long pause."""
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
        if not guard.generator.commanded:  # the set-point is where motion would begin
            self.cuts.append(len(self.ticks))
        self.ticks += guard.tick(self.now)
        self.running += guard.hold_reason == ""
        motion = guard.trajectory_update(self.now)
        if motion is not None and guard.fault != "tick_gap":  # like the guard node
            self.arrival = max(self.arrival, self.now + self.rng.uniform(0, 0.029))  # in request
            self.sent.append(motion)
            self.follower.send(replace(motion, stamp=motion.stamp + self.skew), self.arrival)
        if guard.is_at_rest(self.now):
            self.skew = 0.0


def running_ticks(spec, seed):
    """Asserts that no limit is exceeded in a sequence; returns how many ticks followed chunks."""
    sequence = Sequence(spec, seed).run()
    follower, ticks = sequence.follower, sequence.ticks
    for segment in follower.segments:
        assert_inside(spec, segment, follower.step)
    assert (np.diff(follower.positions[-200:], axis=0) == 0).all(), "it came to rest"
    stamps = np.array([tick.stamp for tick in ticks])
    commands = np.stack([tick.positions for tick in ticks])
    assert (np.diff(stamps) > 0).all()
    even = np.abs(np.diff(stamps) - sequence.guard.period) < 1e-6
    for segment in np.split(commands, sorted({*(np.flatnonzero(~even) + 1), *sequence.cuts})):
        assert_inside(spec, segment, sequence.guard.period)
    return sequence.running


def check_random_robot(seed):
    return running_ticks(random_robot(np.random.default_rng([seed, 1])), seed)


@pytest.mark.timeout(600)
def test_no_sequence_of_chunks_and_requests_exceeds_a_limit():
    running = [running_ticks(ARM, seed) for seed in range(500)]
    assert np.mean(np.array(running) > 20) > 0.5, "most sequences moved the arm"


@pytest.mark.timeout(600)
def test_no_sequence_exceeds_a_limit_of_random_robots():
    running = [check_random_robot(seed) for seed in range(300)]
    assert np.mean(np.array(running) > 20) > 0.4, "most sequences moved the arm"


@pytest.mark.parametrize("seed", [20_210, 20_374])
def test_sequences_that_once_exceeded_a_limit_keep_it(seed):
    check_random_robot(seed)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("check_one", [partial(running_ticks, ARM), check_random_robot])
def test_no_sequence_of_ten_thousand_exceeds_a_limit(check_one):
    seeds = range(10_000, 10_000 + int(os.environ.get("SEQUENCES", "10000")))
    with Pool() as pool:
        for _ in pool.imap_unordered(check_one, seeds, 50):
            pass
