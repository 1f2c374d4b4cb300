"""Commands of `nac` that start ROS 2 nodes: demo, doctor, faults."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from nac_ros.cli import options
from nac_ros.cli.options import bundle_path
from nac_ros.cli.output import Figures
from nac_ros.core.errors import NacError


def add_commands(groups: Any) -> None:
    """Adds the commands of this file to the parser of `nac`."""
    _add_demo(groups)
    _add_doctor(groups)
    _add_faults(groups)


def _add_demo(groups: Any) -> None:
    demo_command = options.add_command(
        groups, "demo", demo, "trials of both tasks over ROS 2, with a report"
    )
    demo_command.add_argument(
        "--bundle", type=Path, help="bundle to run, models/default by default"
    )
    demo_command.add_argument("--trials", type=int, default=5, help="trials of each task")
    demo_command.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="folder for the run"
    )


def _add_doctor(groups: Any) -> None:
    doctor_command = options.add_command(
        groups, "doctor", doctor, "what a run depends on, line by line"
    )
    doctor_command.add_argument("--robot", default="vx300s", help="name or YAML file of the robot")
    doctor_command.add_argument(
        "--bundle", type=Path, help="bundle to check, models/default by default"
    )
    doctor_command.add_argument(
        "--seconds", type=float, default=3.0, help="how long topics are listened to; 0 = not"
    )


def _add_faults(groups: Any) -> None:
    faults_command = options.add_command(
        groups, "faults", faults, "make things fail while a policy moves the twin"
    )
    what = faults_command.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="the faults and what they do")
    what.add_argument(
        "--run",
        dest="names",
        nargs="*",
        metavar="NAME",
        help="make these happen; all if none is named",
    )
    faults_command.add_argument(
        "--random", type=options.positive_int, help="so many at random instead"
    )
    faults_command.add_argument(
        "--bundle", type=Path, help="bundle that drives, models/default by default"
    )
    faults_command.add_argument(
        "--out", type=Path, default=Path("runs/faults"), help="folder of the run"
    )


def demo(a: Namespace) -> Figures:
    """Trials of every task of the bundle over ROS 2."""
    from nac_ros.apps.demo import (
        DemoConfig,
        run_demo,  # rclpy only where it is needed
    )

    bundle = str(bundle_path(a.bundle))
    config = DemoConfig(bundle=bundle, trials=a.trials, seed=a.seed, out=str(a.out))
    return run_demo(config)


def doctor(a: Namespace) -> Figures:
    """Everything that a run depends on; exit code 1 when something forbids one."""
    from nac_ros.apps.doctor import DoctorConfig, run_doctor

    bundle = str(bundle_path(a.bundle))
    return run_doctor(DoctorConfig(robot=a.robot, bundle=bundle, seconds=a.seconds))


def faults(a: Namespace) -> Figures:
    """What can fail, made to fail; raises NacError where the arm did not do as it should."""
    from nac_ros.apps.fault_injection import FaultsConfig, run_faults
    from nac_ros.apps.fault_scenarios import FAULTS

    if a.list:
        for fault in FAULTS.values():
            limit = "goes on" if fault.stop_s is None else f"rests in {fault.stop_s} s"
            print(f"{fault.name:18s} {limit:16s} {fault.text}")
        return {"rows": [{"fault": name, "allowed_s": f.stop_s} for name, f in FAULTS.items()]}
    config = FaultsConfig(
        bundle=str(bundle_path(a.bundle)), names=tuple(a.names), seed=a.seed, out=str(a.out),
        shuffled=a.random or 0,
    )  # fmt: skip
    figures = run_faults(config)
    if a.json:  # also where one failed
        a.json.write_text(json.dumps(figures, indent=1) + "\n")
    if failed := [row["fault"] for row in figures["rows"] if not row["passed"]]:
        raise NacError(f"{len(failed)} of {len(figures['rows'])} failed: {', '.join(failed)}")
    return figures
