"""The demo: trials through the whole graph, its output files, and that Ctrl-C ends it."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")
pytest.importorskip("torch")

from nac_ros.apps.demo import DemoConfig, run_demo, running_graph
from nac_ros.apps.demo_results import make_result, print_summary, write_outputs
from nac_ros.apps.demo_trials import DemoTrials, hold_spans, interventions
from nac_ros.core.config import config_dir
from nac_ros.core.errors import ConfigError, NacError
from nac_ros.evaluation.log_replay import replay
from nac_ros.reporting.trial_trace import TrialTrace
from nac_ros.robot.spec import load_robot
from nac_ros.ros.node_graph import NodeProcess, policy_graph, twin_graph
from nac_ros.ros.processes import ProcessGroup
from nac_ros.simulation.realtime_twin import RealtimeTwin
from nac_ros.simulation.state_log import StateLog

SPEC = load_robot("vx300s")
SHIPPED = str(config_dir().parent / "models" / "default")
ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 120


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # a zombie has ended and waits for init


def wait_for(ready, what, seconds=TIMEOUT_S):
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.1)
    return found


def events_of(out):
    return [json.loads(line) for path in out.glob("*/events.jsonl") for line in path.open()]


def test_ctrl_c_ends_every_process_of_a_running_demo(tiny_bundle, tmp_path):
    code = (
        "import sys; from nac_ros.apps.demo import *;"
        "run_demo(DemoConfig(bundle=sys.argv[1], trials=1, out=sys.argv[2]))"
    )
    demo = subprocess.Popen(
        [sys.executable, "-c", code, str(tiny_bundle), str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # a shell's background job ignores Ctrl-C, and so would all that these tests start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        started = wait_for(
            lambda: (
                any(e["event"] == "idle measured" for e in events_of(tmp_path))
                and [e["pid"] for e in events_of(tmp_path) if e["event"] == "process started"]
            ),
            "the graph",
        )
        assert len(started) == 3 and all(alive(pid) for pid in started)
        demo.send_signal(signal.SIGINT)
        output = demo.communicate(timeout=60)[0].decode()
    finally:
        demo.kill()
    assert demo.returncode not in (0, None), output
    assert not any(alive(pid) for pid in started), "a node outlived the demo"


def recorded(tmp_path, task="weighing"):
    """The trace of half a second of a real trial, and the collected data."""
    live = RealtimeTwin(SPEC, tmp_path / "trials")
    live.prepare(task)
    live.start_trial(task, 0, 0, 1.7e9)
    for k in range(1, 51):
        live.advance(1.7e9 + 0.01 * k)
    live.abort("ended by the test")
    state_log = StateLog.load(live.trial.state_log)
    trials = DemoTrials(FakeClient(), SPEC, 0)
    trials.state_logs.append(state_log)
    trials.idle_s = np.full(100, 0.0101)
    trials.chunk_ms, trials.decode_ms = [50.0, 60.0], [4.0, 5.0]
    trials.holds["chunk_ended"] = 2
    trace = TrialTrace(
        task=task,
        trial=0,
        outcome="aborted",
        reason="ended by the test",
        names=SPEC.joint_names,
        units=SPEC.units,
        times=state_log.stamps,
        commanded=state_log.commanded,
        measured=state_log.measured,
        command_interval_s=np.full(50, 0.0105),
    )
    return trace, trials


class FakeClient:
    """A client of a graph that has ended, as the report uses it."""

    def latest_diagnostics(self, node):
        return {"budget_ms": 533.0}


def test_a_run_writes_result_report_video_and_traces(tmp_path, capsys):
    import av

    trace, trials = recorded(tmp_path)
    result = make_result("some/bundle", 0, [trace], trials)
    write_outputs(tmp_path, result, [trace], trials)
    print_summary(result, tmp_path)
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored == json.loads(json.dumps(result))
    assert stored["tasks"]["weighing"]["trials"] == 1
    assert stored["tasks"]["weighing"]["successes"] == 0
    assert set(stored) >= {
        "bundle",
        "seed",
        "tasks",
        "chunk_ms",
        "decode_ms",
        "holds",
        "command_interval_error_ms",
        "idle_interval_error_ms",
    }
    assert stored["command_interval_error_ms"] == {"p50": 0.5, "p99": 0.5, "max": 0.5}
    assert stored["idle_interval_error_ms"]["p50"] == pytest.approx(0.1)
    assert "video.mp4" in (tmp_path / "report.html").read_text()
    with av.open(str(tmp_path / "video.mp4")) as video:
        assert video.streams.video[0].codec_context.name == "h264"
    assert TrialTrace.load(tmp_path / "trials" / "weighing-000.trace.npz").outcome == "aborted"
    printed = capsys.readouterr().out
    for word in (
        "weighing",
        "0/1",
        "observation to chunk",
        "on the idle machine",
        "chunk_ended 2",
    ):
        assert word in printed


def test_hold_spans_run_from_one_report_to_the_next():
    reports = [
        {"hold": hold, "stamp": stamp}
        for stamp, hold in enumerate(["mode_hold", "no_chunk", "", "chunk_ended", "", "stopped"])
    ]
    spans = hold_spans(reports, ended=9.0)
    assert [tuple(span) for span in spans] == [(3, 4, "chunk_ended"), (5, 9.0, "stopped")]


def test_an_intervention_is_marked_in_the_trial(tmp_path):
    modes = ["policy", "teleop", "teleop", "policy", "teleop"]
    reports = [{"mode": mode, "stamp": stamp} for stamp, mode in enumerate(modes)]
    spans = interventions(reports, ended=9.0)
    assert [tuple(span) for span in spans] == [(1, 3, "teleop"), (4, 9.0, "teleop")]
    trace, trials = recorded(tmp_path)
    trace = replace(trace, interventions=spans)
    trace.save(tmp_path / "trace.npz")
    assert TrialTrace.load(tmp_path / "trace.npz").interventions == spans
    assert make_result("some/bundle", 0, [trace], trials)["interventions"] == 2


@pytest.mark.timeout(400)
def test_the_call_logs_of_a_minute_of_trials_replay_identically(tmp_path):
    graph = (
        *twin_graph(recordings=str(tmp_path / "trials")),
        *policy_graph(SHIPPED, call_log=str(tmp_path / "call_log")),
    )
    began = time.monotonic()
    with running_graph(graph, tmp_path) as (_, client):
        trials = DemoTrials(client, SPEC, 0)
        trials.compile_scenes(("weighing", "marker"))
        number = 0
        while time.monotonic() - began < 75:
            trials.run_trial(("weighing", "marker")[number % 2], number)
            number += 1
    found = replay(tmp_path / "call_log")
    assert found["guard"].calls > 5000 and found["policy"].calls > 50
    for part in found.values():
        assert (part.differences, part.gaps, part.first_difference) == (0, 0, "")


def test_a_missing_bundle_is_rejected_before_anything_starts(tmp_path):
    with pytest.raises(NacError, match="manifest"):
        run_demo(DemoConfig(bundle=str(tmp_path / "none"), out=str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_demo_without_trials_is_rejected():
    with pytest.raises(ConfigError, match="at least 1"):
        DemoConfig(bundle="b", trials=0)


def test_the_error_names_a_node_that_cannot_start_and_the_reason(tmp_path):
    broken = NodeProcess(name="guard", parameters={"robot": "r2d2"})
    variables = {"ROS_DOMAIN_ID": "3", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    with ProcessGroup(tmp_path, variables) as processes:
        pid = processes.start(broken)
        wait_for(lambda: processes._running["guard"].poll() is not None, "the guard's end")
        with pytest.raises(NacError, match=r"guard ended with code 2: .*unknown robot 'r2d2'"):
            processes.check()
    assert not alive(pid)


def test_a_node_ends_when_its_starter_was_killed(tmp_path):
    code = (
        "import sys, time, pathlib; from nac_ros.ros.processes import ProcessGroup;"
        "from nac_ros.ros.node_graph import policy_graph;"
        "print(ProcessGroup(pathlib.Path(sys.argv[1]), {'ROS_DOMAIN_ID': '4'})"
        ".start(policy_graph()[0]), flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    node = int(starter.stdout.readline())
    starter.kill()
    starter.wait()
    wait_for(lambda: not alive(node), "the guard's end")


def test_a_process_gets_the_parameters_of_its_node(tmp_path):
    node = NodeProcess(name="twin", parameters={"task": "marker", "trial": 4}, lifecycle=False)
    node.arguments(tmp_path / "twin.yaml")
    written = yaml.safe_load((tmp_path / "twin.yaml").read_text())
    assert written["/**/twin"]["ros__parameters"] == {"task": "marker", "trial": 4}
