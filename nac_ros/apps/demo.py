"""`nac demo`: twin, guard and policy as processes over DDS, judged trials, and a report."""

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import yaml
from lifecycle_msgs.msg import Transition

from nac_ros.apps.demo_results import figures, print_table, render
from nac_ros.apps.demo_trials import IDLE_S, Trials
from nac_ros.core import config as configs
from nac_ros.core.errors import ConfigError, UnknownName
from nac_ros.core.provenance import environment
from nac_ros.export.manifest import read_manifest
from nac_ros.reporting.trial_trace import TrialTrace
from nac_ros.robot.spec import RobotSpec, current_spec_of, load_robot
from nac_ros.ros.graph_client import GraphClient
from nac_ros.ros.node_graph import NodeProcess, policy_graph, twin_graph
from nac_ros.ros.processes import ProcessGroup
from nac_ros.simulation.tasks import list_tasks

DOMAINS = 100  # ROS_DOMAIN_ID 1..100 keeps clear of Linux's ephemeral ports


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """bundle: folder; trials: of each of its tasks; seed: of the scenes; out: folder of runs."""

    bundle: str
    trials: int = 5
    seed: int = 0
    out: str = "runs/demo"

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ConfigError(f"trials must be at least 1, got {self.trials}")


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Runs the trials, writes <out>/<time>/ and prints the table; returns result.json's object."""
    tasks = _tasks(config)
    spec = current_spec_of(load_robot(Path(config.bundle) / "robot.yaml"))
    folder = Path(config.out) / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    _write_config(folder, config)
    with (folder / "events.jsonl").open("w") as file, _sigterm_as_ctrl_c():
        events = Events(file)
        traces, collected = _play(config, tasks, spec, folder, events)
        result = figures(config.bundle, config.seed, traces, collected)
        events.write("rendering", folder=str(folder))
        print("rendering the video and the report ...", flush=True)
        render(folder, result, traces, collected)
        events.write("done")
    print_table(result, folder)
    return result


class Events:
    """One JSON object a line, written at once."""

    def __init__(self, file):
        self._file = file

    def write(self, event: str, **facts: Any) -> None:
        self._file.write(json.dumps({"time": time.time(), "event": event, **facts}) + "\n")
        self._file.flush()


@contextmanager
def running(
    graph: Sequence[NodeProcess], folder: Path, events: Events | None = None
) -> Iterator[tuple[ProcessGroup, GraphClient]]:
    """The graph as processes on a domain of its own, configured and active, with logs in
    <folder>/logs; ended on leaving."""
    tell = events.write if events else lambda *_, **__: None
    domain = 1 + os.getpid() % DOMAINS
    variables = {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    with _variables(variables), ProcessGroup(folder / "logs", variables) as processes:
        for node in graph:
            tell("process started", node=node.name, pid=processes.start(node))
        with GraphClient(domain, watch=processes.check) as operator:
            for node in graph:
                if node.lifecycle:
                    operator.change_state(node.name, Transition.TRANSITION_CONFIGURE)
                    operator.change_state(node.name, Transition.TRANSITION_ACTIVATE)
                    tell("activated", node=node.name)
            yield processes, operator


def _play(
    config: DemoConfig, tasks: tuple[str, ...], spec: RobotSpec, folder: Path, events: Events
) -> tuple[list[TrialTrace], Trials]:
    robot = str((folder / "robot.yaml").resolve())
    Path(robot).write_text(yaml.safe_dump(configs.to_plain(spec), sort_keys=False))
    bundle = str(Path(config.bundle).resolve())
    graph = (
        *twin_graph(robot, task=tasks[0], recordings=str((folder / "trials").resolve())),
        *policy_graph(bundle, robot, str((folder / "call_log").resolve()), seed=config.seed),
    )
    print(f"starting {', '.join(node.name for node in graph)} ...", flush=True)
    with running(graph, folder, events) as (_, operator):
        trials = Trials(operator, spec, config.seed)
        trials.prepare(tasks)
        print(f"measuring the idle machine for {IDLE_S:.0f} s ...", flush=True)
        trials.measure_idle()
        events.write("idle measured", commands=len(trials.idle_s))
        traces = []
        for task in tasks:
            for trial in range(config.trials):
                trace = trials.play(task, trial)
                traces.append(trace)
                _tell(trace, trials, config.trials, events)
        return traces, trials


def _tell(trace: TrialTrace, trials: Trials, n_trials: int, events: Events) -> None:
    print(
        f"{trace.task} {trace.trial + 1}/{n_trials}: {trace.outcome} after "
        f"{trace.duration_s:.1f} s, {trace.reason}",
        flush=True,
    )
    for row in trials.new_events():
        events.write(**row)
    facts = {"outcome": trace.outcome, "reason": trace.reason, "chunks": len(trace.chunk_stamps)}
    events.write("trial ended", task=trace.task, trial=trace.trial, **facts)


def _tasks(config: DemoConfig) -> tuple[str, ...]:
    tasks = tuple(read_manifest(Path(config.bundle)).tasks)
    for task in tasks:
        if task not in list_tasks():
            known = ", ".join(list_tasks())
            raise UnknownName(f"{config.bundle} learned '{task}', but the twin plays: {known}")
    return tasks


def _write_config(folder: Path, config: DemoConfig) -> None:
    facts = {"config": asdict(config), **environment()}
    (folder / "config.yaml").write_text(yaml.safe_dump(facts, sort_keys=False))


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for this process's own middleware, put back afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
