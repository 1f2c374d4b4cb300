"""`nac demo`: trials of a policy on the twin, all nodes as processes over DDS, and a report."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, TextIO

import yaml
from lifecycle_msgs.msg import Transition

from nac_ros.apps.demo_results import make_result, print_summary, write_outputs
from nac_ros.apps.demo_trials import IDLE_S, DemoTrials
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

OnEvent = Callable[..., None]  # called with the event's name and values
N_DOMAINS = 100  # ROS_DOMAIN_ID 1..100 avoids Linux's ephemeral ports


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """bundle: folder; trials: per task; seed: of the scenes; out: folder of all demo runs"""

    bundle: str
    trials: int = 5
    seed: int = 0
    out: str = "runs/demo"

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ConfigError(f"trials must be at least 1, got {self.trials}")


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Runs the trials, writes the folder <out>/<time> and prints a summary.

    Returns the object of result.json.
    """
    tasks = _tasks(config)
    spec = current_spec_of(load_robot(Path(config.bundle) / "robot.yaml"))
    folder = make_run_folder(config.out)
    provenance = {"config": asdict(config), **environment()}
    (folder / "config.yaml").write_text(yaml.safe_dump(provenance, sort_keys=False))
    with (folder / "events.jsonl").open("w") as file, _sigterm_as_ctrl_c():
        on_event = partial(_write_event, file)
        traces, trials = _run_trials(config, tasks, spec, folder, on_event)
        result = make_result(config.bundle, config.seed, traces, trials)
        on_event("rendering", folder=str(folder))
        print("rendering the video and the report ...", flush=True)
        write_outputs(folder, result, traces, trials)
        on_event("done")
    print_summary(result, folder)
    return result


def _write_event(file: TextIO, event: str, /, **values: Any) -> None:
    """Writes one JSON object as a line, without buffering."""
    print(json.dumps({"time": time.time(), "event": event, **values}), file=file, flush=True)


def make_run_folder(parent: Path | str) -> Path:
    """A new folder in `parent`, named by the time."""
    folder = Path(parent) / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    return folder


@contextmanager
def running_graph(
    graph: Sequence[NodeProcess], folder: Path, on_event: OnEvent = lambda *_, **__: None
) -> Iterator[tuple[ProcessGroup, GraphClient]]:
    """Starts the nodes as processes, configures and activates them; ends them on exit.

    The graph has its own ROS domain; the nodes' logs are in <folder>/logs.
    """
    domain = 1 + os.getpid() % N_DOMAINS
    variables = {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    with _environment_variables(variables), ProcessGroup(folder / "logs", variables) as processes:
        for node in graph:
            on_event("process started", node=node.name, pid=processes.start(node))
        with GraphClient(domain, watch=processes.check) as client:
            for node in graph:
                if node.lifecycle:
                    client.change_state(node.name, Transition.TRANSITION_CONFIGURE)
                    client.change_state(node.name, Transition.TRANSITION_ACTIVATE)
                    on_event("activated", node=node.name)
            yield processes, client


def _run_trials(
    config: DemoConfig, tasks: tuple[str, ...], spec: RobotSpec, folder: Path, on_event: OnEvent
) -> tuple[list[TrialTrace], DemoTrials]:
    robot, bundle = (folder / "robot.yaml").resolve(), Path(config.bundle).resolve()
    robot.write_text(yaml.safe_dump(configs.to_plain(spec), sort_keys=False))
    state_logs, call_logs = (str((folder / name).resolve()) for name in ("trials", "call_log"))
    graph = (
        *twin_graph(str(robot), task=tasks[0], recordings=state_logs),
        *policy_graph(str(bundle), str(robot), call_logs, seed=config.seed),
    )
    print(f"starting {', '.join(node.name for node in graph)} ...", flush=True)
    with running_graph(graph, folder, on_event) as (_, client):
        trials = DemoTrials(client, spec, config.seed)
        trials.compile_scenes(tasks)
        print(f"measuring the idle machine for {IDLE_S:.0f} s ...", flush=True)
        trials.measure_idle()
        on_event("idle measured", commands=len(trials.idle_s))
        traces = []
        for task in tasks:
            for trial in range(config.trials):
                trace = trials.run_trial(task, trial)
                traces.append(trace)
                _report_trial(trace, trials, config.trials, on_event)
        return traces, trials


def _report_trial(trace: TrialTrace, trials: DemoTrials, n_trials: int, on_event: OnEvent) -> None:
    print(
        f"{trace.task} {trace.trial + 1}/{n_trials}: {trace.outcome} after "
        f"{trace.duration_s:.1f} s, {trace.reason}",
        flush=True,
    )
    for row in trials.take_diagnostics():
        on_event("diagnostics", **row)
    result = {"outcome": trace.outcome, "reason": trace.reason, "chunks": len(trace.chunk_stamps)}
    on_event("trial ended", task=trace.task, trial=trace.trial, **result)


def _tasks(config: DemoConfig) -> tuple[str, ...]:
    """The bundle's tasks; raises UnknownName if the twin does not have one of them."""
    tasks = tuple(read_manifest(Path(config.bundle)).tasks)
    for task in tasks:
        if task not in list_tasks():
            known = ", ".join(list_tasks())
            raise UnknownName(
                f"{config.bundle} learned '{task}', which the twin does not have; known are: "
                f"{known}"
            )
    return tasks


@contextmanager
def _environment_variables(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for the middleware of this process, and restores them."""
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
    """SIGTERM raises KeyboardInterrupt, so that the processes are ended."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
