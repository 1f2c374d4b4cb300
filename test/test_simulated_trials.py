"""Whole runs on the twin: the same results wherever they are played, and after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from nac_ros.cli.main import main
from nac_ros.core import config
from nac_ros.core.errors import ConfigError, TrialError
from nac_ros.core.image_codec import decode
from nac_ros.trials import simulated
from nac_ros.trials.executors import InProcessExecutor, ProcessExecutor, choose
from nac_ros.trials.protocol import Limits, Protocol, StopRule
from nac_ros.trials.run import TrialRun, Verdict
from nac_ros.trials.simulated import Played, play_all

pytestmark = pytest.mark.alone  # it measures time

NAC = "import sys; from nac_ros.cli.main import main; sys.exit(main(sys.argv[1:]))"
MEASURED = ("time", "plan_ms")  # by a clock, so never the same twice


def told(run):
    """What a run's log says of each slot, without what a clock measured."""
    rows = [config.to_plain(record) for record in run.records]
    facts = [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]
    return sorted(facts, key=lambda row: row["slot"])


def played(folder, executor, protocol, pictures=False):
    with closing(TrialRun.begin(folder, protocol)) as run:
        play_all(run, executor, pictures)
    return TrialRun.read(folder)


class Rays:
    """Stands in for the library: what is asked of it, in this process, last task first."""

    def __init__(self):
        self.calls, self.most = [], 0

    def init(self, address):
        if address == "nowhere:6379":
            raise ConnectionError("no GCS")
        self.calls.append(("init", address))

    def remote(self, **resources):
        self.calls.append(("remote", resources))
        return lambda function: SimpleNamespace(remote=lambda job: (function, job))

    def wait(self, references, num_returns):
        self.most = max(self.most, len(references))
        return references[-num_returns:], references[:-num_returns]

    def get(self, references):
        return [function(job) for function, job in references]

    def shutdown(self):
        self.calls.append(("shutdown",))


@pytest.fixture(scope="module")
def protocol(tiny_bundle):
    return Protocol(
        tasks=("weighing",),
        methods={"expert": "expert", "tiny": str(tiny_bundle)},
        trials=2,
        seed=8,
        limits=Limits(steps=150),
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory, protocol):
    """The run as one process plays it."""
    return played(
        tmp_path_factory.mktemp("alone") / "run", InProcessExecutor(), protocol, pictures=True
    )


def test_experts_succeed_and_an_untrained_policy_fails_when_its_steps_run_out(alone):
    code = alone.codes
    experts, tiny = (alone.counted("weighing", code[m]) for m in ("expert", "tiny"))
    assert [record.outcome for record in experts] == ["success"] * 2
    for record in tiny:
        assert record.outcome == "failure" and record.reason and record.steps == 150
        assert len(record.plan_ms) == 10 and record.seconds == pytest.approx(5, abs=0.01)
    moved = [record for record in tiny if record.jumps]  # chunks of an untrained one are refused
    assert moved and all(record.jerk > 0 and record.sparc < 0 for record in moved)
    assert all(record.sparc < 0 and record.clips is None for record in experts)
    assert alone.unblinded and len(alone.records) == 4


def test_each_trial_leaves_a_film_strip_that_ends_as_the_trial_did(alone):
    for record in alone.records:
        strip = decode((alone.folder / record.strip).read_bytes())
        assert strip.shape == (180, 6 * 240, 3)
    won = next(r for r in alone.records if r.outcome == "success")
    last = decode((alone.folder / won.strip).read_bytes())[:, -240:].astype(int)
    green = (last[..., 1] > last[..., 0] + 60) & (last[..., 1] > last[..., 2] + 60)
    assert green.sum() > 10  # the scale's display is on


def test_two_processes_find_what_one_finds(tmp_path, protocol, alone):
    found = played(tmp_path / "run", ProcessExecutor(2), protocol)
    assert [{**row, "strip": ""} for row in told(alone)] == told(found)


def test_a_worker_that_dies_is_one_sentence():
    with pytest.raises(TrialError, match=r"one of 1 workers died.*what was judged is kept"):
        list(ProcessExecutor(1).run(os._exit, [1]))


def test_a_ray_cluster_finds_what_one_process_finds(tmp_path, protocol, alone, monkeypatch):
    rays = Rays()
    monkeypatch.setitem(sys.modules, "ray", rays)
    found = played(tmp_path / "run", choose(3, "head:6379"), protocol)
    assert [{**row, "strip": ""} for row in told(alone)] == told(found)
    assert rays.calls == [("init", "head:6379"), ("remote", {"num_cpus": 1}), ("shutdown",)]
    assert rays.most == 3
    assert next(record.slot for record in found.records) == 2  # the newest of three came first
    with pytest.raises(ConfigError, match="no Ray cluster answers at nowhere:6379"):
        list(choose(2, "nowhere:6379").run(str, [1]))


def test_without_ray_naming_a_cluster_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install nac_ros\[cluster\]"):
        choose(1, "auto")
    assert isinstance(choose(1, ""), InProcessExecutor) and isinstance(
        choose(2, ""), ProcessExecutor
    )


def test_the_stop_rule_counts_the_same_trials_whoever_ran_ahead(tmp_path, protocol, monkeypatch):
    def expert_wins(job):
        won = job.source == "expert"
        verdict = Verdict(outcome="success" if won else "failure", reason="it is said so")
        return Played(job.slot, verdict, b"")

    monkeypatch.setitem(sys.modules, "ray", Rays())
    monkeypatch.setattr(simulated, "play", expert_wins)
    rule = StopRule(rule="sequential", pair=("expert", "tiny"))
    stopping = replace(protocol, trials=12, stop=rule)
    alone, ahead = (
        played(tmp_path / str(workers), choose(workers, "head" * (workers > 1)), stopping)
        for workers in (1, 5)
    )
    assert alone.stopped("weighing") == ahead.stopped("weighing") == 8  # 2^8 / 9 > 20
    assert len(alone.records) == 2 * 8 < len(ahead.records)
    for run in (alone, ahead):
        assert all(len(run.counted("weighing", code)) == 8 for code in run.codes.values())


