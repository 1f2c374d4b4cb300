"""What the runtime costs against its periods and whether that stays: `make bench`, `make soak`."""

import resource
import time
from collections.abc import Iterator

import numpy as np
import pytest

from nac_ros.control.guard import Guard
from nac_ros.core.config import config_dir
from nac_ros.core.types import ActionChunk
from nac_ros.robot.observation_buffer import ObservationBuffer
from nac_ros.robot.spec import load_robot

SPEC = load_robot("vx300s")
CAMERAS = [camera.name for camera in SPEC.cameras]
IMAGE = np.zeros((SPEC.cameras[0].height, SPEC.cameras[0].width, 3), np.uint8)
NO_TOKENS = np.empty(0, np.int64)
LATENCY = 0.1  # [s] from observation to chunk
EXECUTED = 16  # steps of a chunk before the next one takes over


def sway(times: np.ndarray) -> np.ndarray:
    """A motion `[T, D]` without end: every joint swings about the middle of its range."""
    middle = (SPEC.position_low + SPEC.position_high) / 2
    swing = 0.1 * (SPEC.position_high - SPEC.position_low)
    return middle + swing * np.sin(times[:, None] * np.linspace(0.5, 0.9, SPEC.action_dim))


def replanned(seconds: float) -> Iterator[tuple[Guard, float, float]]:
    """Guard, time [s] and CPU time [s] of each tick while chunks of `sway` follow each other."""
    guard, period, rate = Guard(SPEC), 1 / SPEC.guard_rate_hz, SPEC.action_rate_hz
    guard.measure(0.0, sway(np.zeros(1))[0])
    guard.tick(0.0)
    guard.set_mode("policy")
    planned = -np.inf
    for k in range(1, round(seconds / period)):
        now = k * period
        guard.measure(now, guard.setpoint)
        began = time.thread_time()
        if now > LATENCY and now - planned >= EXECUTED / rate:
            planned, stamp = now, now - LATENCY
            actions = sway(stamp + np.arange(1, 33) / rate).astype(np.float32)
            chunk = ActionChunk(stamp, rate, SPEC.joint_names, actions, NO_TOKENS)
            assert guard.accept(chunk, now) is None
        guard.tick(now)
        guard.motion(now)
        yield guard, now, time.thread_time() - began


def observing(seconds: float) -> Iterator[float]:
    """CPU time [s] of each observation while joints and images come at their rates."""
    aligner = ObservationBuffer(SPEC, CAMERAS, 2)
    for k in range(round(seconds * SPEC.cameras[0].rate_hz)):
        now = 1.7e9 + k / SPEC.cameras[0].rate_hz  # as large as the stamps of a system clock
        aligner.push_joints(now, SPEC.home)
        for camera in CAMERAS:
            aligner.push_image(camera, now, IMAGE)
        began = time.thread_time()
        aligner.observe(now, "marker")
        yield time.thread_time() - began


def share(name: str, durations: list[float], period: float) -> float:
    """99th percentile of `durations` as a share of `period` [s], also printed."""
    p50, p99 = np.percentile(durations, [50, 99]) / period
    print(f"\n{name}: p50 {100 * p50:.1f} %, p99 {100 * p99:.1f} % of {1e3 * period:.0f} ms")
    return float(p99)


@pytest.mark.bench
def test_a_guard_tick_costs_less_than_half_of_its_period():
    durations = [spent for _, _, spent in replanned(30)]
    assert share("guard tick with trajectory", durations, 1 / SPEC.guard_rate_hz) < 0.5


@pytest.mark.bench
def test_an_observation_costs_less_than_a_tenth_of_a_control_period():
    assert share("observation", list(observing(30)), 1 / SPEC.action_rate_hz) < 0.1


@pytest.mark.bench
def test_planning_costs_less_than_half_of_the_executed_steps(request):
    from nac_ros.export.bundle import load_bundle
    from nac_ros.inference.engine import Engine

    shipped = config_dir().parent / "models/default"
    known = (shipped / "manifest.json").is_file()
    engine = Engine(load_bundle(shipped if known else request.getfixturevalue("tiny_bundle")))
    engine.warm_up()
    planning, decoding = [], []
    for _ in range(20):
        engine.warm_up()
        planning.append(engine.timing.plan_s)
        decoding.append(engine.timing.decode_s)
    period = engine.n_action_steps / engine.rate_hz
    share("decoding", decoding, period)
    assert share("planning", planning, period) < 0.5


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_ten_minutes_of_chunks_never_hold_clip_or_slow_the_guard():
    durations, error = [], 0.0
    for guard, now, spent in replanned(600):
        durations.append(spent)
        if now == 60.0:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if now > 1:
            wanted = sway(np.array([now + guard.period]))[0]
            error = max(error, float(np.abs(guard.setpoint - wanted).max()))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # [KiB]
    first, last = np.median(durations[:5000]), np.median(durations[-5000:])
    print(f"\nfarthest from the chunk {1e3 * error:.2f} mrad, {grown} KiB more memory")
    assert not (set(guard.holds) - {"mode_hold", "no_chunk"}), guard.holds
    assert not guard.refusals
    assert not guard.clips.any()
    assert error < 2e-3  # the chord of a control period against its arc
    assert last < 1.5 * first
    assert grown < 8 * 1024  # the list of durations is in it


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_an_hour_of_samples_leaves_the_aligner_as_fast():
    durations = list(observing(3600))
    first, last = np.median(durations[:3000]), np.median(durations[-3000:])
    print(f"\nobservation: {1e6 * first:.0f} us at first, {1e6 * last:.0f} us after an hour")
    assert last < 1.5 * first
