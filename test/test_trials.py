"""Protocol, schedule and log of a run: frozen, blind, in blocks, and without losing a verdict."""

import json
import re
import resource
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import yaml
from fake_trial_runs import log_verdicts, make_protocol

from nac_ros.core import config
from nac_ros.core.errors import BundleError, ConfigError, TrialError
from nac_ros.export.manifest import add_file
from nac_ros.inference.conditions import Conditions
from nac_ros.simulation.tasks.base import HORIZON
from nac_ros.trials.protocol import (
    TABLE_7,
    StoppingRule,
    TrialProtocol,
    content_hash,
    load_protocol,
)
from nac_ros.trials.run import TrialRun, Verdict
from nac_ros.trials.schedule import make_schedule, method_codes
from nac_ros.trials.trial_log import TrialLog, read_log

EXPERT = {"expert": "expert"}
SUCCESS = Verdict(outcome="success", reason="it is in place")


def begin(folder, bundle, **changes):
    return closing(TrialRun.create_or_resume(folder, make_protocol(bundle, **changes)))


def test_a_protocol_file_holds_the_differences_and_paths_relative_to_itself(tmp_path, tiny_bundle):
    copytree(tiny_bundle, tmp_path / "models" / "nac")
    content = {
        "tasks": ["marker", "juggle"],
        "methods": {"nac": "models/nac", "expert": "expert"},
        "criteria": {"juggle": {"success": "three throws", "failure": "a ball falls"}},
        "start_positions": {"marker": ["A1", "B3"]},
        "stopping": {"rule": "sequential", "pair": ["nac", "expert"]},
        "conditions": {"latency_ms": 200},
    }
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(content))
    found = load_protocol(path)
    assert found.methods == {"nac": str(tmp_path / "models/nac"), "expert": "expert"}
    assert found.criteria["marker"] == TABLE_7["marker"]
    assert found.criteria["juggle"].failure == "a ball falls"
    assert found.conditions.latency_ms == 200.0 and found.max_steps == HORIZON
    path.write_text(yaml.safe_dump({**content, "trails": 3}))
    with pytest.raises(ConfigError, match="unknown key 'trails'; did you mean 'trials'"):
        load_protocol(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": ()}, "needs tasks; name at least one"),
        ({"tasks": ("marker", "marker")}, "tasks has 'marker' twice"),
        ({"methods": {"a b": "expert"}}, "methods: 'a b' must be letters"),
        ({"tasks": ("juggle",)}, "task 'juggle' has no criteria"),
        (
            {"start_positions": {"chess": ("A1",)}},
            "start_positions has 'chess', which is not among",
        ),
        ({"trials": 0}, "trials must be in 1 .. 1000, got 0"),
        ({"seed": -1}, "seed must be in 0"),
        ({"alpha": float("nan")}, "alpha must be in 0.001 .. 0.5, got nan"),
        ({"robot": "a\nb"}, "robot must be 1 to 64"),
        ({"tasks": ("marker\x1b[2J",)}, r"tasks: 'marker\\x1b\[2J' must be letters"),
        ({"methods": {"a": "b\nc"}}, "methods.a must be a path of printable characters"),
        ({"methods": dict.fromkeys(map(str, range(33)), "x")}, "methods must have 0 to 32"),
        ({"rubric": {"marker": ("a\nb",)}}, "rubric of marker: .* must be 1 to 1000 printable"),
        (
            {"start_positions": {"marker": ("x" * 201,)}},
            "start_positions of marker: .* at most 200 bytes",
        ),
        (
            {"stopping": StoppingRule(rule="sequential", pair=("a", "expert"))},
            "stopping.pair has 'a', which is not among the met",
        ),
    ],
)
def test_invalid_protocols_are_rejected(changes, words):
    with pytest.raises(ConfigError, match=words):
        TrialProtocol(**({"tasks": ("marker",), "methods": EXPERT} | changes))


def test_a_rejection_of_a_protocol_file_is_one_printable_line():
    facts = {"tasks": ["marker"], "methods": EXPERT, "start_positions": {"x\n\x1b[2J": ["A1"]}}
    with pytest.raises(ConfigError, match=r"start_positions has 'x\\n\\x1b\[2J'") as caught:
        config.build(TrialProtocol, facts, "protocol.yaml")
    assert str(caught.value).isprintable()


