"""`nac faults`: injects faults while a policy moves the twin over DDS, and measures the stops."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nac_ros.apps.demo import N_DOMAINS, make_run_folder
from nac_ros.apps.fault_scenarios import FAULTS, Fault
from nac_ros.apps.fault_test_bench import FaultTestBench, GraphOptions, MeasuredMotion
from nac_ros.core import config as configs
from nac_ros.core.errors import ConfigError, UnknownName
from nac_ros.core.provenance import environment
from nac_ros.robot.spec import RobotSpec, current_spec_of, load_robot

MAX_PEAK = 1.001  # of a limit
OBSERVE_S = 2.0  # in addition to the fault's time limit
REST_S = 0.5  # without motion, after which the arm counts as at rest
STILL = 1e-6  # [rad/s or m/s]
ATTEMPTS = 5  # a busy machine may stop the arm for another reason; every attempt is printed
BUSY_ATTEMPTS = 8  # not counted, because the arm also stopped when no fault was injected
TASK = "marker"


@dataclass(frozen=True, kw_only=True)
class FaultsConfig:
    """bundle: folder; names: of the faults, () for all; seed: of the scenes and of the sample
    out: folder of all fault runs; sample: number of faults to draw at random, 0 = each one once
    """

    bundle: str
    names: tuple[str, ...] = ()
    seed: int = 0
    out: str = "runs/faults"
    sample: int = 0

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in FAULTS:
                raise UnknownName(f"unknown fault '{name}'; known are: {', '.join(FAULTS)}")
        if self.sample < 0:
            raise ConfigError(f"sample must be at least 0, got {self.sample}")


def run_faults(config: FaultsConfig) -> dict[str, Any]:
    """Injects every fault and returns {"rows": [...]}, one row per fault, with provenance."""
    spec = current_spec_of(load_robot(Path(config.bundle) / "robot.yaml"))
    folder = make_run_folder(config.out)
    rows = []
    for number, (options, faults) in enumerate(_by_graph(_selected(config)).items()):
        with _bench(config, spec, folder / f"graph-{number:02d}", options) as bench:
            rows += [_run_fault(bench, fault, config.seed + i) for i, fault in enumerate(faults)]
    return {"rows": rows, "bundle": config.bundle, "folder": str(folder), **environment()}


def _selected(config: FaultsConfig) -> list[Fault]:
    names = list(config.names or FAULTS)
    if config.sample:
        names = np.random.default_rng(config.seed).choice(names, config.sample).tolist()
    return [FAULTS[name] for name in names]


def _by_graph(faults: Sequence[Fault]) -> dict[GraphOptions, list[Fault]]:
    """Faults that can share a graph, by its options."""
    groups: dict[GraphOptions, list[Fault]] = {}
    for fault in faults:
        groups.setdefault(fault.graph, []).append(fault)
    return groups


@contextmanager
def _bench(
    config: FaultsConfig, spec: RobotSpec, folder: Path, options: GraphOptions
) -> Iterator[FaultTestBench]:
    folder.mkdir(parents=True)
    robot = folder / "robot.yaml"
    robot.write_text(yaml.safe_dump(configs.to_plain(spec), sort_keys=False))
    domain = 1 + (os.getpid() + int(options.sim_time)) % N_DOMAINS
    if options.prepare is not None:
        options.prepare(folder)
    bundle = Path(config.bundle).resolve()
    with FaultTestBench(folder, bundle, robot.resolve(), spec, domain, options) as bench:
        yield bench


def _run_fault(bench: FaultTestBench, fault: Fault, trial: int) -> dict[str, Any]:
    """Repeats a fault until it passes, at most ATTEMPTS times; returns the last row.

    A stop that must not happen counts only if the arm moves on when nothing is injected: a machine
    too busy to send every heartbeat in time stops the arm by itself. After BUSY_ATTEMPTS such
    attempts the row is `undecided`.
    """
    attempts = busy = 0
    while True:
        row = _run_once(bench, fault, trial + 10 * (attempts + busy))
        if not row["passed"]:
            print(f"  {fault.name} at attempt {attempts + busy + 1}: {row}", flush=True)
        if row["passed"] or fault.stop_s is not None or _moves_on(bench, trial):
            attempts += 1
        else:
            busy += 1
        if row["passed"] or attempts == ATTEMPTS or busy == BUSY_ATTEMPTS:
            break
    row |= {"attempts": attempts + busy, "busy_attempts": busy}
    row["undecided"] = not row["passed"] and busy == BUSY_ATTEMPTS
    stop_s = row["time_to_stop_s"]
    print(
        f"{fault.name:24s} {_verdict(row)}  "
        f"stop {'-' if stop_s is None else f'{stop_s:.2f}'} s, peaks "
        f"{row['peak_velocity_ratio']:.3f} {row['peak_acceleration_ratio']:.3f} "
        f"{row['peak_jerk_ratio']:.3f}, travel {row['travel']:.3f}, {', '.join(row['reasons'])}",
        flush=True,
    )
    return row


def _verdict(row: dict[str, Any]) -> str:
    if row["undecided"]:
        return "undecided, machine too busy"
    return "passed" if row["passed"] else "FAILED"


def _moves_on(bench: FaultTestBench, trial: int) -> bool:
    """Moves the arm without a fault; whether the guard did not stop it."""
    bench.run_until_moving(TASK, trial)
    bench.clear_reports()
    time.sleep(1.0 + OBSERVE_S)
    return not bench.guard_faults()


def _run_once(bench: FaultTestBench, fault: Fault, trial: int) -> dict[str, Any]:
    bench.run_until_moving(TASK, trial)
    bench.clear_reports()
    mark = bench.mark()
    began = time.monotonic()
    fault.inject(bench)
    time.sleep((fault.stop_s or 1.0) + OBSERVE_S)
    motion = bench.motion_since(mark)
    reasons, guard_faults = bench.reasons(), bench.guard_faults()
    fault.undo(bench)
    row = evaluate_fault(fault, bench.spec, motion, began, reasons, guard_faults)
    return row | {"resources": bench.resource_usage()}


def evaluate_fault(
    fault: Fault,
    spec: RobotSpec,
    motion: MeasuredMotion,
    began: float,
    reported: set[str],
    guard_faults: set[str],
) -> dict[str, Any]:
    """The row of a fault that was injected at `began` [s].

    A fault passes if the arm rests within `stop_s`, or if the guard reported no fault when the arm
    must not stop; if the motion stays within the limits; and if an expected reason was reported.
    reported: all reasons of guard and policy; guard_faults: those for which the guard stopped
    """
    moving = np.flatnonzero((np.abs(motion.velocities) > STILL).any(1))
    last = moving[-1] if len(moving) else 0
    is_at_rest = motion.times[-1] - motion.times[last] > REST_S
    time_to_stop = max(float(motion.times[last] - began), 0.0) if is_at_rest else None
    if fault.stop_s is None:
        stopped_as_required = not guard_faults
    else:
        stopped_as_required = time_to_stop is not None and time_to_stop <= fault.stop_s
    peaks = peak_ratios(spec, motion)
    reasons = sorted(reported & set(fault.reasons))
    displacement = np.abs(motion.positions[-1] - motion.positions[0])
    return {
        "fault": fault.name,
        "passed": stopped_as_required
        and max(peaks.values()) <= MAX_PEAK
        and (bool(reasons) or not fault.reasons),
        "time_to_stop_s": time_to_stop,
        **peaks,
        "travel": float(displacement[spec.relative_mask].max()),
        "allowed_s": fault.stop_s,
        "reasons": reasons,
        "reported": sorted(reported - {""}),
        "guard_faults": sorted(guard_faults),
    }


def peak_ratios(spec: RobotSpec, motion: MeasuredMotion) -> dict[str, float]:
    """Peaks of the controller's interpolated motion, as shares of the limits."""
    steps = np.diff(motion.stamps)
    valid = (steps > 1e-4) & (steps < 0.1)  # no clock reset and no lost set-point
    jerks = np.diff(motion.accelerations, axis=0)[valid] / steps[valid, None]
    return {
        "peak_velocity_ratio": _peak(motion.velocities, spec.velocity_limit),
        "peak_acceleration_ratio": _peak(motion.accelerations, spec.acceleration_limit),
        "peak_jerk_ratio": _peak(jerks, spec.jerk_limit),
    }


def _peak(values: np.ndarray, limit: np.ndarray) -> float:
    return float((np.abs(values) / limit).max()) if len(values) else 0.0
