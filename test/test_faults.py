"""`nac faults`: every fault over real DDS, and an evaluation that detects a wrong stop."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from nac_ros.cli.main import main
from nac_ros.core.config import config_dir
from nac_ros.core.errors import UnknownName
from nac_ros.robot.spec import load_robot

pytest.importorskip("rclpy")

from nac_ros.apps import fault_injection
from nac_ros.apps.fault_injection import FaultsConfig, evaluate_fault, run_faults
from nac_ros.apps.fault_scenarios import FAULTS
from nac_ros.apps.fault_test_bench import MeasuredMotion
from nac_ros.ros.processes import SHARED_MEMORY

SPEC = load_robot("vx300s")
SHIPPED = str(config_dir().parent / "models" / "default")
BEGAN = 100.0
MAX_UNDECIDED = 3  # of 25 faults, on a machine too busy to judge them


def stopping(rest_s=0.3, speed=0.5, steps=300):
    """One joint that decelerates evenly from `BEGAN` on and rests after `rest_s`."""
    times = BEGAN + np.arange(steps) / 100
    after = np.clip(times - BEGAN, 0, rest_s)
    rows = np.zeros((3, steps, SPEC.action_dim))
    rows[0, :, 1] = speed * (after - after**2 / (2 * rest_s))
    rows[1, :, 1] = speed * (1 - after / rest_s)
    rows[2, :, 1] = np.where(after < rest_s, -speed / rest_s, 0.0)
    smooth = np.convolve(rows[2, :, 1], np.full(5, 0.2), "same")
    rows[2, :, 1] = smooth
    return MeasuredMotion(times, times, *rows)


def evaluated(motion, fault="policy-killed", reported=("heartbeat_lost",), guard_faults=()):
    return evaluate_fault(FAULTS[fault], SPEC, motion, BEGAN, set(reported), set(guard_faults))


def test_a_smooth_stop_in_time_with_its_reason_passes():
    row = evaluated(stopping())
    assert row["passed"] and row["time_to_stop_s"] == pytest.approx(0.29, abs=0.02)
    assert 0.1 < row["peak_velocity_ratio"] < 0.2 and row["peak_jerk_ratio"] < 1
    assert row["travel"] == pytest.approx(0.075, abs=0.005)


@pytest.mark.parametrize(
    ("motion", "reported"),
    [
        (stopping(rest_s=1.5), ("heartbeat_lost",)),
        (stopping(), ("chunk_ended",)),
        (stopping(rest_s=10.0), ("heartbeat_lost",)),
        (replace(stopping(), accelerations=30 * stopping().accelerations), ("heartbeat_lost",)),
        (replace(stopping(), velocities=9 * stopping().velocities), ("heartbeat_lost",)),
    ],
)
def test_a_late_unexplained_or_rough_stop_fails(motion, reported):
    assert not evaluated(motion, reported=reported)["passed"]


def test_a_fault_that_must_not_stop_the_arm_passes_with_its_reason_alone():
    moving = stopping(rest_s=10.0)
    assert evaluated(moving, "chunk-nan", ("not_finite",))["passed"]
    assert not evaluated(moving, "chunk-nan", ())["passed"]
    assert evaluated(moving, "joints-reordered", ())["passed"]
    assert not evaluated(stopping(), "joints-reordered", (), ("tick_gap",))["passed"]


def test_the_list_names_every_fault(capsys):
    assert main(["faults", "--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in FAULTS) and len(FAULTS) >= 24
    with pytest.raises(UnknownName, match="unknown fault 'earthquake'; known are: policy-killed"):
        FaultsConfig(bundle="b", names=("earthquake",))


@pytest.mark.timeout(1200)
def test_every_fault_passes_over_dds(tmp_path):
    results = run_faults(FaultsConfig(bundle=SHIPPED, out=str(tmp_path)))
    json.dumps(results)
    assert {row["fault"] for row in results["rows"]} == set(FAULTS)
    failed = [row for row in results["rows"] if not row["passed"]]
    assert [row for row in failed if not row["undecided"]] == []
    assert len(failed) <= MAX_UNDECIDED


class BusyBench:
    """A bench whose policy process is so slow that every motion loses its heartbeat."""

    spec = SPEC

    def __init__(self, stops_without_fault):
        self.stops_without_fault, self.injected, self.is_injected = stops_without_fault, 0, False

    def run_until_moving(self, task, trial):
        self.is_injected = False

    def inject_fault(self):
        self.injected, self.is_injected = self.injected + 1, True

    def clear_reports(self):
        pass

    def mark(self):
        return 0

    def motion_since(self, mark):
        return stopping(rest_s=10.0)

    def reasons(self):
        return {"not_finite"}

    def guard_faults(self):
        stops = self.is_injected or self.stops_without_fault
        return {"heartbeat_lost"} if stops else set()

    def resource_usage(self):
        return {}


@pytest.mark.parametrize("stops_without_fault", [True, False])
def test_a_stop_of_a_busy_machine_is_undecided_and_one_by_the_fault_fails(
    stops_without_fault, monkeypatch, capsys
):
    monkeypatch.setattr(fault_injection.time, "sleep", lambda seconds: None)
    bench = BusyBench(stops_without_fault)
    fault = replace(FAULTS["chunk-nan"], inject=BusyBench.inject_fault)
    row = fault_injection._run_fault(bench, fault, 0)
    assert not row["passed"] and row["undecided"] == stops_without_fault
    limits = fault_injection.BUSY_ATTEMPTS, fault_injection.ATTEMPTS
    assert bench.injected == row["attempts"] == limits[0 if stops_without_fault else 1]
    word = "undecided" if stops_without_fault else "FAILED"
    assert word in capsys.readouterr().out


def graph_of(row):
    """The options of the graph that the fault ran in."""
    return FAULTS[row["fault"]].graph


def segments():
    """Shared-memory segments of processes; those of a domain's ports are reused and stay."""
    names = {path.name for path in SHARED_MEMORY.glob("fastdds_*")}
    return {name for name in names if not name.startswith("fastdds_port")}


@pytest.mark.soak
@pytest.mark.timeout(6000)
def test_two_hundred_random_faults_leak_no_memory_and_no_handles(tmp_path):
    shared = segments()
    handles = len(os.listdir("/proc/self/fd"))
    results = run_faults(FaultsConfig(bundle=SHIPPED, out=str(tmp_path), sample=200))
    rows = results["rows"]
    for graph in {graph_of(row) for row in rows}:
        usage = [row["resources"] for row in rows if graph_of(row) == graph]
        middle, end = usage[len(usage) // 2], usage[-1]
        print(f"\n{len(usage)} faults of one graph: from {middle} to {end}")
        if len(usage) > 100:
            assert end["memory_kib"] < 1.02 * middle["memory_kib"]
            assert end["handles"] <= middle["handles"] + 2
            assert end["segments"] <= middle["segments"] + 2
    failed = [row["fault"] for row in rows if not row["passed"]]
    first = sum(row["attempts"] == 1 for row in rows)
    print(f"at the first attempt {first} of {len(rows)}")
    assert failed == [] and first > 0.9 * len(rows)
    assert segments() <= shared
    assert len(os.listdir("/proc/self/fd")) <= handles + 5
