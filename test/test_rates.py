"""CPU time of the runtime per period, and whether it stays constant: `make bench`, `make soak`."""

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
EXECUTED = 16  # executed steps of a chunk


def oscillation(times: np.ndarray) -> np.ndarray:
    """An endless motion `[T, D]`: every joint oscillates around the middle of its range."""
    middle = (SPEC.position_low + SPEC.position_high) / 2
    swing = 0.1 * (SPEC.position_high - SPEC.position_low)
    return middle + swing * np.sin(times[:, None] * np.linspace(0.5, 0.9, SPEC.action_dim))


def run_guard(seconds: float) -> Iterator[tuple[Guard, float, float]]:
    """Guard, time [s] and CPU time [s] of each tick; chunks of `oscillation` follow each other."""
    guard, period, rate = Guard(SPEC), 1 / SPEC.guard_rate_hz, SPEC.action_rate_hz
    guard.update_joint_state(0.0, oscillation(np.zeros(1))[0])
    guard.tick(0.0)
    guard.set_mode("policy")
    planned = -np.inf
    for k in range(1, round(seconds / period)):
        now = k * period
        guard.update_joint_state(now, guard.setpoint)
        began = time.thread_time()
        if now > LATENCY and now - planned >= EXECUTED / rate:
            planned, stamp = now, now - LATENCY
            actions = oscillation(stamp + np.arange(1, 33) / rate).astype(np.float32)
            chunk = ActionChunk(stamp, rate, SPEC.joint_names, actions, NO_TOKENS)
            assert guard.accept(chunk, now) is None
        guard.tick(now)
        guard.trajectory(now)
        yield guard, now, time.thread_time() - began


def run_observation_buffer(seconds: float) -> Iterator[float]:
    """CPU time [s] of each observation while joints and images come at their rates."""
    buffer = ObservationBuffer(SPEC, CAMERAS, 2)
    for k in range(round(seconds * SPEC.cameras[0].rate_hz)):
        now = 1.7e9 + k / SPEC.cameras[0].rate_hz  # as large as the stamps of a system clock
        buffer.add_joint_state(now, SPEC.home)
        for camera in CAMERAS:
            buffer.add_image(camera, now, IMAGE)
        began = time.thread_time()
        buffer.get_observation(now, "marker")
        yield time.thread_time() - began


def print_share(name: str, durations: list[float], period: float) -> float:
    """99th percentile of `durations` as a share of `period` [s], also printed."""
    p50, p99 = np.percentile(durations, [50, 99]) / period
    print(f"\n{name}: p50 {100 * p50:.1f} %, p99 {100 * p99:.1f} % of {1e3 * period:.0f} ms")
    return float(p99)


@pytest.mark.bench
def test_a_guard_tick_costs_less_than_half_of_its_period():
    durations = [spent for _, _, spent in run_guard(30)]
    assert print_share("guard tick with trajectory", durations, 1 / SPEC.guard_rate_hz) < 0.5


@pytest.mark.bench
def test_an_observation_costs_less_than_a_tenth_of_a_control_period():
    assert (
        print_share("observation", list(run_observation_buffer(30)), 1 / SPEC.action_rate_hz) < 0.1
    )


@pytest.mark.bench
def test_a_prediction_costs_less_than_half_of_the_executed_steps(request):
    from nac_ros.inference.engine import Engine
    from nac_ros.inference.load_runtime import load_runtime

    shipped = config_dir().parent / "models/default"
    known = (shipped / "manifest.json").is_file()
    engine = Engine(load_runtime(shipped if known else request.getfixturevalue("tiny_bundle")))
    engine.warm_up()
    planning, decoding = [], []
    for _ in range(20):
        engine.warm_up()
        planning.append(engine.timing.predict_s)
        decoding.append(engine.timing.decode_s)
    period = engine.n_action_steps / engine.rate_hz
    print_share("decoding", decoding, period)
    assert print_share("planning", planning, period) < 0.5


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_ten_minutes_of_chunks_never_hold_clip_or_slow_the_guard():
    durations, error = [], 0.0
    for guard, now, spent in run_guard(600):
        durations.append(spent)
        if now == 60.0:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if now > 1:
            wanted = oscillation(np.array([now + guard.period]))[0]
            error = max(error, float(np.abs(guard.setpoint - wanted).max()))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # [KiB]
    first, last = np.median(durations[:5000]), np.median(durations[-5000:])
    print(f"\nfarthest from the chunk {1e3 * error:.2f} mrad, {grown} KiB more memory")
    assert not (set(guard.holds) - {"mode_hold", "no_chunk"}), guard.holds
    assert not guard.rejections
    assert not guard.clips.any()
    assert error < 2e-3  # difference between chord and arc of a control period
    assert last < 1.5 * first
    assert grown < 8 * 1024  # includes the list of durations


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_the_observation_buffer_is_as_fast_after_an_hour_of_samples():
    durations = list(run_observation_buffer(3600))
    first, last = np.median(durations[:3000]), np.median(durations[-3000:])
    print(f"\nobservation: {1e6 * first:.0f} us at first, {1e6 * last:.0f} us after an hour")
    assert last < 1.5 * first
