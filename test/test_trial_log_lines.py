"""Lines that a run did not write into its log are named in the error, and nothing is changed."""

import json
from contextlib import closing
from shutil import copytree

import pytest
from fake_trial_runs import make_protocol

from nac_ros.core.errors import ConfigError, TrialError
from nac_ros.trials.run import TrialRun, Verdict
from nac_ros.trials.trial_log import TrialLog, read_log

SUCCESS = Verdict(outcome="success", reason="it is in place")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_bundle):
    """A run with an invalid trial, its repetition, one more trial, a restart, and unblinding."""
    made = tmp_path_factory.mktemp("runs") / "run"
    with closing(TrialRun.create_or_resume(made, make_protocol(tiny_bundle))) as run:
        run.log_verdict(run.slots[0], Verdict(outcome="invalid", reason="the cable was caught"))
        run.log_verdict(run.slots[0], SUCCESS)
        run.log_verdict(run.slots[1], SUCCESS)
    with closing(TrialRun.resume(made)) as run:
        run.unblind()
    return made


@pytest.fixture
def edited(folder, tmp_path):
    """Copies the run with changed log lines; the function maps lines to lines."""

    def edit(change):
        copy = tmp_path / "copy"
        copytree(folder, copy)
        lines = (folder / "log.jsonl").read_bytes().splitlines()
        (copy / "log.jsonl").write_bytes(b"".join(line + b"\n" for line in change(lines)))
        return copy

    return edit


def changed(number, **values):
    """Changes keys of the entry on one line; None removes a key."""

    def change(lines):
        entry = {**json.loads(lines[number - 1]), **values}
        entry = {key: value for key, value in entry.items() if value is not None}
        return [*lines[: number - 1], json.dumps(entry).encode(), *lines[number:]]

    return change


def put(number, line):
    return lambda lines: [*lines[: number - 1], line, *lines[number:]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda lines: [*lines[:4], lines[3], *lines[4:]],
            "line 5 of .*slot 1 has a verdict already",
        ),
        (lambda lines: [*lines[:2], *lines[1:]], "line 3 of .*attempt 0 of slot 0 does not foll"),
        (lambda lines: [lines[0], *lines], "line 2 of .*`begin` is the first line, and no other"),
        (lambda lines: lines[1:], "line 1 of .*`begin` is the first line, and no other"),
        (
            lambda lines: [*lines[:3], lines[5], lines[3]],
            "line 5 of .*after the run was unblinded",
        ),
        (put(3, b"5"), r"line 3 of .*damaged \(5 is no entry\)"),
        (put(3, b"[" * 100_000), "line 3 of .*damaged .*nested too deeply"),
        (put(3, b"null"), r"line 3 of .*damaged \(None is no entry\)"),
        (put(3, b"\0" * 48), "line 3 of .*damaged .*Expecting value"),
        (put(3, b"{}\xff"), "line 3 of .*damaged .*utf-8"),
        (changed(3, entry="trail"), "line 3 of .*entry 'trail' is none of begin, resume, start"),
        (changed(3, code="zebra"), "line 3 of .*code of slot 0 is '[a-z]+', not 'zebra'"),
        (changed(3, task="chess"), "line 3 of .*task of slot 0 is 'weighing', not 'chess'"),
        (changed(3, trial=9), "line 3 of .*trial of slot 0 is 0, not 9"),
        (changed(3, slot=77), "line 3 of .*slot 77 is none of the 48 planned"),
        (changed(3, slot=None), "line 3 of .*slot None is none of the 48 plan"),
        (changed(3, attempt="x"), "line 3 of .*attempt 'x' of slot 0"),
        (changed(3, outcome="maybe"), r"line 3 of .*trial\.outcome: 'maybe' is not one of"),
        (changed(3, time=None), "line 3 of .*trial: key 'time' is missing"),
        (changed(3, rubric=4), "line 3 of .*rubric 4: weighing has 0 steps"),
        (changed(3, seconds=float("nan")), "line 3 of .*the value NaN is not finite"),
        (
            changed(3, seconds=1e308),
            r"line 3 of .*seconds must be in 0 \.\. 1e\+09 s, got 1e\+308",
        ),
        (changed(3, attempt=10**400), "line 3 of .*a whole number of 401 digits"),
        (changed(3, slot="x" * 10_000), r"line 3 of .*slot 'xxx.*\.\.\..*xxx' is none"),
        (put(3, b'{"seconds": 1e999}'), "line 3 of .*1e999 is not finite"),
        (put(3, b'{"slot": ' + b"9" * 5000 + b"}"), "line 3 of .*damaged .*5000 digits"),
        (put(3, b'{"a": ' * 70 + b"1" + b"}" * 70), "line 3 of .*more than 64 levels"),
        (put(3, b'{"slot": 0, "slot": 1}'), "line 3 of .*key 'slot' occurs twice"),
        (put(3, b'{"a": "' + b"x" * (1 << 20) + b'"}'), "line 3 of .*bytes are more than 1048576"),
        (
            changed(5, protocol="0" * 64),
            "or the log next to it is of another run: its SHA-256 was 0",
        ),
    ],
)
def test_the_error_names_a_line_that_the_run_did_not_write_and_nothing_is_changed(
    edited, change, words
):
    copy = edited(change)
    before = (copy / "log.jsonl").read_bytes()
    for opened in (TrialRun.read, TrialRun.resume):
        with pytest.raises(TrialError, match=words):
            opened(copy)
    assert (copy / "log.jsonl").read_bytes() == before


def test_a_log_that_was_refused_is_not_kept_from_others(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"5\n")
    with pytest.raises(TrialError, match="is damaged") as caught:
        TrialLog(path)
    path.write_bytes(b"")  # while the error, and so its traceback, is still there
    TrialLog(path).close()
    assert caught.value


def test_a_log_that_cannot_be_opened_is_one_sentence(tmp_path):
    path = tmp_path / "log.jsonl"
    path.mkdir()
    for opened in (TrialLog, read_log):
        with pytest.raises(TrialError, match=r"log\.jsonl cannot be opened, Is a directory"):
            opened(path)


def test_values_that_cannot_be_read_back_are_not_written(tmp_path, tiny_bundle):
    with closing(TrialRun.create_or_resume(tmp_path / "run", make_protocol(tiny_bundle))) as run:
        with pytest.raises(TrialError, match="takes finite numbers only"):
            run.log_verdict(run.slots[0], Verdict(outcome="failure", sparc=float("nan")))
        with pytest.raises(ConfigError, match=r"trial: seconds must be in 0 .. 1e\+09 s"):
            run.log_verdict(run.slots[0], Verdict(outcome="failure", seconds=1e300))
        with pytest.raises(TrialError, match=r"takes no such entry, .*more than 1048576; shorten"):
            run.log_verdict(run.slots[0], Verdict(outcome="failure", note="x" * (1 << 20)))
        run.log_verdict(run.slots[0], SUCCESS)
    assert len(TrialRun.read(tmp_path / "run").records) == 1


def test_attempts_rise_also_where_one_was_judged_without_being_begun(tmp_path, tiny_bundle):
    invalid = Verdict(outcome="invalid", reason="the cable was caught")
    with closing(TrialRun.create_or_resume(tmp_path / "run", make_protocol(tiny_bundle))) as run:
        for _ in range(3):
            run.log_start(run.slots[0])
        found = [run.log_verdict(run.slots[0], verdict) for verdict in (invalid, invalid, SUCCESS)]
    assert [record.attempt for record in found] == [2, 3, 4]
    assert TrialRun.read(tmp_path / "run").records == found