def test_a_killed_run_goes_on_with_nothing_lost_and_nothing_repeated(tmp_path, capsys):
    options = "trials --robot twin --tasks weighing --methods expert --seed 5 --no-pictures"
    words = [*options.split(), "--trials", "6", "--out", str(tmp_path / "killed")]
    log = tmp_path / "killed/log.jsonl"
    root = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", NAC, *words], stdout=subprocess.DEVNULL, env={**os.environ, **root}
    )
    try:
        while process.poll() is None and not (
            log.is_file() and b"trial" in log.read_bytes()[900:]
        ):
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = log.read_bytes()
    judged = before.count(b'"entry": "trial"')
    assert 0 < judged < 6, "killed in the middle"
    assert main(["trials", "--out", str(tmp_path / "killed"), "--no-pictures"]) == 0
    assert log.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    run = TrialRun.read(tmp_path / "killed")
    assert sorted(record.slot for record in run.records) == list(range(6))
    words[-1] = str(tmp_path / "whole")
    assert main([*words, "--json", str(tmp_path / "whole.json")]) == 0
    assert told(run) == told(TrialRun.read(tmp_path / "whole"))
    figures = json.loads((tmp_path / "whole.json").read_text())
    assert figures["methods"]["expert"]["weighing"]["successes"] == 6
    assert "6/6" in capsys.readouterr().out and (tmp_path / "whole/report.html").is_file()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trials"], "name --tasks and --methods"),
        (["trials", "--out", "nowhere"], "nowhere holds no run: name --tasks and --methods"),
        (["trials", "--tasks", "marker", "--methods", "nowhere"], "no bundle at"),
        (["trials", "--tasks", "juggle", "--methods", "expert"], "unknown task 'juggle'"),
        (["trials", "--tasks", "all", "--methods", "expert", "--robot", "ur5"], "has no judge"),
        (["trials", "--power", "0.5"], "name at least two success rates"),
        (["trials", "--power", "0.5", "0.5"], "name at least two success rates that differ"),
        (["trials", "--tasks", "marker", "--methods", "a=x,a=y"], "'a' is there twice; tell them"),
        (["trials", "--tasks", "marker", "--methods", "expert,expert"], "'expert' is there twice"),
        (["trials", "--tasks", "marker", "--methods", "expert,"], "'' names no bundle; give"),
        (["trials", "--tasks", "marker", "--methods", "a="], "'a=' names no bundle; give"),
        (["report", ".", "--json", "log.jsonl"], "log.jsonl is the run's own file; name another"),
        (["trials", "--unblind", "nowhere"], "holds no run"),
        (["report", "nowhere"], "holds no run"),
        (["report", "a" * 300], ": File name too long; give another or allow it"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_scenes_file_is_found_from_elsewhere_when_the_run_goes_on(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/mine.yaml").write_text("light: 0.2\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(simulated, "play_all", lambda *given: None)
    words = "trials --tasks weighing --methods expert --trials 1 --scenes mine.yaml --out ../run"
    assert main(words.split()) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["trials", "--out", "run"]) == 0


def test_a_report_that_the_disk_does_not_take_leaves_the_one_before(tmp_path, protocol, capsys):
    TrialRun.begin(tmp_path / "run", protocol).close()
    words = ["report", str(tmp_path / "run")]
    assert main(words) == 0
    page = (tmp_path / "run/report.html").read_bytes()
    (tmp_path / "run/report.html.partial").mkdir()  # as a disk that takes nothing
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "report.html cannot be written, Is a directory: make room" in error
    assert error.count("\n") == 1 and (tmp_path / "run/report.html").read_bytes() == page


def test_what_the_twin_cannot_play_is_refused_before_anything_is_written(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    content = {
        "tasks": ["juggle"],
        "methods": {"expert": "expert"},
        "criteria": {"juggle": {"success": "three throws", "failure": "a ball falls"}},
    }
    Path("protocol.yaml").write_text(json.dumps(content))
    assert main(["trials", "--protocol", "protocol.yaml", "--out", "run"]) == 2
    assert "unknown task 'juggle'" in capsys.readouterr().err and not Path("run").exists()


def test_a_strip_that_the_disk_does_not_take_is_one_sentence(tmp_path, protocol):
    class Playing:
        def run(self, play, jobs):
            return (Played(job.slot, Verdict(outcome="success"), b"strip") for job in jobs)

    with closing(TrialRun.begin(tmp_path / "run", protocol)) as run:
        (run.folder / "strips").write_text("in the way")
        with pytest.raises(TrialError, match=r"strips/weighing-000-\w+\.jpg cannot be written"):
            play_all(run, Playing())
        (run.folder / "strips").unlink()
        play_all(run, Playing())
    assert len(TrialRun.read(tmp_path / "run").records) == len(run.slots)


def test_planning_prints_how_many_trials_it_takes(capsys, tmp_path):
    assert main(["trials", "--power", "0.5", "0.9", "--json", str(tmp_path / "power.json")]) == 0
    (row,) = json.loads((tmp_path / "power.json").read_text())["rows"]
    assert row == {"p1": 0.5, "p2": 0.9, "n50": 11, "n80": 20, "n90": 26}
    assert "Barnard" in capsys.readouterr().out
