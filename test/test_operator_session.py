"""A sitting: each order counts once and for its trial, and nothing that was judged is lost."""

import json
import os
import shutil
from dataclasses import replace

import pytest
from fake_trial_robot import AtOnce, Later, StandIn

from nac_ros.core.errors import ConfigError, TrialError
from nac_ros.trials import operator_session as sessions
from nac_ros.trials.operator_session import OperatorSession
from nac_ros.trials.protocol import Limits, Protocol
from nac_ros.trials.run import TrialRun
from nac_ros.trials.session_state import TrialId
from nac_ros.trials.trial_log import TrialLog
from nac_ros.trials.trial_robot import Blocker

TASKS = ("marker", "weighing")
RUBRIC = {"marker": ("grasped", "lifted")}


@pytest.fixture
def methods(tiny_bundle, tmp_path):
    """Two methods that are the same, so that only codes tell them apart."""
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy")
    return {"one": str(tiny_bundle), "two": str(copy)}


@pytest.fixture
def protocol(methods):
    facts = {"tasks": TASKS, "methods": methods, "trials": 2, "rubric": RUBRIC}
    return Protocol(**facts, limits=Limits(steps=100))


@pytest.fixture
def sit(protocol, tmp_path):
    """Opens the run anew with another sitting; the one before is ended as by a crash."""
    opened = []

    def sit(worker=None, arm=None):
        for one in opened:
            one.run.close()
        run = TrialRun.begin(tmp_path / "run", protocol)
        opened.append(
            OperatorSession(run, arm or StandIn(), worker or AtOnce(), 30.0, operator="Ada")
        )
        return opened[-1]

    yield sit
    for one in opened:
        one.run.close()


def turn(session):
    return session.view().turn


def play(session, outcome="success"):
    session.start(turn(session))
    session.propose(turn(session), outcome)
    if outcome == "invalid":
        session.tell(turn(session), reason="the cable was caught")
    session.write(turn(session))
    return session.run.records[-1]


