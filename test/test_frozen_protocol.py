"""A run's protocol: refused before it is written where it cannot be played, and written once."""

import json
from contextlib import closing
from dataclasses import replace

import pytest
from fake_trial_runs import protocol

from nac_ros.core.errors import ConfigError, TrialError
from nac_ros.inference.conditions import Conditions
from nac_ros.trials.frozen_protocol import freeze_into, stored
from nac_ros.trials.protocol import Protocol, StopRule, freeze
from nac_ros.trials.run import TrialRun
from nac_ros.trials.simulated import play_all


def test_whoever_freezes_second_does_not_replace_what_another_began(tmp_path, tiny_bundle):
    first, second = (freeze(protocol(tiny_bundle, seed=seed)) for seed in (1, 2))
    freeze_into(tmp_path, first)
    freeze_into(tmp_path, second)  # looked at the folder before the first had written
    assert stored(tmp_path)[0] == first
    with pytest.raises(TrialError, match=r"another protocol: protocol\.seed was 1, is 2"):
        TrialRun.begin(tmp_path, second.protocol)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, tiny_bundle):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TrialError, match=r"run/protocol\.json cannot be written, Not a directory"):
        TrialRun.begin(tmp_path / "file/run", protocol(tiny_bundle))


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
        (lambda text: text.replace("{", '{"sha256": "x",', 1), "key 'sha256' is there twice"),
        (lambda text: text + " " * (1 << 22), "more than the 4194304"),
    ],
)
def test_a_protocol_file_with_no_plain_content_is_refused(tmp_path, tiny_bundle, change, words):
    freeze_into(tmp_path, freeze(protocol(tiny_bundle)))
    path = tmp_path / "protocol.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(TrialError, match=f"is no frozen protocol: .*{words}"):
        stored(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"places": {"marker": ("A1", "../B")}}, r"places of marker: '\.\./B' must be one line"),
        ({"places": {"marker": ("",)}}, "places of marker: '' must be one line of text"),
        ({"tasks": ("all",)}, "tasks: 'all' is what a report calls all tasks together"),
    ],
)
def test_names_that_a_run_cannot_use_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        Protocol(**({"tasks": ("marker",), "methods": {"a": "expert"}} | changes))


def test_a_stop_rule_compares_two_methods_and_not_one_of_them_again():
    with pytest.raises(ConfigError, match=r"needs `pair`.*got \['a', 'b', 'a'\]"):
        StopRule(rule="sequential", pair=("a", "b", "a"))


def test_more_steps_than_a_bundle_plans_are_refused_before_anything_is_written(
    tmp_path, tiny_bundle
):
    made = protocol(tiny_bundle, conditions=Conditions(n_action_steps=1000))
    with pytest.raises(ConfigError, match=r"n_action_steps 1000 is beyond the horizon .*, \d+;"):
        TrialRun.begin(tmp_path / "run", made)
    assert not (tmp_path / "run").exists()


def test_the_scenes_that_are_played_are_those_that_were_frozen(tmp_path, tiny_bundle):
    path = tmp_path / "mine.yaml"
    path.write_text("light: 0.2\n")
    made = protocol(tiny_bundle, conditions=Conditions(scenes=str(path)))
    jobs = []

    class Listening:
        def run(self, play, given):
            jobs.append(next(iter(given)))
            return iter(())

    with closing(TrialRun.begin(tmp_path / "run", made)) as run:
        path.write_text("light: 0.3\n")  # meanwhile, for another run
        play_all(run, Listening())
    assert jobs[0].variation.light == 0.2
    assert json.loads((tmp_path / "run/protocol.json").read_text())["variation"]["light"] == 0.2
    assert replace(jobs[0].variation, light=0.0).plain


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[1]", "its SHA-256 is missing; take it from a backup"),
        (b"{}", "its SHA-256 is missing; take it from a backup"),
        (b"\xff", "protocol.json is not valid JSON: 'utf-8' codec"),
        (b"[" * 100_000, "protocol.json: it is nested too deeply"),
        (b'{"sha256": 5, "protocol": 5}', "it: key 'bundles' is missing"),
    ],
)
def test_what_is_no_frozen_protocol_is_one_sentence(tmp_path, content, words):
    (tmp_path / "protocol.json").write_bytes(content)
    for opened in (TrialRun.read, TrialRun.go_on):
        with pytest.raises(TrialError, match=f"is no frozen protocol: {words}"):
            opened(tmp_path)


def test_a_run_whose_log_is_gone_is_not_taken_for_one_that_was_never_begun(tmp_path, tiny_bundle):
    TrialRun.begin(tmp_path / "run", protocol(tiny_bundle)).close()
    (tmp_path / "run/log.jsonl").unlink()
    TrialRun.read(tmp_path / "run")  # as after a crash between the two files
    (tmp_path / "run/strips").mkdir()
    TrialRun.read(tmp_path / "run")
    (tmp_path / "run/strips/one.jpg").touch()
    for opened in (TrialRun.read, TrialRun.go_on):
        with pytest.raises(TrialError, match=r"has strips of trials, but log\.jsonl is missing"):
            opened(tmp_path / "run")
    assert not (tmp_path / "run/log.jsonl").exists()