def test_limits_and_stopping_rules_are_checked():
    with pytest.raises(ConfigError, match=r"max_steps must be in 1 \.\. 1000, got 1001"):
        TrialProtocol(tasks=("marker",), methods=EXPERT, max_steps=1001)
    with pytest.raises(ConfigError, match="needs `pair`, the two methods that it compares"):
        StoppingRule(rule="sequential", pair=("nac", "nac"))


def test_the_hash_does_not_depend_on_the_order_of_keys():
    one = TrialProtocol(tasks=("marker",), methods={"a": "x", "b": "y"})
    other = TrialProtocol(tasks=("marker",), methods={"b": "y", "a": "x"})
    hashes = [content_hash(config.to_plain(p)) for p in (one, other, replace(one, seed=1))]
    assert hashes[0] == hashes[1] != hashes[2] and method_codes(one) == method_codes(other)


def test_a_block_has_every_method_once_in_an_order_that_depends_on_the_seed(tiny_bundle):
    made = make_protocol(
        tiny_bundle,
        methods=dict.fromkeys("abc", str(tiny_bundle)),
        start_positions={"marker": ("A1", "B3")},
    )
    slots = make_schedule(made)
    assert [slot.index for slot in slots] == list(range(2 * 12 * 3))
    blocks = [slots[i : i + 3] for i in range(0, len(slots), 3)]
    orders = []
    for block in blocks:
        assert len({(slot.task, slot.trial, slot.start_position) for slot in block}) == 1
        orders.append(tuple(slot.code for slot in block))
        assert sorted(orders[-1]) == sorted(method_codes(made).values())
    assert len(set(orders)) > 3
    assert [block[0].start_position for block in blocks if block[0].task == "marker"] == [
        "A1",
        "B3",
    ] * 6
    assert make_schedule(made) == slots and make_schedule(replace(made, seed=5)) != slots


def test_codes_do_not_reveal_the_methods(tiny_bundle):
    several = dict.fromkeys(("bin", "fast", "nac", "oat"), str(tiny_bundle))
    found = [
        method_codes(make_protocol(tiny_bundle, methods=several, seed=seed)) for seed in range(20)
    ]
    assert len({tuple(sorted(each, key=lambda name: each[name])) for each in found}) > 5
    assert all(len(set(each.values())) == 4 for each in found)
    with pytest.raises(ConfigError, match="13 methods are too many; at most 12"):
        make_schedule(make_protocol(tiny_bundle, methods={f"m{i}": "expert" for i in range(13)}))


def test_a_changed_protocol_is_rejected_with_the_first_difference(tmp_path, tiny_bundle):
    folder = tmp_path / "run"
    with begin(folder, tiny_bundle) as run:
        run.log_verdict(next(run.pending()), SUCCESS)
    with pytest.raises(
        TrialError, match=r"another protocol: protocol\.trials was 12, is 13; give"
    ):
        TrialRun.create_or_resume(folder, make_protocol(tiny_bundle, trials=13))
    content = json.loads((folder / "protocol.json").read_text())
    content["protocol"]["alpha"] = 0.1
    rehashed = {
        **content,
        "sha256": content_hash({k: v for k, v in content.items() if k != "sha256"}),
    }
    for tampered in (
        content,
        rehashed,
    ):  # the second has a matching hash, but the log has the old one
        (folder / "protocol.json").write_text(json.dumps(tampered))
        for opened in (TrialRun.read, TrialRun.resume):
            with pytest.raises(TrialError, match=r"protocol\.json was changed after it was froz"):
                opened(folder)


def test_a_changed_bundle_is_rejected(tmp_path, tiny_bundle):
    bundle, folder = tmp_path / "bundle", tmp_path / "run"
    copytree(tiny_bundle, bundle)
    begin(folder, bundle).__enter__().close()
    add_file(bundle, "note.txt", "trained longer")
    with pytest.raises(TrialError, match=r"another protocol: bundles\.nac was \w{64}, is \w{64}"):
        TrialRun.create_or_resume(folder, make_protocol(bundle))