def log_of(session):
    lines = (session.run.folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_trial_goes_from_a_set_up_scene_to_a_verdict_on_disk(sit):
    session = sit()
    view = session.view()
    assert (view.phase, view.judged, view.trials) == ("reset", 0, 8)
    assert view.task == "marker" and view.success.startswith("the marker lies")
    assert view.prompt and view.code in session.run.codes.values() and view.may_start
    session.start(view.turn)
    assert session.view().phase == "running"
    session.arm.steps = 60
    session.propose(view.turn, "success")
    assert session.view().phase == "judging" and session.view().steps == 60
    session.reach(view.turn, 2)
    session.tell(view.turn, note="a bit late ")
    session.write(view.turn)
    (record,) = session.run.records
    assert (record.outcome, record.steps, record.rubric) == ("success", 60, 2)
    assert (record.seconds, record.clips, record.plan_ms) == (2.0, 3, (40.0, 42.0))
    assert (record.jumps, record.jerk, record.sparc) == ((0.01,), 0.1, -2.5)
    assert (record.note, record.operator) == ("a bit late", "Ada")
    assert record.recording.startswith("/elsewhere/recordings/") and record.attempt == 0
    names = [name for name in session.arm.names() if name != "prepare"]
    assert names == ["start", "stop", "keep"] and session.arm.asked[3] == ("keep", "success")
    assert session.view().phase == "reset" and session.view().turn.slot == 1
    assert session.view().note == "" and session.view().reached is None


def test_the_judge_beside_is_told_only_after_the_verdict(sit):
    session = sit()
    session.start(turn(session))
    assert session.view().judge == ""
    session.propose(turn(session), "failure")
    assert session.view().judge == ""
    session.write(turn(session))
    assert "beside the bin" in session.view().judge


def test_the_recording_names_code_trial_and_attempt_but_no_method(sit, methods):
    session = sit()
    code = session.view().code
    session.start(turn(session))
    assert session.arm.facts["operator"] == "Ada"
    note = session.arm.facts["note"]
    assert (
        note.startswith(f"marker, trial 0, {code}, attempt 0") and session.run.sha256[:12] in note
    )
    assert not any(path in note for path in methods.values())


def test_a_second_click_judges_neither_this_trial_twice_nor_the_next(sit):
    session = sit()
    first = turn(session)
    session.start(first)
    with pytest.raises(TrialError, match="no time for that"):
        session.start(first)
    session.propose(first, "success")
    session.propose(first, "success")
    session.write(first)
    for order in (session.write, session.start, lambda at: session.propose(at, "success")):
        with pytest.raises(TrialError, match="meant for another trial"):
            order(first)
    assert len(session.run.records) == 1 and session.view().phase == "reset"


def test_an_order_waits_while_something_is_being_done(sit):
    worker = Later()
    session = sit(worker)
    assert session.view().busy == "loading the method" and not session.view().may_start
    with pytest.raises(TrialError, match="no time for that: wanted reset, it is preparing"):
        session.start(turn(session))
    worker.work()
    session.start(turn(session))
    with pytest.raises(TrialError, match="wait: starting"):
        session.start(turn(session))
    worker.work()
    assert session.view().phase == "running"


def test_an_invalid_trial_needs_a_reason_and_is_played_again(sit):
    session = sit()
    first = session.view()
    session.start(first.turn)
    session.propose(first.turn, "invalid")
    with pytest.raises(TrialError, match="needs a reason"):
        session.write(first.turn)
    session.tell(first.turn, reason="the cable was caught")
    session.write(first.turn)
    again = session.view()
    assert again.turn == TrialId(first.turn.slot, 1) and again.code == first.code
    assert again.judged == 0 and session.run.records[0].reason == "the cable was caught"
    with pytest.raises(TrialError, match="another trial"):
        session.start(first.turn)
    assert play(session).attempt == 1


def test_a_verdict_is_what_was_said_last(sit):
    session = sit()
    session.start(turn(session))
    session.propose(turn(session), "success")
    session.propose(turn(session), "failure")
    session.write(turn(session))
    assert session.run.records[0].outcome == "failure"
    session.start(turn(session))
    with pytest.raises(TrialError, match="wanted judging, it is running"):
        session.write(turn(session))
    with pytest.raises(TrialError, match="'fine' is no outcome"):
        session.propose(turn(session), "fine")


def test_steps_that_run_out_end_a_trial_and_a_person_judges_it(sit):
    session = sit()
    session.start(turn(session))
    session.arm.steps = 99
    session.tick()
    assert session.view().phase == "running"
    session.arm.steps = 100
    session.tick()
    view = session.view()
    assert (view.phase, view.proposed, view.ended) == ("judging", "", "the steps ran out")
    with pytest.raises(TrialError, match="say first whether"):
        session.write(view.turn)


def test_abort_stops_the_arm_first_and_is_written_down_as_aborted(sit):
    session = sit()
    session.start(turn(session))
    session.abort()
    assert session.arm.names()[-2:] == ["abort", "stop"]
    assert session.view().proposed == "aborted"
    with pytest.raises(TrialError, match="aborted, or invalid"):
        session.propose(turn(session), "success")
    session.write(turn(session))
    assert session.run.records[0].outcome == "aborted" and session.view().judged == 1


@pytest.mark.parametrize("phase", ["preparing", "reset", "judging"])
def test_abort_works_whatever_else_goes_on_and_judges_nothing(sit, phase):
    worker = Later()
    session = sit(worker)
    if phase != "preparing":
        worker.work()
    if phase == "judging":
        session.start(turn(session)), worker.work()
        session.propose(turn(session), "success"), worker.work()
    session.abort()
    assert session.arm.names()[-1] == "abort" and session.run.records == []
    worker.work()
    assert session.view().proposed == ("success" if phase == "judging" else "")
    if phase == "reset":
        session.start(turn(session)), worker.work()
        assert session.view().phase == "running"


def test_an_abort_while_a_trial_is_being_started_ends_it(sit):
    worker = Later()
    session = sit(worker)
    worker.work()
    session.start(turn(session))
    session.abort()
    worker.work()
    assert (session.view().phase, session.view().proposed) == ("judging", "aborted")
    assert session.arm.names()[-1] == "stop"


def test_what_is_missing_keeps_a_trial_from_being_begun(sit):
    session = sit()
    session.arm.lacks = [Blocker("camera scene: no picture for 2 s", "look at its plug")]
    assert not session.view().may_start
    with pytest.raises(TrialError, match="no picture for 2 s: look at its plug"):
        session.start(turn(session))
    assert "start" not in session.arm.names() and len(log_of(session)) == 1
    session.arm.lacks = []
    assert play(session).outcome == "success"


def test_a_start_that_fails_moves_nothing_and_may_be_tried_again(sit):
    session = sit()
    session.arm.refuses["start"] = "recorder/start: wrist/image_raw: nothing came yet"
    session.start(turn(session))
    view = session.view()
    assert view.phase == "reset" and "wrist/image_raw" in view.trouble
    session.arm.refuses.clear()
    assert play(session).attempt == 1 and session.view().trouble == ""


def test_a_method_that_cannot_be_loaded_is_told_without_its_name(sit, methods):
    arm = StandIn()
    arm.refuses["prepare"] = f"no bundle at {methods['one']} or {methods['two']}"
    session = sit(arm=arm)
    view = session.view()
    assert view.phase == "preparing" and "no bundle at the bundle of" in view.trouble
    assert not any(path in view.trouble for path in methods.values())
    arm.refuses.clear()
    session.retry()
    assert session.view().phase == "reset"


def test_an_arm_that_does_not_stop_is_told_and_the_trial_can_be_judged(sit):
    session = sit()
    session.arm.refuses["stop"] = "service policy/stop was not answered within 5 s"
    session.start(turn(session))
    session.propose(turn(session), "failure")
    assert session.view().phase == "judging" and "policy/stop" in session.view().trouble


def test_a_recording_that_cannot_be_completed_loses_no_verdict(sit):
    session = sit()
    session.arm.refuses["keep"] = "the disk took nothing for 60 s"
    record = play(session)
    assert record.recording == "" and "no recording: the disk took nothing" in record.note


def test_a_crash_in_a_trial_goes_on_with_the_same_one_and_counts_the_attempt(sit):
    session = sit()
    play(session)
    session.start(turn(session))
    before = session.view()
    session = sit()
    again = session.view()
    assert again.judged == 1 and (again.task, again.code) == (before.task, before.code)
    assert again.turn == TrialId(before.turn.slot, 1)
    assert play(session).attempt == 1
    starts = [entry for entry in log_of(session) if entry["entry"] == "start"]
    assert [(entry["slot"], entry["attempt"]) for entry in starts] == [(0, 0), (1, 0), (1, 1)]


def test_a_crash_between_two_trials_repeats_none(sit):
    codes = []
    for _ in range(8):
        session = sit()
        codes.append(play(session).slot)
    assert codes == list(range(8)) and session.view().phase == "done"


def test_a_full_disk_keeps_the_verdict_with_the_operator_until_there_is_room(sit, monkeypatch):
    session = sit()
    session.start(turn(session))
    session.propose(turn(session), "success")

    def full(self, entry):
        raise TrialError("log.jsonl cannot be written, No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(TrialLog, "append", full)
        session.write(turn(session))
        view = session.view()
        assert view.phase == "judging" and view.proposed == "success"
        assert "No space left" in view.trouble and session.run.records == []
    session.write(turn(session))
    assert session.run.records[0].outcome == "success"
    assert session.arm.names().count("keep") == 1


def test_on_a_full_disk_nothing_is_started(sit, monkeypatch):
    session = sit()
    with monkeypatch.context() as patch:
        patch.setattr(sessions, "free_bytes", lambda folder: 1000)
        assert [one.what for one in session.view().missing] == ["the disk of the log is full"]
        with pytest.raises(TrialError, match="disk of the log is full"):
            session.start(turn(session))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
        session.start(turn(session))
        assert session.view().phase == "reset" and "full" in session.view().trouble
    assert "start" not in session.arm.names()


def test_a_place_s_first_scene_becomes_its_reference_and_the_next_is_compared(sit):
    session = sit()
    assert not session.view().has_reference and session.view().mismatch is None
    play(session)  # the next one has the same place: another method, the same block
    session.tick()
    assert session.view().has_reference and session.view().mismatch < 0.01
    session.arm.image = session.arm.image[::-1].copy()
    session.scene.turn_to(next(session.run.pending()))
    session.tick()
    assert session.view().mismatch > session.view().max_mismatch and session.view().may_start
    session.keep_reference(turn(session))
    session.tick()
    assert session.view().mismatch < 0.01


def test_the_guard_is_reset_by_a_person_and_not_while_a_trial_runs(sit):
    session = sit()
    session.release()
    assert session.arm.names()[-1] == "release"
    session.start(turn(session))
    with pytest.raises(TrialError, match="a trial runs"):
        session.release()


def test_the_end_of_a_run_gives_codes_their_names_and_writes_the_report(sit):
    session = sit()
    with pytest.raises(TrialError, match="to be judged yet"):
        session.unblind()
    for n in range(8):
        assert session.view().names == ()
        play(session, "success" if n % 2 else "failure")
    assert session.view().phase == "done" and session.view().judged == 8
    session.unblind()
    view = session.view()
    assert dict(view.names).keys() == set(session.run.codes.values())
    assert view.report.endswith("report.html")


def test_an_expert_is_no_method_for_a_person_s_trials(sit, protocol, tmp_path):
    run = TrialRun.begin(tmp_path / "other", replace(protocol, methods={"expert": "expert"}))
    with pytest.raises(ConfigError, match="experts play by themselves"):
        OperatorSession(run, StandIn(), AtOnce(), 30.0)
    run.close()


def test_rubric_steps_are_those_of_the_task(sit):
    session = sit()
    session.start(turn(session))
    with pytest.raises(TrialError, match="marker has 2 rubric steps"):
        session.reach(turn(session), 3)
