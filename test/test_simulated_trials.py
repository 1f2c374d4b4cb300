"""Runs on the twin: the same results with every executor, and after a kill."""

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
from nac_ros.core.image_codec import decode_image
from nac_ros.trials import simulated
from nac_ros.trials.executors import InProcessExecutor, ProcessExecutor, make_executor
from nac_ros.trials.protocol import StoppingRule, TrialProtocol
from nac_ros.trials.run import TrialRun, Verdict
from nac_ros.trials.simulated import SimulatedTrial, run_unattended

pytestmark = pytest.mark.alone  # it measures time

NAC = "import sys; from nac_ros.cli.main import main; sys.exit(main(sys.argv[1:]))"
MEASURED = ("time", "chunk_ms")  # by a clock, so different in every run


def repeatable(run):
    """The records of a run by slot, without what a clock measured."""
    rows = [config.to_plain(record) for record in run.records]
    kept = [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]
    return sorted(kept, key=lambda row: row["slot"])


def completed_run(folder, executor, protocol, film_strips=False):
    with closing(TrialRun.create_or_resume(folder, protocol)) as run:
        run_unattended(run, executor, film_strips)
    return TrialRun.read(folder)


class FakeRay:
    """Replaces the library: runs tasks in this process, the last one first."""

    def __init__(self):
        self.calls, self.max_running = [], 0

    def init(self, address):
        if address == "nowhere:6379":
            raise ConnectionError("no GCS")
        self.calls.append(("init", address))

    def remote(self, **resources):
        self.calls.append(("remote", resources))
        return lambda function: SimpleNamespace(remote=lambda job: (function, job))

    def wait(self, references, num_returns):
        self.max_running = max(self.max_running, len(references))
        return references[-num_returns:], references[:-num_returns]

    def get(self, references):
        return [function(job) for function, job in references]

    def shutdown(self):
        self.calls.append(("shutdown",))


@pytest.fixture(scope="module")
def protocol(tiny_bundle):
    return TrialProtocol(
        tasks=("weighing",),
        methods={"expert": "expert", "tiny": str(tiny_bundle)},
        trials=2,
        seed=8,
        max_steps=150,
    )


@pytest.fixture(scope="module")
def in_process(tmp_path_factory, protocol):
    """The run as one process completes it."""
    return completed_run(
        tmp_path_factory.mktemp("in_process") / "run",
        InProcessExecutor(),
        protocol,
        film_strips=True,
    )


def test_experts_succeed_and_an_untrained_policy_fails_at_the_step_limit(in_process):
    code = in_process.codes
    experts, tiny = (in_process.valid_records("weighing", code[m]) for m in ("expert", "tiny"))
    assert [record.outcome for record in experts] == ["success"] * 2
    for record in tiny:
        assert record.outcome == "failure" and record.reason and record.steps == 150
        assert len(record.chunk_ms) == 10 and record.seconds == pytest.approx(5, abs=0.01)
    moved = [
        record for record in tiny if record.transition_jumps
    ]  # chunks of an untrained policy may be rejected
    assert moved and all(record.jerk > 0 and record.sparc < 0 for record in moved)
    assert all(record.sparc < 0 and record.clips is None for record in experts)
    assert in_process.unblinded and len(in_process.records) == 4


def test_each_film_strip_ends_with_the_last_scene_of_the_trial(in_process):
    for record in in_process.records:
        strip = decode_image((in_process.folder / record.film_strip).read_bytes())
        assert strip.shape == (180, 6 * 240, 3)
    won = next(r for r in in_process.records if r.outcome == "success")
    last = decode_image((in_process.folder / won.film_strip).read_bytes())[:, -240:].astype(int)
    green = (last[..., 1] > last[..., 0] + 60) & (last[..., 1] > last[..., 2] + 60)
    assert green.sum() > 10  # the scale's display is on


def test_two_processes_give_the_same_results_as_one(tmp_path, protocol, in_process):
    found = completed_run(tmp_path / "run", ProcessExecutor(2), protocol)
    assert [{**row, "film_strip": ""} for row in repeatable(in_process)] == repeatable(found)


def test_a_dead_worker_gives_one_sentence():
    with pytest.raises(TrialError, match=r"one of 1 workers died.*all verdicts are kept"):
        list(ProcessExecutor(1).run(os._exit, [1]))


def test_a_ray_cluster_gives_the_same_results_as_one_process(
    tmp_path, protocol, in_process, monkeypatch
):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    found = completed_run(tmp_path / "run", make_executor(3, "head:6379"), protocol)
    assert [{**row, "film_strip": ""} for row in repeatable(in_process)] == repeatable(found)
    assert ray.calls == [("init", "head:6379"), ("remote", {"num_cpus": 1}), ("shutdown",)]
    assert ray.max_running == 3
    assert (
        next(record.slot for record in found.records) == 2
    )  # the newest of three completed first
    with pytest.raises(ConfigError, match="no Ray cluster answers at nowhere:6379"):
        list(make_executor(2, "nowhere:6379").run(str, [1]))


def test_a_cluster_without_the_ray_package_gives_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install nac_ros\[cluster\]"):
        make_executor(1, "auto")
    assert isinstance(make_executor(1, ""), InProcessExecutor) and isinstance(
        make_executor(2, ""), ProcessExecutor
    )


