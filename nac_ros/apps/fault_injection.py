"""`nac faults`: what can fail, made to fail while a policy moves the twin over DDS, measured."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nac_ros.apps.fault_scenarios import FAULTS, Fault
from nac_ros.apps.fault_test_bench import FaultTestBench, MeasuredMotion
from nac_ros.core import config as configs
from nac_ros.core.errors import ConfigError, UnknownName
from nac_ros.core.provenance import environment
from nac_ros.robot.spec import RobotSpec, current_spec_of, load_robot

PEAK = 1.001  # of a limit that may be reached
WATCH_S = 2.0  # beside the time that a fault is given
STILL = 1e-6  # [rad/s or m/s]
TRIES = 5  # a machine that is busy stops an arm for reasons of its own; each attempt is told
TASK = "marker"


@dataclass(frozen=True, kw_only=True)
class FaultsConfig:
    """bundle: folder; names: of faults, all if empty; seed: of the scenes; out: folder of runs;
    shuffled: so many at random instead, 0 = each once"""

    bundle: str
    names: tuple[str, ...] = ()
    seed: int = 0
    out: str = "runs/faults"
    shuffled: int = 0

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in FAULTS:
                raise UnknownName(f"no fault '{name}'; known are: {', '.join(FAULTS)}")
        if self.shuffled < 0:
            raise ConfigError(f"shuffled must be at least 0, got {self.shuffled}")


def run_faults(config: FaultsConfig) -> dict[str, Any]:
    """Each fault in turn, by kind of graph; the object of SPEC section 8, with the reasons."""
    spec = current_spec_of(load_robot(Path(config.bundle) / "robot.yaml"))
    folder = Path(config.out) / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    order = _order(config)
    rows = []
    for number, (key, faults) in enumerate(_by_graph(order)):
        part = folder / f"graph-{number:02d}"
        with _rig(config, spec, part, key) as rig:
            rows += [_measured(rig, fault, config.seed + i) for i, fault in enumerate(faults)]
    return {"rows": rows, "bundle": config.bundle, "folder": str(folder), **environment()}


def _order(config: FaultsConfig) -> list[Fault]:
    names = list(config.names or FAULTS)
    if config.shuffled:
        names = np.random.default_rng(config.seed).choice(names, config.shuffled).tolist()
    return [FAULTS[name] for name in names]


def _by_graph(faults: Sequence[Fault]) -> Iterator[tuple[Fault, list[Fault]]]:
    """Faults that can share a graph, one after the other."""
    kinds: dict[tuple, list[Fault]] = {}
    for fault in faults:
        kinds.setdefault((fault.sim_time, fault.before, fault.prepare, fault.twin), []).append(
            fault
        )
    for group in kinds.values():
        yield group[0], group


@contextmanager
def _rig(
    config: FaultsConfig, spec: RobotSpec, folder: Path, kind: Fault
) -> Iterator[FaultTestBench]:
    folder.mkdir(parents=True)
    robot = folder / "robot.yaml"
    robot.write_text(yaml.safe_dump(configs.to_plain(spec), sort_keys=False))
    domain = 1 + (os.getpid() + int(kind.sim_time)) % 100
    bundle, before, twin = Path(config.bundle).resolve(), dict(kind.before), dict(kind.twin)
    if kind.prepare is not None:
        kind.prepare(folder)
    given = (kind.sim_time, before, twin)
    with FaultTestBench(folder, bundle, robot.resolve(), spec, domain, *given) as rig:
        yield rig


def _measured(rig: FaultTestBench, fault: Fault, trial: int) -> dict[str, Any]:
    for attempt in range(TRIES):
        row = _once(rig, fault, trial + 10 * attempt)
        row["attempts"] = attempt + 1
        if row["passed"]:
            break
        print(f"  {fault.name} at attempt {attempt + 1}: {row}", flush=True)
    print(
        f"{fault.name:24s} {'passed' if row['passed'] else 'FAILED'}  "
        f"stop {_shown(row['time_to_stop_s'])} s, peaks {row['peak_velocity_ratio']:.3f} "
        f"{row['peak_acceleration_ratio']:.3f} {row['peak_jerk_ratio']:.3f}, travel "
        f"{row['travel']:.3f}, {', '.join(row['reasons'])}",
        flush=True,
    )
    return row


def _once(rig: FaultTestBench, fault: Fault, trial: int) -> dict[str, Any]:
    rig.drive(TASK, trial)
    rig.forget()
    mark = rig.mark()
    began = time.monotonic()
    fault.act(rig)
    time.sleep((fault.stop_s or 1.0) + WATCH_S)
    motion = rig.motion(mark)
    heard, stopped_for = rig.reasons(), rig.guard_faults()
    fault.after(rig)
    return judge(fault, rig.spec, motion, began, heard, stopped_for) | {"held": rig.held()}


def judge(
    fault: Fault, spec: RobotSpec, motion: MeasuredMotion, began: float, heard: set[str],
    stopped_for: set[str],
) -> dict[str, Any]:  # fmt: skip
    """The row of one fault that began at `began` [s].

    heard: every reason given meanwhile; stopped_for: those of them that are the guard's faults,
        of which there must be none where the arm is to go on
    """
    speeds = np.abs(motion.velocities)
    moving = np.flatnonzero((speeds > STILL).any(1))
    last = moving[-1] if len(moving) else 0
    rests = last + 1 < len(motion.times) and motion.times[-1] - motion.times[last] > 0.5
    to_stop = max(float(motion.times[last] - began), 0.0) if rests else None
    peaks = peak_ratios(spec, motion)
    start = motion.positions[0]
    row = {
        "fault": fault.name,
        "passed": False,
        "time_to_stop_s": to_stop,
        **peaks,
        "travel": float(np.abs(motion.positions[-1] - start)[spec.relative_mask].max()),
        "allowed_s": fault.stop_s,
        "reasons": sorted(heard & set(fault.reasons)),
        "heard": sorted(heard - {""}),
        "stopped_for": sorted(stopped_for),
    }
    if fault.stop_s is None:
        as_wanted = not stopped_for
    else:
        as_wanted = to_stop is not None and to_stop <= fault.stop_s
    inside = max(peaks.values()) <= PEAK
    row["passed"] = as_wanted and inside and (bool(row["reasons"]) or not fault.reasons)
    return row


def peak_ratios(spec: RobotSpec, motion: MeasuredMotion) -> dict[str, float]:
    """Peaks of what the controller interpolated, as shares of the limits."""
    apart = np.diff(motion.stamps)
    even = (apart > 1e-4) & (apart < 0.1)
    jerks = np.abs(np.diff(motion.accelerations, axis=0)[even]) / apart[even, None]
    return {
        "peak_velocity_ratio": _peak(motion.velocities, spec.velocity_limit),
        "peak_acceleration_ratio": _peak(motion.accelerations, spec.acceleration_limit),
        "peak_jerk_ratio": _peak(jerks, spec.jerk_limit),
    }


def _peak(values: np.ndarray, limit: np.ndarray) -> float:
    return float((np.abs(values) / limit).max()) if len(values) else 0.0


def _shown(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f}"
