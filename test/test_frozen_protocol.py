"""The frozen protocol: written once, rejected if it is invalid, changed or of an older format."""

import json
from contextlib import closing
from dataclasses import replace

import pytest
from fake_trial_runs import make_protocol

from nac_ros.core.errors import ConfigError, TrialError
from nac_ros.inference.conditions import Conditions
from nac_ros.trials.frozen_protocol import read_protocol, write_protocol
from nac_ros.trials.protocol import StoppingRule, TrialProtocol, freeze
from nac_ros.trials.run import TrialRun
from nac_ros.trials.simulated import run_unattended


def test_a_second_process_does_not_replace_a_frozen_protocol(tmp_path, tiny_bundle):
    first, second = (freeze(make_protocol(tiny_bundle, seed=seed)) for seed in (1, 2))
    write_protocol(tmp_path, first)
    write_protocol(
        tmp_path, second
    )  # a process that checked the folder before the first had written
    assert read_protocol(tmp_path)[0] == first
    with pytest.raises(TrialError, match=r"another protocol: protocol\.seed was 1, is 2"):
        TrialRun.create_or_resume(tmp_path, second.protocol)


def test_a_folder_that_cannot_be_created_gives_one_sentence(tmp_path, tiny_bundle):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TrialError, match=r"run/protocol\.json cannot be written, Not a directory"):
        TrialRun.create_or_resume(tmp_path / "file/run", make_protocol(tiny_bundle))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda text: text.replace('"alpha": 0.05', '"alpha": NaN'),
            "the value NaN is not finite",
        ),
        (lambda text: text.replace('"alpha": 0.05', '"alpha": 1e999'), "1e999 is not finite"),
        (lambda text: '{"a": ' * 99 + "1" + "}" * 99, "nested more than 64 levels"),
        (lambda text: "[" * 100_000, "nested too deeply"),
        (lambda text: text.replace("{", '{"sha256": "x",', 1), "key 'sha256' occurs twice"),
        (lambda text: text + " " * (1 << 22), "more than the 4194304"),
    ],
)
def test_a_protocol_file_with_invalid_json_is_rejected(tmp_path, tiny_bundle, change, words):
    write_protocol(tmp_path, freeze(make_protocol(tiny_bundle)))
    path = tmp_path / "protocol.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(TrialError, match=f"cannot be used: .*{words}"):
        read_protocol(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"start_positions": {"marker": ("A1", "../B")}},
            r"start_positions of marker: '\.\./B' must be one line",
        ),
        (
            {"start_positions": {"marker": ("",)}},
            "start_positions of marker: '' must be one line of text",
        ),
        ({"tasks": ("all",)}, "tasks: 'all' stands for all tasks together in reports"),
    ],
)
def test_names_that_a_run_cannot_use_are_rejected(changes, words):
    with pytest.raises(ConfigError, match=words):
        TrialProtocol(**({"tasks": ("marker",), "methods": {"a": "expert"}} | changes))


def test_a_stopping_rule_needs_two_different_methods():
    with pytest.raises(ConfigError, match=r"needs `pair`.*got \['a', 'b', 'a'\]"):
        StoppingRule(rule="sequential", pair=("a", "b", "a"))


def test_more_steps_than_the_horizon_are_rejected_before_anything_is_written(
    tmp_path, tiny_bundle
):
    made = make_protocol(tiny_bundle, conditions=Conditions(n_action_steps=1000))
    with pytest.raises(ConfigError, match=r"n_action_steps 1000 is beyond the horizon .*, \d+;"):
        TrialRun.create_or_resume(tmp_path / "run", made)
    assert not (tmp_path / "run").exists()


def test_trials_use_the_randomization_that_was_frozen(tmp_path, tiny_bundle):
    path = tmp_path / "mine.yaml"
    path.write_text("light: 0.2\n")
    made = make_protocol(tiny_bundle, conditions=Conditions(randomization=str(path)))
    jobs = []

    class FirstJobExecutor:
        def run(self, function, given):
            jobs.append(next(iter(given)))
            return iter(())

    with closing(TrialRun.create_or_resume(tmp_path / "run", made)) as run:
        path.write_text("light: 0.3\n")  # changed for another run
        run_unattended(run, FirstJobExecutor())
    assert jobs[0].randomization.light == 0.2
    assert (
        json.loads((tmp_path / "run/protocol.json").read_text())["randomization"]["light"] == 0.2
    )
    assert replace(jobs[0].randomization, light=0.0).keeps_appearance


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[1]", "its SHA-256 is missing; take it from a backup"),
        (b"{}", "its SHA-256 is missing; take it from a backup"),
        (b"\xff", "protocol.json is not valid JSON: 'utf-8' codec"),
        (b"[" * 100_000, "protocol.json: it is nested too deeply"),
        (b'{"sha256": 5, "format": 2, "protocol": 5}', "it: key 'bundles' is missing"),
        (b'{"sha256": 5, "protocol": 5}', "its format is None, this version reads 2"),
    ],
)
def test_a_file_that_is_no_frozen_protocol_gives_one_sentence(tmp_path, content, words):
    (tmp_path / "protocol.json").write_bytes(content)
    for opened in (TrialRun.read, TrialRun.resume):
        with pytest.raises(TrialError, match=f"cannot be used: {words}"):
            opened(tmp_path)


def test_a_run_without_its_log_is_not_taken_for_a_new_one(tmp_path, tiny_bundle):
    TrialRun.create_or_resume(tmp_path / "run", make_protocol(tiny_bundle)).close()
    (tmp_path / "run/log.jsonl").unlink()
    TrialRun.read(tmp_path / "run")  # as after a crash between writing the two files
    (tmp_path / "run/film_strips").mkdir()
    TrialRun.read(tmp_path / "run")
    (tmp_path / "run/film_strips/one.jpg").touch()
    for opened in (TrialRun.read, TrialRun.resume):
        with pytest.raises(
            TrialError, match=r"has film_strips of trials, but log\.jsonl is missing"
        ):
            opened(tmp_path / "run")
    assert not (tmp_path / "run/log.jsonl").exists()