def test_the_content_of_the_randomization_is_frozen_not_its_name(tmp_path, tiny_bundle):
    path = tmp_path / "mine.yaml"
    path.write_text("light: 0.2\n")
    conditions = Conditions(randomization=str(path))
    with begin(tmp_path / "run", tiny_bundle, conditions=conditions):
        pass
    stored = json.loads((tmp_path / "run" / "protocol.json").read_text())
    assert stored["randomization"]["light"] == 0.2
    path.write_text("light: 0.3\n")
    with pytest.raises(TrialError, match=r"randomization\.light was 0\.2, is 0\.3"):
        begin(tmp_path / "run", tiny_bundle, conditions=conditions)
    with pytest.raises(ConfigError, match=r"randomization 'varied' exists on the twin alone"):
        begin(
            tmp_path / "arm",
            tiny_bundle,
            robot="vx300s",
            conditions=Conditions(randomization="varied"),
        )
    assert not (tmp_path / "arm").exists()


def test_an_impossible_protocol_is_rejected_before_anything_is_written(tmp_path, tiny_bundle):
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"did not learn juggle; it learned: .*weighing"):
        TrialRun.create_or_resume(
            folder,
            make_protocol(tiny_bundle, tasks=("juggle",), criteria={"juggle": TABLE_7["marker"]}),
        )
    with pytest.raises(ConfigError, match="method 'expert': experts drive the twin alone"):
        TrialRun.create_or_resume(
            folder, make_protocol(tiny_bundle, methods=EXPERT, robot="vx300s")
        )
    with pytest.raises(BundleError, match="no bundle at nowhere"):
        TrialRun.create_or_resume(folder, make_protocol(tiny_bundle, methods={"nac": "nowhere"}))
    assert not folder.exists()
    folder.mkdir()
    (folder / "protocol.json.partial").write_text("{")  # a crash during writing
    begin(folder, tiny_bundle).__enter__().close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(TrialError, match="has files of something else"):
        TrialRun.create_or_resume(tmp_path / "other", make_protocol(tiny_bundle))
    with pytest.raises(TrialError, match=r"has no run, protocol\.json is missing"):
        TrialRun.read(tmp_path / "other")


def test_a_resumed_run_continues_after_the_last_verdict(tmp_path, tiny_bundle):
    with begin(tmp_path / "run", tiny_bundle) as run:
        for slot in list(run.slots)[:5]:
            run.log_verdict(slot, SUCCESS)
    with begin(tmp_path / "run", tiny_bundle) as run:
        assert next(run.pending()) == run.slots[5]
        with pytest.raises(TrialError, match="has a verdict already"):
            run.log_verdict(run.slots[0], SUCCESS)
        log_verdicts(run, lambda task, trial, method: True)
    again = TrialRun.read(tmp_path / "run")
    assert [record.slot for record in again.records] == list(range(48))
    assert [e["entry"] for e in read_log(tmp_path / "run/log.jsonl")].count("resume") == 1


def test_an_invalid_trial_is_logged_counted_and_repeated(tmp_path, tiny_bundle):
    with begin(tmp_path / "run", tiny_bundle) as run:
        slot = next(run.pending())
        with pytest.raises(TrialError, match="an invalid trial needs a reason"):
            run.log_verdict(slot, Verdict(outcome="invalid"))
        run.log_verdict(slot, Verdict(outcome="invalid", reason="the cable was caught"))
        assert (
            next(run.pending()) == slot
            and run.valid_record(slot.task, slot.trial, slot.code) is None
        )
        assert (
            run.log_verdict(slot, Verdict(outcome="aborted", reason="the arm shook")).attempt == 1
        )
        assert next(run.pending()) == run.slots[1]
        assert [r.outcome for r in run.valid_records(slot.task, slot.code)] == ["aborted"]
        with pytest.raises(TrialError, match="rubric 1: weighing has 0 steps"):
            run.log_verdict(run.slots[1], replace(SUCCESS, rubric=1))