def test_the_stopping_rule_counts_the_same_trials_with_fast_workers(
    tmp_path, protocol, monkeypatch
):
    def expert_wins(job):
        won = job.source == "expert"
        verdict = Verdict(outcome="success" if won else "failure", reason="made up")
        return SimulatedTrial(job.slot, verdict, b"")

    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    monkeypatch.setattr(simulated, "run_trial", expert_wins)
    rule = StoppingRule(rule="sequential", pair=("expert", "tiny"))
    sequential = replace(protocol, trials=12, stopping=rule)
    in_process, ahead = (
        completed_run(
            tmp_path / str(workers), make_executor(workers, "head" * (workers > 1)), sequential
        )
        for workers in (1, 5)
    )
    assert (
        in_process.stopped_after("weighing") == ahead.stopped_after("weighing") == 8
    )  # 2^8 / 9 > 20
    assert len(in_process.records) == 2 * 8 < len(ahead.records)
    for run in (in_process, ahead):
        assert all(len(run.valid_records("weighing", code)) == 8 for code in run.codes.values())


def test_a_killed_run_resumes_without_losing_or_repeating_a_trial(tmp_path, capsys):
    options = "trials --robot twin --tasks weighing --methods expert --seed 5 --no-film-strips"
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
    assert 0 < judged < 6, "killed during the run"
    assert main(["trials", "--out", str(tmp_path / "killed"), "--no-film-strips"]) == 0
    assert log.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    run = TrialRun.read(tmp_path / "killed")
    assert sorted(record.slot for record in run.records) == list(range(6))
    words[-1] = str(tmp_path / "whole")
    assert main([*words, "--json", str(tmp_path / "whole.json")]) == 0
    assert repeatable(run) == repeatable(TrialRun.read(tmp_path / "whole"))
    results = json.loads((tmp_path / "whole.json").read_text())
    assert results["methods"]["expert"]["weighing"]["successes"] == 6
    assert "6/6" in capsys.readouterr().out and (tmp_path / "whole/report.html").is_file()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["trials"], "give --tasks and --methods"),
        (["trials", "--out", "nowhere"], "nowhere holds no run: give --tasks and --methods"),
        (["trials", "--tasks", "marker", "--methods", "nowhere"], "no bundle at"),
        (["trials", "--tasks", "juggle", "--methods", "expert"], "unknown task 'juggle'"),
        (
            ["trials", "--tasks", "all", "--methods", "expert", "--robot", "ur5"],
            "need an operator",
        ),
        (["trials", "--power", "0.5"], "give at least two different rates"),
        (["trials", "--power", "0.5", "0.5"], "give at least two different rates"),
        (["trials", "--tasks", "marker", "--methods", "a=x,a=y"], "'a' is given twice; use NAME"),
        (["trials", "--tasks", "marker", "--methods", "expert,expert"], "'expert' is given twice"),
        (["trials", "--tasks", "marker", "--methods", "expert,"], "'' names no bundle; give"),
        (["trials", "--tasks", "marker", "--methods", "a="], "'a=' names no bundle; give"),
        (["report", ".", "--json", "log.jsonl"], "log.jsonl is a file of the run; name another"),
        (["trials", "--unblind", "nowhere"], "has no run"),
        (["report", "nowhere"], "has no run"),
        (["report", "a" * 300], ": File name too long; name another file"),
    ],
)
def test_bad_input_gives_one_sentence_and_exit_code_2(words, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_randomization_file_is_found_from_another_folder_when_the_run_is_resumed(
    tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/mine.yaml").write_text("light: 0.2\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(simulated, "run_unattended", lambda *given: None)
    words = "trials --tasks weighing --methods expert --trials 1 --randomization mine.yaml"
    assert main([*words.split(), "--out", "../run"]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["trials", "--out", "run"]) == 0


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path, protocol, capsys):
    TrialRun.create_or_resume(tmp_path / "run", protocol).close()
    words = ["report", str(tmp_path / "run")]
    assert main(words) == 0
    page = (tmp_path / "run/report.html").read_bytes()
    (tmp_path / "run/report.html.partial").mkdir()  # so that writing fails
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "report.html cannot be written, Is a directory; free space" in error
    assert error.count("\n") == 1 and (tmp_path / "run/report.html").read_bytes() == page


def test_a_task_that_the_twin_does_not_have_is_rejected_before_anything_is_written(
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


def test_a_film_strip_that_cannot_be_written_gives_one_sentence(tmp_path, protocol):
    class SuccessExecutor:
        def run(self, function, jobs):
            return (SimulatedTrial(job.slot, Verdict(outcome="success"), b"strip") for job in jobs)

    with closing(TrialRun.create_or_resume(tmp_path / "run", protocol)) as run:
        (run.folder / "film_strips").write_text("in the way")
        with pytest.raises(
            TrialError, match=r"film_strips/weighing-000-\w+\.jpg cannot be written"
        ):
            run_unattended(run, SuccessExecutor())
        (run.folder / "film_strips").unlink()
        run_unattended(run, SuccessExecutor())
    assert len(TrialRun.read(tmp_path / "run").records) == len(run.slots)


def test_power_prints_the_needed_number_of_trials(capsys, tmp_path):
    assert main(["trials", "--power", "0.5", "0.9", "--json", str(tmp_path / "power.json")]) == 0
    (row,) = json.loads((tmp_path / "power.json").read_text())["rows"]
    assert row == {"p1": 0.5, "p2": 0.9, "n50": 11, "n80": 20, "n90": 26}
    assert "Barnard" in capsys.readouterr().out
