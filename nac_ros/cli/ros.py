"""Commands of `nac` that start ROS 2 nodes: `demo`, `doctor`, `faults` and `node`."""

import argparse
import json
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

from nac_ros.cli import options
from nac_ros.cli.options import Results
from nac_ros.core.errors import NacError

NODES = ("camera", "guard", "policy", "recorder", "relay", "teleop", "trials", "twin", "view")


def add_commands(groups: Any) -> None:
    """Adds `nac demo`, `nac doctor`, `nac faults` and `nac node`."""
    _add_demo(groups)
    _add_doctor(groups)
    _add_faults(groups)
    _add_node(groups)


def _add_demo(groups: Any) -> None:
    command = options.add_command(
        groups, "demo", demo, "trials in the twin over ROS 2, with a report and a video"
    )
    command.add_argument("--bundle", type=Path, help=options.BUNDLE)
    command.add_argument("--trials", type=int, default=5, help="trials per task (default: 5)")
    command.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the run")


def demo(args: Namespace) -> Results:
    """Runs trials of every task of the bundle."""
    from nac_ros.apps.demo import DemoConfig, run_demo

    bundle = str(options.bundle_path(args.bundle))
    return run_demo(
        DemoConfig(bundle=bundle, trials=args.trials, seed=args.seed, out=str(args.out))
    )


def _add_doctor(groups: Any) -> None:
    command = options.add_command(
        groups, "doctor", doctor, "check software, devices, network and the running graph"
    )
    command.add_argument("--robot", default="vx300s", help="name or YAML file of the robot")
    command.add_argument("--bundle", type=Path, help=options.BUNDLE)
    command.add_argument(
        "--seconds", type=float, default=3.0, help="time to listen to topics [s]; 0 = do not"
    )


def doctor(args: Namespace) -> Results:
    """Prints a line for each check; `failed` is true if a check forbids a run."""
    from nac_ros.apps.doctor import DoctorConfig, run_doctor

    bundle = str(options.bundle_path(args.bundle))
    return run_doctor(DoctorConfig(robot=args.robot, bundle=bundle, seconds=args.seconds))


def _add_faults(groups: Any) -> None:
    command = options.add_command(
        groups, "faults", faults, "inject faults while a policy drives the twin"
    )
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="list the faults and their effect")
    what.add_argument(
        "--run", dest="names", nargs="*", metavar="NAME", help="faults to inject (default: all)"
    )
    command.add_argument(
        "--sample", type=options.positive_int, metavar="N", help="N faults at random instead"
    )
    command.add_argument("--bundle", type=Path, help=options.BUNDLE)
    command.add_argument("--out", type=Path, default=Path("runs/faults"), help="folder of the run")


def faults(args: Namespace) -> Results:
    """Injects faults; raises NacError if the arm did not stop as required."""
    from nac_ros.apps.fault_injection import FaultsConfig, run_faults
    from nac_ros.apps.fault_scenarios import FAULTS

    if args.list:
        for fault in FAULTS.values():
            limit = "continues" if fault.stop_s is None else f"stops in {fault.stop_s} s"
            print(f"{fault.name:18s} {limit:16s} {fault.text}")
        return {"rows": [{"fault": name, "allowed_s": f.stop_s} for name, f in FAULTS.items()]}
    config = FaultsConfig(
        bundle=str(options.bundle_path(args.bundle)),
        names=tuple(args.names),
        seed=args.seed,
        out=str(args.out),
        sample=args.sample or 0,
    )
    results = run_faults(config)
    if args.json:  # written even if a fault failed
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    if failed := [row["fault"] for row in results["rows"] if not row["passed"]]:
        raise NacError(f"{len(failed)} of {len(results['rows'])} failed: {', '.join(failed)}")
    return results


def _add_node(groups: Any) -> None:
    text = "start one ROS 2 node, as `ros2 run nac_ros NODE` does"
    command = groups.add_parser("node", help=text, description=text)
    command.set_defaults(run=node)
    command.add_argument("node", choices=NODES, metavar="NODE", help=", ".join(NODES))
    command.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        help="arguments of the node, such as --ros-args -p robot:=vx300s",
    )


def node(args: Namespace) -> None:
    """Runs a node until it ends; its exit status is the command's."""
    try:
        module = import_module(f"nac_ros.nodes.{args.node}")
    except ModuleNotFoundError as error:
        if error.name not in ("rclpy", "rcl_interfaces"):
            raise
        raise NacError(
            f"the node {args.node} needs ROS 2 ({error.name} is missing); source ROS 2, or "
            "`pip install nac_ros[ros]`"
        ) from error
    sys.argv = [args.node, *args.arguments]  # rclpy reads the arguments of the process
    module.main()