def test_an_unblinded_run_accepts_no_more_verdicts(tmp_path, tiny_bundle):
    with begin(tmp_path / "run", tiny_bundle) as run:
        assert sorted(run.unblind().values()) == ["fast", "nac"]
        with pytest.raises(TrialError, match="is unblinded and complete"):
            run.log_verdict(run.slots[0], SUCCESS)
    assert TrialRun.read(tmp_path / "run").unblinded
    with pytest.raises(TrialError, match="was opened to be read"):
        TrialRun.read(tmp_path / "run")._write({})


def test_the_sequential_rule_ends_a_task_as_soon_as_its_test_rejects(tmp_path, tiny_bundle):
    rule = StoppingRule(rule="sequential", pair=("nac", "fast"))
    with begin(tmp_path / "run", tiny_bundle, stopping=rule) as run:
        log_verdicts(run, lambda task, trial, method: method == "nac" or task == "marker")
        # 2^9 / 10 = 51 is the first wealth above 2 tasks / .05 = 40
        assert run.stopped_after("weighing") == 9 and run.stopped_after("marker") is None
        tasks = [record.task for record in run.records]
        assert tasks.count("weighing") == 18 and tasks.count("marker") == 24


def test_verdicts_beyond_the_stop_do_not_count(tmp_path, tiny_bundle):
    rule = StoppingRule(rule="sequential", pair=("nac", "fast"))
    with begin(tmp_path / "run", tiny_bundle, stopping=rule) as run:
        late = [slot for slot in run.slots if slot.trial == 11]
        for slot in late:  # a worker was fast
            run.log_verdict(slot, SUCCESS)
        log_verdicts(run, lambda task, trial, method: method == "nac")
        for task, code in (("weighing", run.codes["nac"]), ("marker", run.codes["fast"])):
            assert len(run.valid_records(task, code)) == 9
            assert run.valid_record(task, 11, code) is None


def test_a_last_line_that_is_cut_anywhere_is_removed_and_nothing_else(tmp_path):
    path = tmp_path / "log.jsonl"
    with closing(TrialLog(path)) as log:
        for number in range(3):
            log.append({"entry": "trial", "slot": number})
    whole = path.read_bytes()
    kept = whole[: whole.rfind(b"\n", 0, -1) + 1]
    for cut in range(len(kept), len(whole)):
        path.write_bytes(whole[:cut])
        assert len(read_log(path)) == 2
        with closing(TrialLog(path)) as log:
            assert log.torn == cut - len(kept) and len(log.entries) == 2
            log.append({"entry": "trial", "slot": 2})
        assert path.read_bytes() == whole


def test_the_error_names_a_damaged_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"entry": "begin"}\n{"entry": \n{"entry": "trial"}\n')
    with pytest.raises(TrialError, match=r"line 2 of .*log\.jsonl is damaged"):
        read_log(path)


def test_a_log_has_one_writer_at_a_time(tmp_path):
    path = tmp_path / "log.jsonl"
    with closing(TrialLog(path)), pytest.raises(TrialError, match="is being written by another"):
        TrialLog(path)
    TrialLog(path).close()


def test_a_full_disk_leaves_the_log_unchanged_and_the_trial_pending(tmp_path, tiny_bundle):
    with begin(tmp_path / "run", tiny_bundle) as run:
        path, slot = tmp_path / "run/log.jsonl", next(run.pending())
        before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
        try:
            with pytest.raises(TrialError, match="this trial has no verdict yet; free some space"):
                run.log_verdict(slot, SUCCESS)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before and next(run.pending()) == slot
        run.log_verdict(slot, SUCCESS)
    assert len(TrialRun.read(tmp_path / "run").records) == 1


def test_every_task_of_the_twin_has_criteria():
    from nac_ros.simulation.tasks import list_tasks

    assert set(list_tasks()) <= set(TABLE_7)


def test_the_protocol_in_the_documentation_can_be_loaded(tmp_path):
    text = (Path(__file__).resolve().parent.parent / "docs/trials.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "protocol.yaml").write_text(block)
    found = load_protocol(tmp_path / "protocol.yaml")
    assert found.stopping.pair == ("nac", "expert") and found.start_positions["marker"][-1] == "C1"
    assert found.criteria["weighing"].failure == "the display is off at the end"
